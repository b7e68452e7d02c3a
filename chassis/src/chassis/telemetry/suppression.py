"""Prevents instrumentation of other packages from making spans of the exporter's own requests."""

from collections.abc import Sequence
from functools import cache

from opentelemetry import context as otel_context
from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace import SpanContext, TraceFlags


class _ContextReader(SpanExporter):
    def __init__(self) -> None:
        self.context = Context()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.context = otel_context.get_current()
        return SpanExportResult.SUCCESS


@cache
def suppressed() -> Context:
    """The context in which instrumentation does nothing, as OpenTelemetry's exporters send spans in.

    The key is private, and random in each process. So it is read where a public class of the SDK has set it.
    """
    reader = _ContextReader()
    sampled = SpanContext(1, 1, is_remote=False, trace_flags=TraceFlags(TraceFlags.SAMPLED))
    token = otel_context.attach(Context())
    try:
        SimpleSpanProcessor(reader).on_end(ReadableSpan("", sampled))
    finally:
        otel_context.detach(token)
    # Instrumentation from before there was such a key reads this one.
    return otel_context.set_value("suppress_instrumentation", True, reader.context)


def is_suppressed(context: Context) -> bool:
    """Whether instrumentation, ours too, does nothing in `context`."""
    return bool(context) and any(context.get(key) for key in suppressed())  # most requests have no values of their own
