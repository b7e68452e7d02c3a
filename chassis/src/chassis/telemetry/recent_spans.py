"""Keeps the spans of the last traces in memory, so that traces can be seen without a collector."""

from collections import deque
from typing import Any

from opentelemetry.sdk.trace import Event, ReadableSpan

from .plain_values import text
from .spans import RequestSpan, RequestSpanProcessor

MAX_TRACES = 200
MAX_SPANS = 500  # of one trace
PLAIN = (str, int, float, type(None))  # bool is an int

AnySpan = RequestSpan | ReadableSpan


class RecentSpans(RequestSpanProcessor):
    """Keeps ended spans by their traces: the last `max_traces` traces, and the last `max_spans` spans of each."""

    def __init__(self, *, max_traces: int = MAX_TRACES, max_spans: int = MAX_SPANS) -> None:
        self._max_traces = max_traces
        self._max_spans = max_spans
        # The trace that began first is the first. Spans end in any thread, so each step below is one call.
        self._traces: dict[str, deque[AnySpan]] = {}

    def on_request_end(self, span: RequestSpan) -> None:
        """Keep the span of a request as it is."""
        self._add(span.request.trace_id, span)

    def on_end(self, span: ReadableSpan) -> None:
        """Keep any other span."""
        if span.context is not None:
            self._add(f"{span.context.trace_id:032x}", span)

    def _add(self, trace_id: str, span: AnySpan) -> None:
        self._traces.setdefault(trace_id, deque(maxlen=self._max_spans)).append(span)
        if len(self._traces) > self._max_traces:
            for oldest in list(self._traces)[: -self._max_traces]:
                self._traces.pop(oldest, None)

    def documents(self, *, trace_id: str | None = None, limit: int = MAX_TRACES) -> list[dict[str, Any]]:
        """The spans of one trace, or of the last `limit` traces, in the order in which they ended."""
        traces = list(self._traces.values())[-limit:] if trace_id is None else [self._traces.get(trace_id, ())]
        return [document_of(span) for spans in traces for span in list(spans)]


def document_of(span: AnySpan) -> dict[str, Any]:
    """A span for JSON: ids in hexadecimal, times in microseconds since the epoch."""
    readable = span.readable() if isinstance(span, RequestSpan) else span
    context, start = readable.get_span_context(), readable.start_time or 0
    return {
        "trace_id": f"{context.trace_id:032x}" if context is not None else "",
        "span_id": f"{context.span_id:016x}" if context is not None else "",
        "parent_span_id": f"{readable.parent.span_id:016x}" if readable.parent is not None else None,
        "name": readable.name,
        "kind": readable.kind.name.lower(),
        "status": readable.status.status_code.name.lower(),
        "description": readable.status.description,
        "start_us": start // 1000,
        "duration_us": ((readable.end_time or start) - start) // 1000,
        "scope": readable.instrumentation_scope.name if readable.instrumentation_scope is not None else "",
        "attributes": {key: plain(value) for key, value in (readable.attributes or {}).items()},
        "events": [event_document(event, start) for event in readable.events],
        "links": [{"trace_id": f"{link.context.trace_id:032x}"} for link in readable.links],
    }


def event_document(event: Event, start: int) -> dict[str, Any]:
    """An event of a span, with the time since the span's start."""
    attributes = {key: plain(value) for key, value in (event.attributes or {}).items()}
    return {"name": event.name, "after_us": (event.timestamp - start) // 1000, "attributes": attributes}


def plain(value: object) -> Any:
    """An attribute's value for JSON."""
    if isinstance(value, PLAIN):
        return value
    return [plain(item) for item in value] if isinstance(value, list | tuple) else text(value)
