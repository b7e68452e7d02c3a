"""Trace context in and out (W3C), sampling, and the span of a request.

Only a sampled request builds a span. Any other has ids for its logs, and an OpenTelemetry context
that makes a non-recording span when a handler asks for one.
"""

import os
import re
from collections.abc import Mapping
from random import getrandbits
from time import time_ns
from typing import TYPE_CHECKING, Any, Self

from opentelemetry import trace
from opentelemetry.context import Context, create_key
from opentelemetry.propagate import extract
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.sampling import ParentBased, Sampler, TraceIdRatioBased
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import (
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    get_current_span,
    set_span_in_context,
)
from opentelemetry.trace.span import TraceState
from opentelemetry.util.types import Attributes

from .version import __version__

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter

Headers = list[tuple[bytes, bytes]]

# OpenTelemetry's own key for the current span, learned from its public function.
SPAN_KEY: str = next(iter(set_span_in_context(trace.INVALID_SPAN, Context())))
REQUEST_KEY = create_key("chassis-request")

DEFAULT_SAMPLE_RATIO = 0.01
# By name, the share of traces recorded; None is for OTEL_TRACES_SAMPLER_ARG to say.
SAMPLERS: dict[str, float | None] = {
    "always_on": 1.0,
    "always_off": 0.0,
    "traceidratio": None,
    "parentbased_always_on": 1.0,
    "parentbased_always_off": 0.0,
    "parentbased_traceidratio": None,
}
SCOPE = InstrumentationScope("chassis", __version__)
NOT_SAMPLED = TraceFlags(TraceFlags.DEFAULT)
SAMPLED = TraceFlags(TraceFlags.SAMPLED)
UNSET = Status()

# Version 00 only; anything else goes through OpenTelemetry's propagator (W3C Trace Context, 3.2.2).
PLAIN_TRACEPARENT = re.compile(rb"00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")


class RequestContext(Context):
    """OpenTelemetry's current context while a request is handled: its ids, and its span on demand.

    Ids are kept as the lower-case hexadecimal text of W3C Trace Context; most requests need no more.
    """

    trace_state: TraceState | None = None
    _span: Span | None = None

    def __init__(self, trace_id: str, span_id: str, request_id: str, *, sampled: bool) -> None:
        self.trace_id = trace_id
        self.span_id = span_id
        self.request_id = request_id or trace_id
        self.sampled = sampled

    @property
    def span(self) -> Span:
        """The recorded span of a sampled request, else one that only carries the ids to others."""
        if self._span is None:
            self._span = NonRecordingSpan(self.span_context())
        return self._span

    def span_context(self) -> SpanContext:
        flags = SAMPLED if self.sampled else NOT_SAMPLED
        return SpanContext(int(self.trace_id, 16), int(self.span_id, 16), False, flags, self.trace_state)

    def record(self, span: Span) -> None:
        """Let `span` be the request's span; called before anybody can have asked for another."""
        self._span = span

    def get(self, key: str, default: Any = None) -> Any:
        if key == SPAN_KEY:
            return self.span
        if key == REQUEST_KEY:
            return self
        return super().get(key, default)

    def copy(self) -> dict[str, object]:
        """What OpenTelemetry derives a child's context from."""
        return {**self, SPAN_KEY: self.span, REQUEST_KEY: self}


def request_context(context: Context) -> RequestContext | None:
    """The request that `context` belongs to, also from below a child span; None outside of one."""
    found = context.get(REQUEST_KEY)
    return found if isinstance(found, RequestContext) else None


class RequestSpan(ReadableSpan, Span):
    """The server span of one sampled request, leaner than the SDK's: no lock, no limits to check.

    Handlers find it as the current span; processors and exporters take it as any of the SDK's.
    """

    def __init__(self, tracing: "Tracing", context: RequestContext, parent: SpanContext | None) -> None:
        self._own_attributes: dict[str, Any] = {}
        self._own_events: list[Event] = []
        super().__init__(
            "",
            context.span_context(),
            parent,
            tracing.resource,
            self._own_attributes,
            self._own_events,
            kind=SpanKind.SERVER,
            status=UNSET,
            start_time=time_ns(),
            instrumentation_scope=SCOPE,
        )
        self._tracing = tracing

    def get_span_context(self) -> SpanContext:
        return self._context  # type: ignore[return-value]

    def is_recording(self) -> bool:
        return self._end_time is None

    def update_name(self, name: str) -> None:
        self._name = name

    def set_attribute(self, key: str, value: Any) -> None:
        self._own_attributes[key] = value

    def set_attributes(self, attributes: Mapping[str, Any]) -> None:
        self._own_attributes.update(attributes)

    def add_event(self, name: str, attributes: Attributes = None, timestamp: int | None = None) -> None:
        self._own_events.append(Event(name, attributes, timestamp))

    def record_exception(
        self,
        exception: BaseException,
        attributes: Attributes = None,
        timestamp: int | None = None,
        escaped: bool = False,
    ) -> None:
        """Add the event of the semantic conventions; the traceback is in the log, under the same ids."""
        described = {
            "exception.type": type(exception).__qualname__,
            "exception.message": str(exception),
            "exception.escaped": str(escaped),
        }
        self.add_event("exception", described | dict(attributes or {}), timestamp)

    def set_status(self, status: Status | StatusCode, description: str | None = None) -> None:
        self._status = status if isinstance(status, Status) else Status(status, description)

    def end(self, end_time: int | None = None) -> None:
        if self._end_time is None:
            self._end_time = end_time or time_ns()
            self._tracing.export(self)


class Sampling:
    """The samplers of the specification (OTEL_TRACES_SAMPLER), decided without building anything."""

    def __init__(self, ratio: float, *, parent_based: bool) -> None:
        self._ratio = ratio
        self._parent_based = parent_based
        self._bound = TraceIdRatioBased.get_bound_for_rate(ratio)

    @classmethod
    def from_environment(cls) -> Self:
        """1 % of the traces that begin here, and what callers have decided, unless the environment says else."""
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
        """Whether a trace that begins here is recorded; the same for all who use the ratio on this id."""
        return trace_id & TraceIdRatioBased.TRACE_ID_LIMIT < self._bound

    def samples_child(self, parent: SpanContext) -> bool:
        """Whether a trace that a caller began is recorded."""
        return parent.trace_flags.sampled if self._parent_based else self.samples_root(parent.trace_id)

    def sampler(self) -> Sampler:
        """The SDK's sampler that decides the same, for spans begun outside of requests."""
        root = TraceIdRatioBased(self._ratio)
        return ParentBased(root) if self._parent_based else root


class Tracing:
    """Decides what is sampled, continues remote traces, and hands ended spans to the exporter.

    Configured by OpenTelemetry's own environment variables: `OTEL_EXPORTER_OTLP_ENDPOINT` or
    `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT` switches the export over HTTP on, `OTEL_TRACES_EXPORTER`
    (`otlp`, `console`, `none`) chooses it by name, `OTEL_TRACES_SAMPLER` and its `_ARG` replace the
    default of 1 % of the traces that begin here (`parentbased_traceidratio`). `OTEL_SDK_DISABLED`
    switches recording off.
    """

    def __init__(self, service: str, *, version: str) -> None:
        self.resource = Resource.create({"service.name": service, "service.version": version}).merge(
            # The environment's word (OTEL_SERVICE_NAME, OTEL_RESOURCE_ATTRIBUTES) wins over ours.
            Resource(_named_by_environment())
        )
        exporter = _exporter()
        self.exporting = exporter is not None
        self._sampling = Sampling.from_environment()
        self.provider = TracerProvider(sampler=self._sampling.sampler(), resource=self.resource, shutdown_on_exit=False)
        self._processors: list[SpanProcessor] = []
        if exporter is not None:
            self._add_exporter(exporter)

    def _add_exporter(self, exporter: "SpanExporter") -> None:
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        self.add_processor(BatchSpanProcessor(exporter))

    def add_processor(self, processor: SpanProcessor) -> None:
        """Send every ended span to `processor` as well: the requests' own and those of handlers."""
        self.exporting = True
        self._processors.append(processor)
        self.provider.add_span_processor(processor)

    def export(self, span: ReadableSpan) -> None:
        for processor in self._processors:
            processor.on_end(span)

    def begin(
        self, headers: Headers, traceparent: bytes | None, request_id: str, *, propagated: bool
    ) -> RequestContext:
        """The context of a new request, its span begun when it is sampled.

        `propagated` says that `headers` has a tracestate or baggage, which only the propagators read.
        """
        # One random number for both ids; that either is all zeros is less likely than a broken machine.
        random = getrandbits(192)
        ids = random.to_bytes(24).hex()
        if traceparent is None and not propagated:
            sampled = self.exporting and self._sampling.samples_root(random >> 64)
            context = RequestContext(ids[:32], ids[32:], request_id, sampled=sampled)
            if sampled:
                context.record(RequestSpan(self, context, None))
            return context
        return self._continue(headers, traceparent if not propagated else None, request_id, ids)

    def _continue(self, headers: Headers, traceparent: bytes | None, request_id: str, ids: str) -> RequestContext:
        """The context of a request that comes with somebody's trace context or baggage."""
        values: Context | None = None
        plain = PLAIN_TRACEPARENT.fullmatch(traceparent) if traceparent is not None else None
        if plain is not None:
            parent = SpanContext(int(plain[1], 16), int(plain[2], 16), True, TraceFlags(int(plain[3], 16)))
        else:
            carrier = _text(headers)
            if len(carrier.get("traceparent", ())) > 1:
                # Two of them are as good as none (W3C Trace Context, section 3.2).
                del carrier["traceparent"]
            values = extract(carrier, Context())
            parent = get_current_span(values).get_span_context()
        if parent.is_valid:
            trace_id = f"{parent.trace_id:032x}"
            sampled = self._sampling.samples_child(parent)
        else:
            trace_id = ids[:32]
            # "Sampled" without an exporter would send others looking for a parent span that nobody has.
            sampled = self.exporting and self._sampling.samples_root(int(trace_id, 16))
        context = RequestContext(trace_id, ids[32:], request_id, sampled=sampled)
        if values is not None:
            dict.update(context, values)
        if parent.is_valid:
            context.trace_state = parent.trace_state
        if sampled and self.exporting:
            context.record(RequestSpan(self, context, parent if parent.is_valid else None))
        return context

    def install(self) -> None:
        """Make this the process's tracer provider, for `opentelemetry.trace.get_tracer` in your code."""
        if isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
            trace.set_tracer_provider(self.provider)

    def shutdown(self) -> None:
        """Flush what is recorded and end the exporter; blocks until it is out or has timed out."""
        self.provider.shutdown()


def _text(headers: Headers) -> dict[str, list[str]]:
    carrier: dict[str, list[str]] = {}
    for name, value in headers:
        carrier.setdefault(name.decode("latin-1"), []).append(value.decode("latin-1"))
    return carrier


def _named_by_environment() -> dict[str, str]:
    name = os.environ.get("OTEL_SERVICE_NAME")
    return {"service.name": name} if name else {}


def _exporter() -> "SpanExporter | None":
    if os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return None
    endpoint = os.environ.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") or os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT")
    name = os.environ.get("OTEL_TRACES_EXPORTER", "").strip().lower() or ("otlp" if endpoint else "none")
    # Imported here because an exporter costs more to load than the rest of the service.
    if name == "otlp":
        from .otlp import OtlpExporter

        return OtlpExporter.from_environment()
    if name == "console":
        from opentelemetry.sdk.trace.export import ConsoleSpanExporter

        return ConsoleSpanExporter()
    if name == "none":
        return None
    raise ValueError(f"OTEL_TRACES_EXPORTER={name!r}: this service knows 'otlp', 'console' and 'none'")
