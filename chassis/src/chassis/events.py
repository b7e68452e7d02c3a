"""Server-sent events (WHATWG HTML, section 9.2)."""

import re
from collections.abc import AsyncIterable, Mapping
from dataclasses import dataclass
from typing import Any

import pydantic_core
from starlette.background import BackgroundTask
from starlette.types import Scope

from .producer import Producer
from .streamed_response import StreamedResponse

LINE_BREAK = re.compile(r"\r\n|\r|\n")
MEDIA_TYPE = "text/event-stream"


@dataclass(frozen=True, slots=True)
class Event:
    """One server-sent event.

    `data` is text, sent as it is, or any other value, sent as JSON; pydantic models by their aliases. None stands for
    no data: browsers note such an event's `id` and `retry`, and tell nobody. To send a JSON null, write "null".
    `id` is the one that a client sends as `Last-Event-ID` when it connects again; keep it ASCII, since header fields
    are. `event` is its type, "message" by default. `retry` is the time in milliseconds after which a client connects
    again. `comment` is for people who read the stream.

    Raises `ValueError` for line breaks in `id` or `event`, NUL in `id`, a negative `retry`, and an event of nothing.
    """

    data: Any = None
    id: str | None = None
    event: str | None = None
    retry: int | None = None
    comment: str | None = None

    def __post_init__(self) -> None:
        for name, value in (("id", self.id), ("event", self.event)):
            if value is not None and LINE_BREAK.search(value):
                raise ValueError(f"the {name} of an event has a line break: {value!r}; write it on one line")
        if self.id is not None and "\0" in self.id:
            raise ValueError(f"the id of an event has a NUL character: {self.id!r}; clients would ignore it")
        if self.retry is not None and self.retry < 0:
            raise ValueError(f"the retry of an event is {self.retry}; it is a time in milliseconds, from 0 on")
        if all(value is None for value in (self.data, self.id, self.event, self.retry, self.comment)):
            raise ValueError("an event needs data, or at least a comment, an id, a type or a retry")

    def encode(self) -> bytes:
        """The lines of the event, and the empty line that ends it."""
        lines = _lines("", self.comment)
        if self.retry is not None:
            lines.append(f"retry: {self.retry}")
        if self.id is not None:
            lines.append(f"id: {self.id}")
        if self.event is not None:
            lines.append(f"event: {self.event}")
        if self.data is not None:
            lines += _lines("data", _text(self.data))
        return _ended(lines)


class EventStream(StreamedResponse):
    """A response of server-sent events: return it from a handler.

        async def get(self, last_event_id: Annotated[str | None, Header()] = None) -> EventStream:
            return EventStream(self._news.since(last_event_id))

    `events` yields an `Event`, or the data of one: text is sent as it is, any other value as JSON. A client that
    connects again sends the `id` of the last event that it got as the header `Last-Event-ID`.

    After `heartbeat_seconds` without an event, a comment is sent, so that proxies keep the connection and a client
    that has gone is noticed; None sends none. `retry` is sent once at the start: the time in milliseconds after which
    clients connect again. The response ends when the shutdown of the service begins (`App.draining`), so that clients
    connect to another instance; `retry_when_draining` tells them when, in milliseconds. Events that were yielded by
    then are sent, and the cleanup of a generator runs.

    See `StreamedResponse` for failures, slow clients, and clients that leave. Raises `TypeError` for `events` that
    cannot be iterated over asynchronously, and `ValueError` for a heartbeat or retry that is no time.
    """

    media_type = MEDIA_TYPE
    ends_when_draining = True
    silence = b":\n\n"

    def __init__(
        self,
        events: AsyncIterable[Any],
        *,
        heartbeat_seconds: float | None = 15.0,
        retry: int | None = None,
        retry_when_draining: int | None = None,
        headers: Mapping[str, str] | None = None,
        background: BackgroundTask | None = None,
    ) -> None:
        if not isinstance(events, AsyncIterable):
            raise TypeError(f"events are {type(events).__name__}; pass an async generator, or another async iterable")
        if heartbeat_seconds is not None and heartbeat_seconds <= 0:
            raise ValueError(f"heartbeat_seconds is {heartbeat_seconds}; pass more than 0, or None for no heartbeats")
        self.heartbeat_seconds = heartbeat_seconds
        self.opening = _retry(retry)
        self.closing = _retry(retry_when_draining)
        given = {name.lower(): value for name, value in (headers or {}).items()}
        # nginx, and proxies like it, would collect events before they send them on.
        own = {"content-type": MEDIA_TYPE, "cache-control": "no-store", "x-accel-buffering": "no"}
        super().__init__(own | given, background)
        self._events = events

    def produce(self, scope: Scope) -> Producer[Any]:
        return Producer(self._events, encode_event)


def encode_event(value: Any) -> bytes:
    """An `Event`, or the data of one, as it is sent."""
    return value.encode() if isinstance(value, Event) else _ended(_lines("data", _text(value)))


def _text(data: Any) -> str:
    return data if isinstance(data, str) else pydantic_core.to_json(data, inf_nan_mode="null").decode()


def _lines(field: str, value: str | None) -> list[str]:
    """A field for each line of `value`; clients put the lines of data together again."""
    return [] if value is None else [f"{field}: {line}" for line in LINE_BREAK.split(value)]


def _ended(lines: list[str]) -> bytes:
    return ("\n".join(lines) + "\n\n").encode()


def _retry(milliseconds: int | None) -> bytes:
    return b"" if milliseconds is None else Event(retry=milliseconds).encode()
