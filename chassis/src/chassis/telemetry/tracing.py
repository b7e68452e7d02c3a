"""Trace context in and out (W3C), sampling, and the span of a request.

Only a sampled request builds a span. Any other has ids for its logs, and an OpenTelemetry context
that makes a non-recording span when a handler asks for one.
"""

import logging
import re
from collections.abc import Iterable
from random import getrandbits
from typing import TYPE_CHECKING, cast

from opentelemetry import propagate, trace
from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanLimits, SpanProcessor, TracerProvider
from opentelemetry.trace import Span, SpanContext, TraceFlags, get_current_span

from ..context import RequestContext
from ..request_info import RequestInfo
from .environment import Environment
from .exporters import span_processors
from .known_methods import known_methods
from .propagation import W3C, carrier_of, extract_with, propagator_from
from .redaction import Redactor
from .resource import make_resource
from .sampling import DEFAULT_RATIO, Sampling
from .spans import DEFAULT_MAX, MessageSpan, RequestSpan, RequestSpanProcessor, TaskSpan

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import Span as SdkSpan

log: logging.Logger = logging.getLogger(__name__)

NO_CONTEXT = Context()
# Logged and not raised: a request, its metrics and its access line must not depend on a processor.
PROCESSOR_FAILED = "a span processor failed: %s"
# Version 00 with valid ids; anything else goes through OpenTelemetry's propagator (W3C Trace Context, 3.2.2).
PLAIN_TRACEPARENT = re.compile(rb"00-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})")


class Tracing:
    """Decides which requests are sampled, continues remote traces, and hands ended spans to the processors.

    Configured by OpenTelemetry's own environment variables. `OTEL_EXPORTER_OTLP_ENDPOINT` or
    `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT` enables the export over HTTP. `OTEL_TRACES_EXPORTER` chooses exporters by name:
    a list of `otlp`, `console`, `none`, and exporters of installed packages. `OTEL_TRACES_SAMPLER` and
    `OTEL_TRACES_SAMPLER_ARG` replace the default of 1 % of the traces that begin here (`parentbased_traceidratio`).
    `OTEL_PROPAGATORS` chooses the formats of trace context. `OTEL_SDK_DISABLED` disables recording, but not the
    propagation. A value that cannot be used is ignored, and a warning is logged by `install`. `default_ratio` is the
    share of traces without `OTEL_TRACES_SAMPLER`.
    """

    def __init__(
        self,
        service: str,
        *,
        version: str,
        redactor: Redactor | None = None,
        default_ratio: float = DEFAULT_RATIO,
    ) -> None:
        self._environment = environment = Environment()
        self.resource: Resource = make_resource(service, version, environment)
        self.exporting: bool = False
        """Whether recorded spans go anywhere."""
        self.redactor: Redactor = redactor or Redactor()
        """Keeps secrets out of spans."""
        self._is_disabled = environment.is_true("OTEL_SDK_DISABLED")
        self._sampling = Sampling.from_environment(environment, default_ratio)
        # None for the W3C's formats, which need no propagator for most requests.
        self._propagator = propagator_from(environment)
        self._limits = _span_limits(environment)
        self.known_methods: frozenset[str] = known_methods(environment)
        """The methods that metrics and spans name; all others are one."""
        self.provider: TracerProvider = TracerProvider(
            sampler=self._sampling.sampler(), resource=self.resource, shutdown_on_exit=False, span_limits=self._limits
        )
        self._request_processors: list[RequestSpanProcessor] = []
        self._sdk_processors: list[SpanProcessor] = []
        for processor in [] if self._is_disabled else span_processors(environment):
            self.add_processor(processor)

    @property
    def dropped_spans(self) -> dict[str, int]:
        """The number of spans that were not exported, by reason; empty without an exporter of ours."""
        counts = [getattr(processor, "dropped", {}) for processor in self._request_processors]
        return {reason: count for dropped in counts for reason, count in dropped.items()}

    def add_processor(self, processor: SpanProcessor) -> None:
        """Send every span to `processor` as well: those of requests and those that handlers make.

        Not with `OTEL_SDK_DISABLED`: then no spans are made.
        """
        self.exporting = not self._is_disabled
        if isinstance(processor, RequestSpanProcessor):
            self._request_processors.append(processor)
        else:
            self._sdk_processors.append(processor)
        self.provider.add_span_processor(processor)

    def export(self, span: RequestSpan) -> None:
        """Hand the span of a request that has ended to every processor."""
        for processor in self._request_processors:
            try:
                processor.on_request_end(span)
            except Exception:
                log.exception(PROCESSOR_FAILED, type(processor).__qualname__)
        if not self._sdk_processors:
            return
        readable = span.readable()
        for other in self._sdk_processors:
            try:
                other.on_end(readable)
            except Exception:
                log.exception(PROCESSOR_FAILED, type(other).__qualname__)

    def begin(self, info: RequestInfo, method: str, headers: Iterable[tuple[bytes, bytes]] = ()) -> RequestContext:
        """The context of a new request; its span has begun if it is sampled.

        `headers` are all of the request, which only formats other than the W3C's need.
        """
        # One random number for both ids. That an id is all zeros, and invalid, is too unlikely to check.
        random = getrandbits(192)
        ids = random.to_bytes(24).hex()
        if self._propagator is not None:
            values = extract_with(self._propagator, info, headers, NO_CONTEXT)
            return self._continue(info, method, ids, get_current_span(values).get_span_context(), values)
        if info.traceparent is not None or info.context_fields is not None:
            plain = PLAIN_TRACEPARENT.fullmatch(info.traceparent or b"")
            if plain is not None and info.context_fields is None:
                return self._continue_plain(info, method, ids, plain)
            values = W3C.extract(carrier_of(info), NO_CONTEXT)
            return self._continue(info, method, ids, get_current_span(values).get_span_context(), values)
        sampled = self.exporting and self._sampling.samples_root(random >> 64)
        context = RequestContext(ids[:32], ids[32:], info.request_id, sampled)
        if sampled:
            context.record(self._span(method, context, None))
        return context

    def _continue(
        self, info: RequestInfo, method: str, ids: str, parent: SpanContext, values: Context | None
    ) -> RequestContext:
        """The context of a request that has trace context (`parent`) or baggage (in `values`)."""
        if parent.is_valid:
            trace_id = f"{parent.trace_id:032x}"
            sampled = self._sampling.samples_child(trace_id, parent.trace_flags)
            trace_state = parent.trace_state
            has_random_id = bool(parent.trace_flags & TraceFlags.RANDOM_TRACE_ID)
        else:
            trace_id = ids[:32]
            # "Sampled" without an exporter would refer other services to a parent span that does not exist.
            sampled = self.exporting and self._sampling.samples_root(int(trace_id, 16))
            trace_state = None
            has_random_id = True
        context = RequestContext(trace_id, ids[32:], info.request_id, sampled, values, trace_state, has_random_id)
        if sampled and self.exporting:
            context.record(self._span(method, context, parent if parent.is_valid else None, values))
        return context

    def _continue_plain(self, info: RequestInfo, method: str, ids: str, traceparent: re.Match[bytes]) -> RequestContext:
        """The same for a request with no more than a `PLAIN_TRACEPARENT`: its ids remain text unless it is recorded."""
        trace_id, flags = traceparent[1].decode(), int(traceparent[3], 16)
        sampled = self._sampling.samples_child(trace_id, flags)
        has_random_id = bool(flags & TraceFlags.RANDOM_TRACE_ID)
        context = RequestContext(trace_id, ids[32:], info.request_id, sampled, has_random_id=has_random_id)
        if sampled and self.exporting:
            parent = SpanContext(int(trace_id, 16), int(traceparent[2], 16), True, TraceFlags(flags))
            context.record(self._span(method, context, parent))
        return context

    def begin_task(self, name: str) -> Span:
        """The span of work that no request has asked for, such as a periodic task: the root of a trace.

        It records if the trace is sampled, and has ids in any case. One that does not end is not exported.
        """
        ids = getrandbits(192).to_bytes(24).hex()
        context = RequestContext(ids[:32], ids[32:], "", self.samples_root(int(ids[:32], 16)))
        if context.sampled:
            context.record(self._span(name, context, None, kind=TaskSpan))
        return context.span

    def begin_message(self, name: str, producer: SpanContext, request_id: str) -> RequestContext:
        """The context of a message that is processed: the root of a trace, with a link to the span that has sent it.

        It is recorded if the producer's trace is, and else as any trace that begins here.
        """
        ids = getrandbits(192).to_bytes(24).hex()
        sampled = self.exporting and (producer.trace_flags.sampled or self.samples_root(int(ids[:32], 16)))
        context = RequestContext(ids[:32], ids[32:], request_id, sampled)
        if sampled:
            span = self._span(name, context, None, kind=MessageSpan)
            if producer.is_valid:
                span.add_link(producer)
            context.record(span)
        return context

    def _span(
        self,
        name: str,
        context: RequestContext,
        parent: SpanContext | None,
        values: Context | None = None,
        *,
        kind: type[RequestSpan] = RequestSpan,
    ) -> RequestSpan:
        span = kind(
            name,
            context,
            parent,
            resource=self.resource,
            export=self.export,
            redactor=self.redactor,
            limits=self._limits,
        )
        if self._sdk_processors:
            self.announce(span, NO_CONTEXT if values is None else values)
        return span

    def announce(self, span: RequestSpan, context: Context) -> None:
        """Notify every processor that a span has begun in `context`."""
        for processor in self._sdk_processors:
            # Declared as the SDK's class; processors that set attributes at the start need only the API's methods.
            try:
                processor.on_start(cast("SdkSpan", span), context)
            except Exception:
                log.exception(PROCESSOR_FAILED, type(processor).__qualname__)

    def begin_untraced(
        self, info: RequestInfo, method: str, headers: Iterable[tuple[bytes, bytes]] = ()
    ) -> RequestContext:
        """The context of a request that is never sampled, such as a probe; it continues the ids of its caller."""
        ids = getrandbits(192).to_bytes(24).hex()
        plain = PLAIN_TRACEPARENT.fullmatch(info.traceparent or b"")
        trace_id = ids[:32] if plain is None else plain[1].decode()
        return RequestContext(trace_id, ids[32:], info.request_id, False)

    def samples_root(self, trace_id: int) -> bool:
        """Whether a trace that begins here is recorded."""
        return self.exporting and self._sampling.samples_root(trace_id)

    def install(self) -> None:
        """Make this the process's tracer provider, for `opentelemetry.trace.get_tracer` in your code.

        Also the process's propagator, if the environment names one, and log which of its values are ignored.
        """
        self._environment.report()
        if self._propagator is not None:
            propagate.set_global_textmap(self._propagator)
        if not isinstance(trace.get_tracer_provider(), TracerProvider):
            trace.set_tracer_provider(self.provider)

    def flush(self) -> None:
        """Export the spans that have ended; blocks until that is done or has timed out."""
        self.provider.force_flush()

    def shutdown(self) -> None:
        """Export the recorded spans and end the processors; blocks until that is done or has timed out."""
        self.provider.shutdown()


def _span_limits(environment: Environment) -> SpanLimits:
    """The limits in `OTEL_*_LIMIT`. They are read here, because the SDK would raise for an invalid one."""

    def limit(name: str, default: int) -> int:
        return environment.whole_number(f"OTEL_{name}_LIMIT", default=default)

    attributes = limit("ATTRIBUTE_COUNT", DEFAULT_MAX)
    length = limit("ATTRIBUTE_VALUE_LENGTH", SpanLimits.UNSET)
    return SpanLimits(
        max_attributes=attributes,
        max_events=limit("SPAN_EVENT_COUNT", DEFAULT_MAX),
        max_links=limit("SPAN_LINK_COUNT", DEFAULT_MAX),
        max_span_attributes=limit("SPAN_ATTRIBUTE_COUNT", attributes),
        max_event_attributes=limit("EVENT_ATTRIBUTE_COUNT", attributes),
        max_link_attributes=limit("LINK_ATTRIBUTE_COUNT", attributes),
        max_attribute_length=length,
        max_span_attribute_length=limit("SPAN_ATTRIBUTE_VALUE_LENGTH", length),
    )
