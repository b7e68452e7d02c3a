"""The span of one request, and the kind of processor that takes it as it is."""

from collections.abc import Callable, Mapping, Sequence
from time import time_ns
from typing import Any

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan, SpanProcessor
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, Span, SpanContext, SpanKind, Status, StatusCode
from opentelemetry.util.types import Attributes

from ..context import RequestContext
from ..version import __version__

SCOPE = InstrumentationScope("chassis", __version__)
UNSET = Status()
PLAIN = (str, int, float, bytes)  # bool is an int


class SharedAttributes(dict[str, Any]):
    """Attributes that many spans have in common, and their encoded form once it is known."""

    __slots__ = ("encoded",)

    def __init__(self, attributes: Mapping[str, Any]) -> None:
        super().__init__(attributes)
        self.encoded: bytes | None = None


NO_ATTRIBUTES = SharedAttributes({})


class RequestSpan(Span):
    """The server span of one sampled request, leaner than the SDK's: no lock, and no limits to check.

    Handlers find it as the current span. `RequestSpanProcessor`s get it as it is; for all other processors and
    exporters, `readable` builds the SDK's object.
    """

    # Most spans keep these; an attribute of the class costs nothing for each of them.
    kind: SpanKind = SpanKind.SERVER
    status: Status = UNSET
    end_time: int | None = None
    events: Sequence[Event] = ()
    links: Sequence[Link] = ()
    shared_attributes: SharedAttributes = NO_ATTRIBUTES
    """Set at the end; where a handler has set one of these attributes as well, this one is exported."""

    def __init__(
        self,
        name: str,
        request: RequestContext,
        parent: SpanContext | None,
        *,
        resource: Resource,
        export: "Callable[[RequestSpan], None]",
    ) -> None:
        self.name: str = name
        self.request: RequestContext = request
        self.parent: SpanContext | None = parent
        self.resource: Resource = resource
        self.own_attributes: dict[str, Any] = {}
        self.start_time: int = time_ns()
        self._export = export

    @property
    def attributes(self) -> dict[str, Any]:
        """All attributes, in the order in which they are exported."""
        return {**self.shared_attributes, **self.own_attributes, **self.shared_attributes}

    def readable(self) -> ReadableSpan:
        """This span as the SDK's exporters take it."""
        return ReadableSpan(
            self.name,
            self.get_span_context(),
            self.parent,
            self.resource,
            {key: _plain(value) for key, value in self.attributes.items()},
            self.events,
            self.links,
            self.kind,
            status=self.status,
            start_time=self.start_time,
            end_time=self.end_time,
            instrumentation_scope=SCOPE,
        )

    def get_span_context(self) -> SpanContext:
        """The ids of the span."""
        return self.request.span_context()

    def is_recording(self) -> bool:
        """Whether the span has not ended."""
        return self.end_time is None

    def update_name(self, name: str) -> None:
        """Rename the span; at its end it gets the name of the semantic conventions."""
        self.name = name

    def set_attribute(self, key: str, value: Any) -> None:
        """Set an attribute of the handler."""
        self.own_attributes[key] = value

    def set_attributes(self, attributes: Mapping[str, Any]) -> None:
        """Set several attributes of the handler."""
        self.own_attributes.update(attributes)

    def add_event(self, name: str, attributes: Attributes = None, timestamp: int | None = None) -> None:
        """Add an event; `timestamp` is nanoseconds since the epoch, by default now."""
        self.events = (*self.events, Event(name, attributes, timestamp))

    def add_link(self, context: SpanContext, attributes: Attributes = None) -> None:
        """Link another span."""
        self.links = (*self.links, Link(context, attributes))

    def record_exception(
        self,
        exception: BaseException,
        attributes: Attributes = None,
        timestamp: int | None = None,
        escaped: bool = False,
    ) -> None:
        """Add the event of the semantic conventions; the traceback is in the log, under the same ids."""
        facts = {
            "exception.type": type(exception).__qualname__,
            "exception.message": str(exception),
            "exception.escaped": str(escaped),
        }
        self.add_event("exception", facts | dict(attributes or {}), timestamp)

    def set_status(self, status: Status | StatusCode, description: str | None = None) -> None:
        """Set the status; a response of 500 or above is an error in any case."""
        self.status = status if isinstance(status, Status) else Status(status, description)

    def end_after(self, seconds: float) -> None:
        """End the span that many seconds after its start."""
        self.end(self.start_time + int(seconds * 1e9))

    def end(self, end_time: int | None = None) -> None:
        """End the span once, at nanoseconds since the epoch or now, and export it."""
        if self.end_time is None:
            self.end_time = end_time or time_ns()
            self._export(self)


class RequestSpanProcessor(SpanProcessor):
    """A span processor that takes the spans of requests as they are, and all others by `on_end`."""

    def on_request_end(self, span: RequestSpan) -> None:
        """The span of a request has ended; called in the thread in which it ends. By default like all other spans."""
        self.on_end(span.readable())


def _plain(value: Any) -> Any:
    """An attribute's value as the SDK keeps it: anything that is no attribute value becomes its text."""
    if value is None or isinstance(value, PLAIN):
        return value
    if isinstance(value, Sequence):
        return tuple(_plain(item) for item in value)
    return str(value)
