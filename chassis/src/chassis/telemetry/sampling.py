"""Decides which traces are recorded."""

import os
from typing import Self

from opentelemetry.sdk.trace.sampling import ParentBased, Sampler, TraceIdRatioBased
from opentelemetry.trace import SpanContext

DEFAULT_SAMPLE_RATIO = 0.01
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
    def from_environment(cls) -> Self:
        """As the environment says; by default 1 % of the traces that begin here, else the caller's decision."""
        name = os.environ.get("OTEL_TRACES_SAMPLER", "").strip().lower() or "parentbased_traceidratio"
        argument = os.environ.get("OTEL_TRACES_SAMPLER_ARG", "").strip()
        if name not in SAMPLERS:
            raise ValueError(f"OTEL_TRACES_SAMPLER={name!r}: this service knows {', '.join(SAMPLERS)}")
        ratio = SAMPLERS[name]
        if ratio is None:
            try:
                ratio = float(argument) if argument else DEFAULT_SAMPLE_RATIO
                return cls(ratio, parent_based=name.startswith("parentbased_"))
            except ValueError:
                raise ValueError(f"OTEL_TRACES_SAMPLER_ARG={argument!r}: a ratio is from 0.0 to 1.0") from None
        return cls(ratio, parent_based=name.startswith("parentbased_"))

    def samples_root(self, trace_id: int) -> bool:
        """Whether a trace that begins here is recorded; all services with the same ratio decide the same for an id."""
        return trace_id & TraceIdRatioBased.TRACE_ID_LIMIT < self._bound

    def samples_child(self, parent: SpanContext) -> bool:
        """Whether a trace that a caller has begun is recorded."""
        return parent.trace_flags.sampled if self._parent_based else self.samples_root(parent.trace_id)

    def sampler(self) -> Sampler:
        """The SDK's sampler with the same decisions, for spans that begin outside of requests."""
        root = TraceIdRatioBased(self._ratio)
        return ParentBased(root) if self._parent_based else root
