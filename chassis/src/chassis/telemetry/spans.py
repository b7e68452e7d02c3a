"""The span of one request, and the kind of processor that takes it as it is."""

from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from time import time_ns
from traceback import format_exception
from typing import Any, TypeVar, cast

from opentelemetry.attributes import BoundedAttributes
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan, SpanLimits, SpanProcessor
from opentelemetry.sdk.util import BoundedList
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, Span, SpanContext, SpanKind, Status, StatusCode
from opentelemetry.util.types import Attributes

from ..context import RequestContext
from ..version import __version__
from .error_type import qualified_name
from .plain_values import text
from .redaction import Redactor
from .resource import SCHEMA_URL

SCOPE = InstrumentationScope("chassis", __version__, SCHEMA_URL)
UNSET = Status()
PLAIN = (str, int, float, bytes)  # bool is an int
Item = TypeVar("Item")
DEFAULT_MAX = 128  # Span Limits
DEFAULT_LIMITS = SpanLimits(
    max_attributes=DEFAULT_MAX,
    max_events=DEFAULT_MAX,
    max_links=DEFAULT_MAX,
    max_span_attributes=DEFAULT_MAX,
    max_event_attributes=DEFAULT_MAX,
    max_link_attributes=DEFAULT_MAX,
    max_attribute_length=SpanLimits.UNSET,
    max_span_attribute_length=SpanLimits.UNSET,
)


class SharedAttributes(dict[str, Any]):
    """Attributes that many spans have in common, and their encoded form once it is known."""

    __slots__ = ("encoded",)

    def __init__(self, attributes: Mapping[str, Any]) -> None:
        super().__init__(attributes)
        self.encoded: bytes | None = None


NO_ATTRIBUTES = SharedAttributes({})


class RequestSpan(Span):
    """The server span of one sampled request, without the lock of the SDK's. Values are cleaned when they are exported.

    Another thread exports it. So nothing changes it after its end, as the specification says.
    Handlers find it as the current span. `RequestSpanProcessor`s get it as it is; for all other processors and
    exporters, `readable` builds the SDK's object.
    """

    # The defaults of most spans are attributes of the class. See docs/performance.md in the template.
    kind: SpanKind = SpanKind.SERVER
    status: Status = UNSET
    events: Sequence[Event] = ()
    links: Sequence[Link] = ()
    # Beyond the limits.
    dropped_attributes: int = 0
    dropped_events: int = 0
    dropped_links: int = 0

    def __init__(
        self,
        name: str,
        request: RequestContext,
        parent: SpanContext | None,
        *,
        resource: Resource,
        export: "Callable[[RequestSpan], None]",
        redactor: Redactor,
        limits: SpanLimits = DEFAULT_LIMITS,
    ) -> None:
        self.name: str = name
        self.request: RequestContext = request
        self.parent: SpanContext | None = parent
        self.resource: Resource = resource
        self.own_attributes: dict[str, Any] = {}
        self.shared_attributes: SharedAttributes = NO_ATTRIBUTES
        """Set at the end; where a handler has set one of these attributes as well, this one is exported."""
        self.start_time: int = time_ns()
        self.end_time: int | None = None
        self._export = export
        self._redactor = redactor
        self._limits = limits

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
            _bounded_attributes(self.attributes, self.dropped_attributes),
            _bounded(self.events, self.dropped_events),
            _bounded(self.links, self.dropped_links),
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
        if self.end_time is None:
            self.name = name

    def set_attribute(self, key: str, value: Any) -> None:
        """Set an attribute of the handler; those beyond the limit are counted and dropped."""
        if self.end_time is not None:
            return
        own, most = self.own_attributes, self._limits.max_span_attributes
        if key in own or most is None or len(own) < most:
            own[key] = value
        else:
            self.dropped_attributes += 1

    def set_attributes(self, attributes: Mapping[str, Any]) -> None:
        """Set several attributes of the handler."""
        for key, value in attributes.items():
            self.set_attribute(key, value)

    def add_event(self, name: str, attributes: Attributes = None, timestamp: int | None = None) -> None:
        """Add an event; `timestamp` is nanoseconds since the epoch, by default now.

        At the limit the oldest event is dropped and counted.
        """
        if self.end_time is not None:
            return
        limits = self._limits
        facts = BoundedAttributes(limits.max_event_attributes, attributes, True, limits.max_attribute_length)
        events = (*self.events, Event(name, facts, timestamp))
        self.events = _last(events, limits.max_events)
        self.dropped_events += len(events) - len(self.events)

    def add_link(self, context: SpanContext, attributes: Attributes = None) -> None:
        """Link another span. At the limit the oldest link is dropped and counted."""
        if self.end_time is not None:
            return
        limits = self._limits
        facts = BoundedAttributes(limits.max_link_attributes, attributes, True, limits.max_attribute_length)
        links = (*self.links, Link(context, facts))
        self.links = _last(links, limits.max_links)
        self.dropped_links += len(links) - len(self.links)

    def record_exception(
        self,
        exception: BaseException,
        attributes: Attributes = None,
        timestamp: int | None = None,
        escaped: bool = False,
    ) -> None:
        """Add the event of the semantic conventions for exceptions, without secrets as in log lines.

        `escaped` is deprecated there, and not written.
        """
        redactor = self._redactor
        facts = {
            "exception.type": qualified_name(type(exception)),
            "exception.message": redactor.redact_text(text(exception)),
            "exception.stacktrace": redactor.redact_traceback("".join(format_exception(exception))),
        }
        self.add_event("exception", facts | dict(attributes or {}), timestamp)

    def set_status(self, status: Status | StatusCode, description: str | None = None) -> None:
        """Set the status; a response of 500 or above is an error in any case."""
        if self.end_time is None:
            self.status = status if isinstance(status, Status) else Status(status, description)

    def end_after(self, seconds: float) -> None:
        """End the span that many seconds after its start."""
        self.end(self.start_time + int(seconds * 1e9))

    def end(self, end_time: int | None = None) -> None:
        """End the span once, at nanoseconds since the epoch or now, and export it."""
        if self.end_time is None:
            self.end_time = end_time or time_ns()
            limits = self._limits
            if limits.max_span_attribute_length is not None or limits.max_span_attributes != DEFAULT_MAX:
                self._keep_limits()
            self._export(self)

    def _keep_limits(self) -> None:
        """Apply limits that are not the default to the attributes of the conventions as well."""
        most, longest = self._limits.max_span_attributes, self._limits.max_span_attribute_length
        attributes = self.attributes
        kept = dict(islice(attributes.items(), most))
        self.dropped_attributes += len(attributes) - len(kept)
        self.own_attributes = kept if longest is None else {key: _cut(value, longest) for key, value in kept.items()}
        self.shared_attributes = NO_ATTRIBUTES


class TaskSpan(RequestSpan):
    """The span of work that no request has asked for."""

    kind = SpanKind.INTERNAL


class MessageSpan(RequestSpan):
    """The span of a message that is processed."""

    kind = SpanKind.CONSUMER


class RequestSpanProcessor(SpanProcessor):
    """A span processor that takes the spans of requests as they are, and all others by `on_end`."""

    def on_request_end(self, span: RequestSpan) -> None:
        """The span of a request has ended; called in the thread in which it ends. By default like all other spans."""
        self.on_end(span.readable())


def _last(items: tuple[Item, ...], most: int | None) -> tuple[Item, ...]:
    return items if most is None else items[max(len(items) - most, 0) :]


def _bounded(items: Sequence[Item], dropped: int) -> Sequence[Item]:
    """The items with the number of those that were dropped, as the SDK keeps it."""
    if not dropped:
        return items
    bounded = BoundedList.from_seq(len(items), items)
    bounded.dropped = dropped
    return cast("Sequence[Item]", bounded)


def _bounded_attributes(attributes: Mapping[str, Any], dropped: int) -> BoundedAttributes:
    bounded = BoundedAttributes(attributes={key: _plain(value) for key, value in attributes.items()})
    bounded.dropped += dropped
    return bounded


def _plain(value: Any) -> Any:
    """An attribute's value as the SDK keeps it: any other object becomes its text."""
    if value is None or isinstance(value, PLAIN):
        return value
    if isinstance(value, Sequence):
        return tuple(_plain(item) for item in value)
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return text(value)


def _cut(value: Any, longest: int) -> Any:
    """An attribute's value with texts that are no longer than a limit."""
    if isinstance(value, str):
        return value[:longest]
    return tuple(_cut(item, longest) for item in value) if isinstance(value, list | tuple) else value
