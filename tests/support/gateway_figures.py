"""What a fault does to the requests of the gateway, in figures."""

import time
from collections import Counter
from contextlib import nullcontext
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families

from gateway import Gateway, System
from gateway_faults import Fault
from open_load import Sample, percentile

NOTICED_SECONDS = 1.0  # until then, requests may be slow
KINDS = ("first", "retry", "hedge")


@dataclass(frozen=True)
class Figures:
    """Of all requests that were due while the fault was there, and a moment after."""

    seconds: float
    requests: int
    failed: Counter[str]
    without_retry_after: int
    p50_ms: float
    p99_ms: float  # of those that were due a second after the fault had begun
    first_second_p99_ms: float
    attempts: Counter[str]

    @property
    def retried(self) -> float:
        """Retries and hedges as a share of the calls."""
        return (self.attempts["retry"] + self.attempts["hedge"]) / max(1, self.attempts["first"])

    def row(self) -> str:
        failed = ", ".join(f"{count} of {status}" for status, count in sorted(self.failed.items())) or "0"
        shares = [f"{self.attempts[kind] / max(1, self.attempts['first']):.1%}" for kind in ("retry", "hedge")]
        cells = [
            str(self.requests),
            failed,
            f"{self.p50_ms:.0f}",
            f"{self.p99_ms:.0f}",
            f"{self.first_second_p99_ms:.0f}",
        ]
        return " | ".join([*cells, *shares])


def measure(system: System, fault: Fault | None, seconds: float) -> dict[str, Figures]:
    """Load the system for so many seconds with this fault; the figures of each gateway by its way."""
    before, began = [attempts(gateway) for gateway in system.gateways], time.monotonic()
    with nullcontext() if fault is None else fault(system):
        time.sleep(max(0.0, began + seconds - time.monotonic()))
    ended = time.monotonic()
    found: dict[str, Figures] = {}
    for gateway, counted in zip(system.gateways, before, strict=True):
        samples = system.loads[gateway.way].samples(began, ended)
        now = attempts(gateway)
        # Counters of a gateway that was restarted begin anew.
        made = Counter({kind: now[kind] - counted[kind] * (now[kind] >= counted[kind]) for kind in KINDS})
        found[gateway.way] = figures(samples, began, ended, made)
    return found


def figures(samples: list[Sample], began: float, ended: float, made: Counter[str]) -> Figures:
    """Sum the samples up."""
    later = [sample for sample in samples if sample.due >= began + NOTICED_SECONDS]
    first = [sample for sample in samples if sample.due < began + NOTICED_SECONDS]
    return Figures(
        seconds=ended - began,
        requests=len(samples),
        failed=Counter(sample.error or str(sample.status) for sample in samples if sample.failed),
        without_retry_after=sum(sample.status == 503 and not sample.retry_after for sample in samples),
        p50_ms=percentile(later, 50),
        p99_ms=percentile(later, 99),
        first_second_p99_ms=percentile(first, 99),
        attempts=made,
    )


def attempts(gateway: Gateway) -> Counter[str]:
    """How often a gateway has sent something to its backends, by kind."""
    found: Counter[str] = Counter()
    for family in text_string_to_metric_families(gateway.service.admin.get("/metrics").text):
        for sample in family.samples:
            if sample.name == "dependency_attempts_total":
                found[sample.labels["kind"]] += int(sample.value)
    return found
