"""The context and the span of one request, as OpenTelemetry and everybody who uses it finds them."""

from collections.abc import Callable, Mapping
from time import time_ns
from typing import Any

from opentelemetry import trace
from opentelemetry.context import Context, create_key
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import (
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    set_span_in_context,
)
from opentelemetry.trace.span import TraceState
from opentelemetry.util.types import Attributes

from .version import __version__

# OpenTelemetry's own key for the current span, learned from its public function.
SPAN_KEY: str = next(iter(set_span_in_context(trace.INVALID_SPAN, Context())))
REQUEST_KEY = create_key("chassis-request")

SCOPE = InstrumentationScope("chassis", __version__)
NOT_SAMPLED = TraceFlags(TraceFlags.DEFAULT)
SAMPLED = TraceFlags(TraceFlags.SAMPLED)
UNSET = Status()


class RequestContext(Context):
    """OpenTelemetry's current context while a request is handled: its ids, and its span on demand.

    Ids are kept as the lower-case hexadecimal text of W3C Trace Context; most requests need no more.
    """

    # With a dictionary for them a request would take longer to begin.
    __slots__ = ("_span", "request_id", "sampled", "span_id", "trace_id", "trace_state")

    def __init__(self, trace_id: str, span_id: str, request_id: str, sampled: bool) -> None:
        self.trace_id = trace_id
        self.span_id = span_id
        self.request_id = request_id or trace_id
        self.sampled = sampled
        self.trace_state: TraceState | None = None
        self._span: Span | None = None

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


class RememberedAttributes(dict[str, Any]):
    """Attributes that many spans have in common, with the form in which they are exported once that is known."""

    __slots__ = ("encoded",)

    def __init__(self, attributes: Mapping[str, Any]) -> None:
        super().__init__(attributes)
        self.encoded: bytes | None = None


NO_ATTRIBUTES = RememberedAttributes({})


class RequestSpan(ReadableSpan, Span):
    """The server span of one sampled request, leaner than the SDK's: no lock, no limits to check.

    Handlers find it as the current span; processors and exporters take it as any of the SDK's.
    """

    # What is the same for all of them; the names are those that ReadableSpan's properties read.
    _kind = SpanKind.SERVER
    _instrumentation_info = None
    _instrumentation_scope = SCOPE
    _links = ()
    _name = ""
    _status = UNSET
    _end_time: int | None = None
    _span_context: SpanContext | None = None

    # Without the base's, which sets each of these for each span.
    def __init__(
        self,
        request: RequestContext,
        parent: SpanContext | None,
        *,
        resource: Resource,
        export: Callable[[ReadableSpan], None],
    ) -> None:
        self.request = request
        self._parent = parent
        self._resource = resource
        self._export = export
        self.own_attributes: dict[str, Any] = {}
        self.described = NO_ATTRIBUTES
        self._events: list[Event] = []
        self._start_time = time_ns()

    # What costs something is made when it is asked for, under the names that the base reads.

    @property
    def _context(self) -> SpanContext:  # type: ignore[override]
        if self._span_context is None:
            self._span_context = self.request.span_context()
        return self._span_context

    @property
    def _attributes(self) -> dict[str, Any]:  # type: ignore[override]
        # The order in which they are exported; where both say something, the request is right.
        return {**self.described, **self.own_attributes, **self.described}

    def get_span_context(self) -> SpanContext:
        return self._context

    def is_recording(self) -> bool:
        return self._end_time is None

    def update_name(self, name: str) -> None:
        self._name = name

    def set_attribute(self, key: str, value: Any) -> None:
        self.own_attributes[key] = value

    def set_attributes(self, attributes: Mapping[str, Any]) -> None:
        self.own_attributes.update(attributes)

    def add_event(self, name: str, attributes: Attributes = None, timestamp: int | None = None) -> None:
        self._events.append(Event(name, attributes, timestamp))

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

    def end_after(self, seconds: float) -> None:
        """End the span so long after its start."""
        self.end((self._start_time or 0) + int(seconds * 1e9))

    def end(self, end_time: int | None = None) -> None:
        if self._end_time is None:
            self._end_time = end_time or time_ns()
            self._export(self)
