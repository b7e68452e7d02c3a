"""Trace context in and out (W3C), sampling, and the span of a request.

Only a sampled request builds a span. Any other has ids for its logs, and an OpenTelemetry context
that makes a non-recording span when a handler asks for one.
"""

import os
import re
from random import getrandbits

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.propagate import extract
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.trace import SpanContext, TraceFlags, get_current_span

from ..context import RequestContext
from .sampling import Sampling
from .spans import RequestSpan

Headers = list[tuple[bytes, bytes]]

# Version 00 only; anything else goes through OpenTelemetry's propagator (W3C Trace Context, 3.2.2).
PLAIN_TRACEPARENT = re.compile(rb"00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")


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
        processor = _exporting_processor()
        self.exporting = False
        self._sampling = Sampling.from_environment()
        self.provider = TracerProvider(sampler=self._sampling.sampler(), resource=self.resource, shutdown_on_exit=False)
        self._processors: list[SpanProcessor] = []
        if processor is not None:
            self.add_processor(processor)

    @property
    def dropped_spans(self) -> dict[str, int]:
        """Spans that were not exported, by the reason; empty without an exporter of ours."""
        counted = [getattr(processor, "dropped", {}) for processor in self._processors]
        return {reason: count for drops in counted for reason, count in drops.items()}

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
            context = RequestContext(ids[:32], ids[32:], request_id, sampled)
            if sampled:
                context.record(self._span(context, None))
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
        context = RequestContext(trace_id, ids[32:], request_id, sampled)
        if values is not None:
            dict.update(context, values)
        if parent.is_valid:
            context.trace_state = parent.trace_state
        if sampled and self.exporting:
            context.record(self._span(context, parent if parent.is_valid else None))
        return context

    def _span(self, context: RequestContext, parent: SpanContext | None) -> RequestSpan:
        return RequestSpan(context, parent, resource=self.resource, export=self.export)

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
