"""Trace context in and out (W3C), sampling, and the span of a request.

Only a sampled request builds a span. Any other has ids for its logs, and an OpenTelemetry context
that makes a non-recording span when a handler asks for one.
"""

import logging
import os
import re
from random import getrandbits
from typing import TYPE_CHECKING, cast

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.propagate import extract
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.trace import SpanContext, TraceFlags, get_current_span

from ..context import RequestContext
from ..request_info import RequestInfo
from .sampling import Sampling
from .spans import RequestSpan, RequestSpanProcessor

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import Span as SdkSpan

log: logging.Logger = logging.getLogger(__name__)

NO_CONTEXT = Context()
# Logged and not raised: a request, its metrics and its access line must not depend on a processor.
PROCESSOR_FAILED = "a span processor failed: %s"
# Version 00 only; anything else goes through OpenTelemetry's propagator (W3C Trace Context, 3.2.2).
PLAIN_TRACEPARENT = re.compile(rb"00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")


class Tracing:
    """Decides which requests are sampled, continues remote traces, and hands ended spans to the processors.

    Configured by OpenTelemetry's own environment variables: `OTEL_EXPORTER_OTLP_ENDPOINT` or
    `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT` enables the export over HTTP, `OTEL_TRACES_EXPORTER` (`otlp`, `console`,
    `none`) chooses it by name, `OTEL_TRACES_SAMPLER` and `OTEL_TRACES_SAMPLER_ARG` replace the default of 1 % of the
    traces that begin here (`parentbased_traceidratio`). `OTEL_SDK_DISABLED` disables recording.
    """

    def __init__(self, service: str, *, version: str) -> None:
        self.resource: Resource = Resource.create({"service.name": service, "service.version": version}).merge(
            # The environment's values (OTEL_SERVICE_NAME, OTEL_RESOURCE_ATTRIBUTES) have priority over ours.
            Resource(_named_by_environment())
        )
        processor = _exporting_processor()
        self.exporting: bool = False
        """Whether recorded spans go anywhere."""
        self._sampling = Sampling.from_environment()
        self.provider: TracerProvider = TracerProvider(
            sampler=self._sampling.sampler(), resource=self.resource, shutdown_on_exit=False
        )
        self._request_processors: list[RequestSpanProcessor] = []
        self._sdk_processors: list[SpanProcessor] = []
        if processor is not None:
            self.add_processor(processor)

    @property
    def dropped_spans(self) -> dict[str, int]:
        """The number of spans that were not exported, by reason; empty without an exporter of ours."""
        counts = [getattr(processor, "dropped", {}) for processor in self._request_processors]
        return {reason: count for dropped in counts for reason, count in dropped.items()}

    def add_processor(self, processor: SpanProcessor) -> None:
        """Send every span to `processor` as well: those of requests and those that handlers make."""
        self.exporting = True
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

    def begin(self, info: RequestInfo, method: str) -> RequestContext:
        """The context of a new request; its span has begun if it is sampled."""
        # One random number for both ids; that either is all zeros is less likely than a broken machine.
        random = getrandbits(192)
        ids = random.to_bytes(24).hex()
        if info.traceparent is not None or info.context_fields is not None:
            return self._continue(info, method, ids)
        sampled = self.exporting and self._sampling.samples_root(random >> 64)
        context = RequestContext(ids[:32], ids[32:], info.request_id, sampled)
        if sampled:
            context.record(self._span(method, context, None))
        return context

    def _continue(self, info: RequestInfo, method: str, ids: str) -> RequestContext:
        """The context of a request that brings trace context or baggage."""
        values: Context | None = None
        plain = PLAIN_TRACEPARENT.fullmatch(info.traceparent or b"")
        if plain is not None and info.context_fields is None:
            parent = SpanContext(int(plain[1], 16), int(plain[2], 16), True, TraceFlags(int(plain[3], 16)))
        else:
            values = extract(_carrier(info), NO_CONTEXT)
            parent = get_current_span(values).get_span_context()
        if parent.is_valid:
            trace_id = f"{parent.trace_id:032x}"
            sampled = self._sampling.samples_child(parent)
            trace_state = parent.trace_state
        else:
            trace_id = ids[:32]
            # "Sampled" without an exporter would send others looking for a parent span that nobody has.
            sampled = self.exporting and self._sampling.samples_root(int(trace_id, 16))
            trace_state = None
        context = RequestContext(trace_id, ids[32:], info.request_id, sampled, values, trace_state)
        if sampled and self.exporting:
            context.record(self._span(method, context, parent if parent.is_valid else None, values))
        return context

    def _span(
        self, name: str, context: RequestContext, parent: SpanContext | None, values: Context | None = None
    ) -> RequestSpan:
        span = RequestSpan(name, context, parent, resource=self.resource, export=self.export)
        for processor in self._sdk_processors:
            # Declared as the SDK's class; processors that set attributes at the start need only the API's methods.
            try:
                processor.on_start(cast("SdkSpan", span), NO_CONTEXT if values is None else values)
            except Exception:
                log.exception(PROCESSOR_FAILED, type(processor).__qualname__)
        return span

    def install(self) -> None:
        """Make this the process's tracer provider, for `opentelemetry.trace.get_tracer` in your code."""
        if not isinstance(trace.get_tracer_provider(), TracerProvider):
            trace.set_tracer_provider(self.provider)

    def flush(self) -> None:
        """Export the spans that have ended; blocks until that is done or has timed out."""
        self.provider.force_flush()

    def shutdown(self) -> None:
        """Export the recorded spans and end the processors; blocks until that is done or has timed out."""
        self.provider.shutdown()


def _carrier(info: RequestInfo) -> dict[str, list[str]]:
    carrier = dict(info.context_fields or {})
    if info.traceparent is not None:
        carrier["traceparent"] = [info.traceparent.decode("latin-1")]
    return carrier


def _named_by_environment() -> dict[str, str]:
    name = os.environ.get("OTEL_SERVICE_NAME")
    return {"service.name": name} if name else {}


def _exporting_processor() -> SpanProcessor | None:
    if os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return None
    endpoint = os.environ.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") or os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT")
    name = os.environ.get("OTEL_TRACES_EXPORTER", "").strip().lower() or ("otlp" if endpoint else "none")
    # Imported here because an exporter costs more to load than the rest of the service.
    if name == "otlp":
        from .exporter import OtlpExporter

        return OtlpExporter.from_environment()
    if name == "console":
        from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor

        return SimpleSpanProcessor(ConsoleSpanExporter())
    if name == "none":
        return None
    raise ValueError(f"OTEL_TRACES_EXPORTER={name!r}: this service knows 'otlp', 'console' and 'none'")
