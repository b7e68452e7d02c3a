"""Decides which traces are recorded."""

from typing import Self

from opentelemetry.sdk.trace.sampling import ParentBased, Sampler, TraceIdRatioBased
from opentelemetry.trace import TraceFlags

from .environment import Environment

VARIABLE, ARGUMENT = "OTEL_TRACES_SAMPLER", "OTEL_TRACES_SAMPLER_ARG"
# Without OTEL_TRACES_SAMPLER. The specification's default records all traces, a high load for services and collectors.
DEFAULT_RATIO = 0.01
# By name, the share of traces that are recorded; None where OTEL_TRACES_SAMPLER_ARG sets it.
SAMPLERS: dict[str, float | None] = {
    "always_on": 1.0,
    "always_off": 0.0,
    "traceidratio": None,
    "parentbased_always_on": 1.0,
    "parentbased_always_off": 0.0,
    "parentbased_traceidratio": None,
}


class Sampling:
    """The samplers of OpenTelemetry's specification (OTEL_TRACES_SAMPLER), without an object for each decision."""

    def __init__(self, ratio: float, *, parent_based: bool) -> None:
        self._ratio = ratio
        self._parent_based = parent_based
        self._bound = TraceIdRatioBased.get_bound_for_rate(ratio)

    @classmethod
    def from_environment(cls, environment: Environment, default_ratio: float = DEFAULT_RATIO) -> Self:
        """As the environment says; by default a share of the traces that begin here, else the caller's decision."""
        name = environment.choice((VARIABLE,), SAMPLERS, "")
        if not name:
            if (argument := environment.text(ARGUMENT)) and not environment.text(VARIABLE):
                environment.ignore(ARGUMENT, argument, f"it is used together with {VARIABLE} only")
            return cls(default_ratio, parent_based=True)
        ratio = SAMPLERS[name]
        if ratio is None:
            ratio = _ratio(environment)
        return cls(ratio, parent_based=name.startswith("parentbased_"))

    def samples_root(self, trace_id: int) -> bool:
        """Whether a trace that begins here is recorded; all services with the same ratio decide the same for an id."""
        return trace_id & TraceIdRatioBased.TRACE_ID_LIMIT < self._bound

    def samples_child(self, trace_id: str, flags: int) -> bool:
        """Whether a trace that a caller has begun is recorded; `flags` are those of W3C Trace Context."""
        return bool(flags & TraceFlags.SAMPLED) if self._parent_based else self.samples_root(int(trace_id, 16))

    def sampler(self) -> Sampler:
        """The SDK's sampler with the same decisions, for spans that begin outside of requests."""
        root = TraceIdRatioBased(self._ratio)
        return ParentBased(root) if self._parent_based else root


def _ratio(environment: Environment) -> float:
    """The argument of a ratio; 1.0 without a valid one, as the specification says."""
    argument = environment.text(ARGUMENT)
    try:
        ratio = float(argument or 1.0)
    except ValueError:
        ratio = -1.0
    if 0.0 <= ratio <= 1.0:
        return ratio
    environment.ignore(ARGUMENT, argument, "a ratio is from 0.0 to 1.0; 1.0 is used")
    return 1.0
