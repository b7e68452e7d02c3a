"""The metrics of all workers as those of one service.

Counters and histograms are sums over all workers, those that have ended included. So a counter never goes backwards.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from prometheus_client.core import Exemplar, Metric
from prometheus_client.samples import Sample

from .snapshot import Family, Snapshot, decode_snapshot

LABEL = "worker"
SUMMED_TYPES = frozenset({"counter", "histogram", "summary"})
# The metrics of a process: their sum would have no meaning.
PER_PROCESS = ("process_", "python_gc_", "event_loop_lag_seconds")
# The gauges of the chassis. Others have the label `worker`.
GAUGES = {
    "build_info": "max",
    "python_info": "max",
    "service_ready": "max",
    "readiness_check_passed": "min",
    "http_server_active_requests": "sum",
    "http_server_max_requests": "sum",
    "handler_threads": "sum",
    "handler_threads_max": "sum",
    "background_tasks": "sum",
    "periodic_task_last_success_timestamp_seconds": "max",
    "db_client_connection_count": "sum",
    "db_client_connection_max": "sum",
    "db_client_connection_pending_requests": "sum",
    "outbox_messages": "max",
    "outbox_oldest_message_age_seconds": "max",
    "dependency_calls_in_progress": "sum",
    "dependency_calls_waiting": "sum",
    "dependency_max_calls": "sum",
    "messaging_consumer_active_messages": "sum",
    "rpc_server_active_calls": "sum",
    "rpc_server_max_calls": "sum",
    "auth_keys": "min",
    "auth_keys_age_seconds": "max",
    "injected_fault_rules": "max",
    "workers": "sum",
    "workers_ready": "sum",
}

SampleKey = tuple[str, tuple[tuple[str, str], ...]]


class Value:
    """The merged value of one sample."""

    __slots__ = ("exemplar", "number")

    def __init__(self, number: float, exemplar: Any) -> None:
        self.number: float = number
        self.exemplar: Any = exemplar


class MergedFamily(NamedTuple):
    """A metric with its merged samples, in the order in which they were seen first."""

    documentation: str
    type: str
    unit: str
    values: dict[SampleKey, Value]

    def copy(self) -> "MergedFamily":
        """A copy whose values can be changed."""
        values = {key: Value(value.number, value.exemplar) for key, value in self.values.items()}
        return MergedFamily(self.documentation, self.type, self.unit, values)


Families = dict[str, MergedFamily]


class MergedMetrics:
    """Merges the metrics of the workers that run, and of those that have ended."""

    def __init__(self) -> None:
        self._ended: Families = {}

    def retire(self, worker: str, snapshot: bytes) -> None:
        """Keep the counters and histograms of a worker that has ended, from its last snapshot."""
        if snapshot:
            _add(self._ended, worker, decode_snapshot(snapshot), is_kept=True)

    def collect(self, running: Iterable[tuple[str, bytes]]) -> list[Metric]:
        """The metrics of all; `running` are the last snapshots of the workers that run, the newest worker last."""
        merged = {name: family.copy() for name, family in self._ended.items()}
        for worker, snapshot in running:
            _add(merged, worker, decode_snapshot(snapshot))
        return [_metric(name, family) for name, family in sorted(merged.items())]


def _add(merged: Families, worker: str, snapshot: Snapshot, *, is_kept: bool = False) -> None:
    for family in snapshot.families:
        if is_kept and family.type not in SUMMED_TYPES:
            continue
        how = rule_of(family, snapshot.merges)
        target = merged.get(family.name)
        if target is None:
            target = merged[family.name] = MergedFamily(family.documentation, family.type, family.unit, {})
        values = target.values
        for name, labels, number, exemplar in family.samples:
            combine = COMBINE[how]
            if how == LABEL:
                # A label of the owner with this name distinguishes other things: then the values are added up.
                combine = add if LABEL in labels or family.type in SUMMED_TYPES else newest
                labels.setdefault(LABEL, worker)
            if name.endswith("_created"):
                combine = min
            key = (name, tuple(sorted(labels.items())))
            value = values.get(key)
            if value is None:
                values[key] = Value(number, exemplar)
                continue
            value.number = combine(value.number, number)
            if exemplar is not None and (value.exemplar is None or (exemplar[2] or 0.0) >= (value.exemplar[2] or 0.0)):
                value.exemplar = exemplar


def rule_of(family: Family, merges: Mapping[str, str]) -> str:
    """How the values of several workers become one: `sum`, `max`, `min`, or `worker` for a value of each."""
    name = family.name
    if name.startswith(PER_PROCESS):
        return LABEL
    if family.type in SUMMED_TYPES or family.type == "gaugehistogram":
        return "sum"
    if family.type == "info":
        return "max"
    return merges.get(name) or GAUGES.get(name, LABEL)


def add(before: float, number: float) -> float:
    return before + number


def newest(_before: float, number: float) -> float:
    return number


COMBINE: dict[str, Callable[[float, float], float]] = {"sum": add, "max": max, "min": min, LABEL: newest}


def _metric(name: str, family: MergedFamily) -> Metric:
    metric = Metric(name, family.documentation, family.type, family.unit)
    metric.samples = [
        Sample(sample, dict(labels), value.number, None, _exemplar(value.exemplar))
        for (sample, labels), value in family.values.items()
    ]
    return metric


def _exemplar(facts: Any) -> Exemplar | None:
    return None if facts is None else Exemplar(*facts)
