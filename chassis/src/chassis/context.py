"""The context of one request: what `api`, `http`, `telemetry` and `middleware` share of it."""

from collections.abc import Mapping
from typing import Any

from opentelemetry.context import Context, create_key, get_current
from opentelemetry.trace import (
    INVALID_SPAN_CONTEXT,
    NonRecordingSpan,
    Span,
    SpanContext,
    TraceFlags,
    TraceState,
    set_span_in_context,
)

# OpenTelemetry's own key for the current span, learned from its public function.
SPAN_KEY: str = next(iter(set_span_in_context(NonRecordingSpan(INVALID_SPAN_CONTEXT), Context())))
REQUEST_KEY: str = create_key("chassis-request")

# W3C Trace Context level 2, by the two flags that it defines: random-trace-id and sampled.
FLAGS = {
    (has_random_id, sampled): TraceFlags(TraceFlags.RANDOM_TRACE_ID * has_random_id | TraceFlags.SAMPLED * sampled)
    for has_random_id in (False, True)
    for sampled in (False, True)
}


class RequestContext(Context):
    """OpenTelemetry's current context while a request is handled: its ids, and its span on demand.

    Ids are kept as the lower-case hexadecimal text of W3C Trace Context; most requests need no more.
    OpenTelemetry's `get_value` reads a context by `get`, and its `set_value` derives one from `copy`; these two
    methods of a dictionary are overridden, so that the span is built only when somebody asks for it.
    """

    # With a dictionary for them a request would take longer to begin.
    __slots__ = ("_span", "facts", "has_random_id", "request_id", "sampled", "span_id", "trace_id", "trace_state")

    def __init__(
        self,
        trace_id: str,
        span_id: str,
        request_id: str,
        sampled: bool,
        values: Mapping[str, object] | None = None,
        trace_state: TraceState | None = None,
        has_random_id: bool = True,
    ) -> None:
        """`values` are those of an extracted context, such as baggage. Without a request id, the trace id is used.

        `has_random_id` says whether whoever made the trace id says that it is random; ours are.
        """
        if values is not None:
            super().__init__(values)
        self.trace_id: str = trace_id
        self.span_id: str = span_id
        self.request_id: str = request_id or trace_id
        self.sampled: bool = sampled
        self.trace_state: TraceState | None = trace_state
        self.has_random_id: bool = has_random_id
        self.facts: dict[str, object] | None = None
        """Of the service's owner, for the access line and the span: see `annotate`."""
        self._span: Span | None = None

    @property
    def span(self) -> Span:
        """The recorded span of a sampled request, else one that only carries the ids to others."""
        if self._span is None:
            self._span = NonRecordingSpan(self.span_context())
        return self._span

    def span_context(self) -> SpanContext:
        """The ids in OpenTelemetry's form."""
        flags = FLAGS[self.has_random_id, self.sampled]
        return SpanContext(int(self.trace_id, 16), int(self.span_id, 16), False, flags, self.trace_state)

    def record(self, span: Span) -> None:
        """Let `span` be the request's span; called before anybody can have asked for another."""
        self._span = span

    def get(self, key: str, default: Any = None) -> Any:
        """The value for `key`; the span and the request have their keys as in any other context."""
        if key == SPAN_KEY:
            return self.span
        if key == REQUEST_KEY:
            return self
        return super().get(key, default)

    def copy(self) -> dict[str, object]:
        """The values from which OpenTelemetry derives a child's context."""
        return {**self, SPAN_KEY: self.span, REQUEST_KEY: self}


def request_context(context: Context) -> RequestContext | None:
    """The request that `context` belongs to, also from below a child span; None outside of one."""
    request = context.get(REQUEST_KEY)
    return request if isinstance(request, RequestContext) else None


def annotate(**facts: object) -> None:
    """Put facts, such as `user_id=7`, on the access line and the span of the current request or WebSocket.

    Works in handlers (also `def`), in middleware, and in tasks and threads that the request has started, until its
    response is complete; later, and outside of a request, it does nothing. A later fact replaces one of the same name.
    Secret keys are redacted. A fact with the name of a field that the line has, such as `status`, gets `_` behind it.
    """
    request = request_context(get_current())
    if request is not None:
        request.facts = {**(request.facts or {}), **facts}


# The message of a cancellation: the server cancels a request whose client has disconnected.
CLIENT_DISCONNECTED = "the client has disconnected"
