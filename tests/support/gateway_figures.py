"""Figures of the requests of a gateway during a fault."""

import time
from collections import Counter
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families

from gateway import Gateway, System
from gateway_faults import Fault
from open_load import Sample, percentile

NOTICED_SECONDS = 1.0  # until then, requests may be slow
AFTER_SECONDS = 1.0
COUNTED = {
    "dependency_attempts_total": "",
    "dependency_retries_denied_total": "denied:",
    "dependency_calls_rejected_total": "rejected:",
    "dependency_ejections_total": "ejected:",
    "dependency_breaker_opened_total": "breaker opened",
}


@dataclass(frozen=True)
class Figures:
    """Of all requests that were due while the fault was there, and a moment after."""

    seconds: float
    requests: int
    failed: Counter[str]
    without_retry_after: int
    p50_ms: float
    p99_ms: float  # of those that were due from a second after its begin until its end
    first_second_p99_ms: float
    counted: Counter[str]

    @property
    def retried(self) -> float:
        """Retries and hedges as a share of the calls."""
        return (self.counted["retry"] + self.counted["hedge"]) / max(1, self.counted["first"])


def measure(system: System, fault: Fault, seconds: float) -> dict[str, Figures]:
    """Load the system for so many seconds with this fault, and a moment longer; the figures of each gateway."""
    before, began = [counters(gateway) for gateway in system.gateways], time.monotonic()
    with fault:
        time.sleep(max(0.0, began + seconds - time.monotonic()))
        undone = time.monotonic()
    time.sleep(AFTER_SECONDS)
    ended = time.monotonic()
    found: dict[str, Figures] = {}
    for gateway, earlier in zip(system.gateways, before, strict=True):
        samples = system.loads[gateway.way].samples(began, ended)
        now = counters(gateway)
        # Counters of a gateway that was restarted begin anew.
        counted = Counter({name: now[name] - earlier[name] * (now[name] >= earlier[name]) for name in now})
        found[gateway.way] = figures(samples, began, undone, ended, counted)
    return found


def figures(samples: list[Sample], began: float, undone: float, ended: float, counted: Counter[str]) -> Figures:
    """Sum the samples up."""
    later = [sample for sample in samples if began + NOTICED_SECONDS <= sample.due < undone]
    first = [sample for sample in samples if sample.due < began + NOTICED_SECONDS]
    return Figures(
        seconds=ended - began,
        requests=len(samples),
        failed=Counter(sample.error or str(sample.status) for sample in samples if sample.failed),
        without_retry_after=sum(sample.status == 503 and not sample.retry_after for sample in samples),
        p50_ms=percentile(later, 50),
        p99_ms=percentile(later, 99),
        first_second_p99_ms=percentile(first, 99),
        counted=counted,
    )


def counters(gateway: Gateway) -> Counter[str]:
    """The counters of a gateway: attempts by kind; denials, rejections and ejections by reason."""
    found: Counter[str] = Counter()
    for family in text_string_to_metric_families(gateway.service.admin.get("/metrics").text):
        for sample in family.samples:
            if sample.name in COUNTED:
                words = [sample.labels[name] for name in ("kind", "reason") if name in sample.labels]
                found[" ".join([COUNTED[sample.name], *words]).strip()] += int(sample.value)
    return found
