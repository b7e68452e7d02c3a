"""The context and the span of one request, as OpenTelemetry and everybody who uses it finds them."""

from collections.abc import Callable, Mapping
from time import time_ns
from typing import Any

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Span, SpanContext, SpanKind, Status, StatusCode
from opentelemetry.util.types import Attributes

from ..context import RequestContext
from ..version import __version__

SCOPE = InstrumentationScope("chassis", __version__)
UNSET = Status()


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
