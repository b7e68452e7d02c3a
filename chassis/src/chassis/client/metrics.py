"""The metrics of calls to other services, by dependency."""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple
from weakref import WeakKeyDictionary

from prometheus_client import CollectorRegistry, Counter, Gauge
from prometheus_client.core import HistogramMetricFamily, Metric

from ..telemetry import Telemetry
from ..telemetry.durations import Durations
from ..telemetry.metrics import SECONDS

# An error's class may be made for each call.
MAX_ERROR_TYPES = 100
OTHER = "_OTHER"
ATTEMPTS = ("first", "retry", "hedge")
DENIALS = ("budget", "deadline", "starved", "attempts", "exhausted")
REJECTIONS = ("breaker", "bulkhead", "deadline")
BREAKER_STATES = {"closed": 0, "half-open": 1, "open": 2}


class DependencyCallKey(NamedTuple):
    """The labels of a call; an empty error type stands for a success."""

    dependency: str
    method: str
    error_type: str


class CallDurations(Durations[DependencyCallKey]):
    """Whole calls, with all of their attempts."""

    def __init__(self) -> None:
        super().__init__(SECONDS)
        self._error_types: set[str] = set()

    def _bounded(self, key: DependencyCallKey) -> DependencyCallKey:
        if key.error_type not in self._error_types:
            if len(self._error_types) >= MAX_ERROR_TYPES:
                return DependencyCallKey(key.dependency, key.method, OTHER)
            self._error_types.add(key.error_type)
        return key

    def collect(self) -> Iterable[Metric]:
        """The metric that prometheus-client exposes."""
        family = HistogramMetricFamily(
            "dependency_call_duration_seconds",
            "Duration of calls to other services, with all attempts.",
            labels=("dependency", "method", "error_type"),
        )
        self.add_to(family)
        return (family,)


class DependencyMetrics:
    """Counts what the client of one dependency decides, and reads its state when the metrics are exposed."""

    def __init__(self, dependency: str, telemetry: Telemetry) -> None:
        families = _Families.of(telemetry)
        self.durations: CallDurations = families.durations
        self._dependency = dependency
        self._families = families
        # With all values from the start, so that the first increase is visible in `rate`.
        self._attempts = _children(families.attempts, dependency, ATTEMPTS)
        self._denials = _children(families.denials, dependency, DENIALS)
        self._rejections = _children(families.rejections, dependency, REJECTIONS)
        self._hedges_won = families.hedges_won.labels(dependency)
        self._breaker_openings = families.breaker_openings.labels(dependency)

    def attempt(self, kind: str) -> None:
        """Count an attempt: `first`, `retry` or `hedge`."""
        self._attempts[kind].inc()

    def hedge_won(self) -> None:
        """Count a call whose hedge was faster than its first attempt."""
        self._hedges_won.inc()

    def denied(self, reason: str) -> None:
        """Count a retry or a hedge that was not made: `budget`, `deadline`, `starved`, `attempts` or `exhausted`."""
        self._denials[reason].inc()

    def rejected(self, reason: str) -> None:
        """Count a call that was not begun: `breaker`, `bulkhead` or `deadline`."""
        self._rejections[reason].inc()

    def ejected(self, reason: str) -> None:
        """Count the ejection of a replica; there must be few reasons."""
        self._families.ejections.labels(self._dependency, reason).inc()

    def breaker_opened(self) -> None:
        """Count that the circuit breaker has opened."""
        self._breaker_openings.inc()

    def read_calls(
        self, in_progress: Callable[[], int], waiting: Callable[[], int], max_calls: Callable[[], int]
    ) -> None:
        """Expose the calls in progress, those that wait, and the limit. The functions are called in another thread."""
        self._families.in_progress.labels(self._dependency).set_function(in_progress)
        self._families.waiting.labels(self._dependency).set_function(waiting)
        self._families.max_calls.labels(self._dependency).set_function(max_calls)

    def read_breaker(self, state: Callable[[], str]) -> None:
        """Expose the state of the circuit breaker: `closed`, `half-open` or `open`. Called in another thread."""
        self._families.breaker_state.labels(self._dependency).set_function(lambda: BREAKER_STATES[state()])

    def read_replicas(self, available: Callable[[], int], ejected: Callable[[], int]) -> None:
        """Expose the number of replicas. The functions are called in another thread."""
        self._families.replicas.labels(self._dependency, "available").set_function(available)
        self._families.replicas.labels(self._dependency, "ejected").set_function(ejected)


def _children(counter: Counter, dependency: str, values: Sequence[str]) -> dict[str, Counter]:
    return {value: counter.labels(dependency, value) for value in values}


class _Families:
    """The metrics of all dependencies in one registry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, documentation: str, *labels: str) -> Counter:
            return Counter(name, documentation, ["dependency", *labels], registry=registry)

        def gauge(name: str, documentation: str, *labels: str) -> Gauge:
            return Gauge(name, documentation, ["dependency", *labels], registry=registry)

        self.durations = CallDurations()
        registry.register(self.durations)
        self.attempts = counter("dependency_attempts", "Attempts of calls.", "kind")
        self.hedges_won = counter("dependency_hedges_won", "Calls whose hedge was faster than their first attempt.")
        self.denials = counter("dependency_retries_denied", "Retries and hedges that were not made.", "reason")
        self.rejections = counter("dependency_calls_rejected", "Calls that were not begun.", "reason")
        self.ejections = counter("dependency_ejections", "Ejections of replicas that failed.", "reason")
        self.breaker_openings = counter("dependency_breaker_opened", "How often the circuit breaker has opened.")
        self.breaker_state = gauge("dependency_breaker_state", "The circuit breaker: 0 closed, 1 half-open, 2 open.")
        self.in_progress = gauge("dependency_calls_in_progress", "Calls in progress.")
        self.waiting = gauge("dependency_calls_waiting", "Calls that wait to begin.")
        self.max_calls = gauge("dependency_max_calls", "Maximum number of calls in progress.")
        self.replicas = gauge("dependency_replicas", "Replicas of the dependency.", "state")

    @classmethod
    def of(cls, telemetry: Telemetry) -> "_Families":
        families = _families.get(telemetry)
        if families is None:
            families = _families[telemetry] = cls(telemetry.metrics.registry)
        return families


_families: WeakKeyDictionary[Telemetry, _Families] = WeakKeyDictionary()
