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

    - `data` is text, sent unchanged, or any other value, sent as JSON; pydantic models by their aliases. None means no
      data: browsers store `id` and `retry` of such an event, and dispatch nothing. To send a JSON null, write "null".
    - `id` is sent back by clients as `Last-Event-ID` when they reconnect. Use ASCII only, since it is a header field.
    - `event` is the event's type, "message" by default.
    - `retry` is the time in milliseconds after which clients reconnect.
    - `comment` is for people who read the stream.

    Raises `ValueError` for line breaks in `id` or `event`, NUL in `id`, a negative `retry`, and an empty event.
    """

    data: Any = None
    id: str | None = None
    event: str | None = None
    retry: int | None = None
    comment: str | None = None

    def __post_init__(self) -> None:
        for name, value in (("id", self.id), ("event", self.event)):
            if value is not None and LINE_BREAK.search(value):
                raise ValueError(f"the {name} of an event has a line break: {value!r}; remove it")
        if self.id is not None and "\0" in self.id:
            raise ValueError(
                f"the id of an event has a NUL character: {self.id!r}; remove it, or clients ignore the id"
            )
        if self.retry is not None and self.retry < 0:
            raise ValueError(f"the retry of an event is {self.retry}; use milliseconds, 0 or more")
        if all(value is None for value in (self.data, self.id, self.event, self.retry, self.comment)):
            raise ValueError("the event is empty; set at least one of data, id, event, retry and comment")

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
        return _joined(lines)


class EventStream(StreamedResponse):
    """A response of server-sent events. Return it from a handler:

        async def get(self, last_event_id: Annotated[str | None, Header()] = None) -> EventStream:
            return EventStream(self._news.since(last_event_id))

    `events` yields an `Event`, or only its data: text is sent unchanged, any other value as JSON. A client that
    reconnects sends the `id` of the last event that it received as the header `Last-Event-ID`.

    After `heartbeat_seconds` without an event, a comment is sent, so that proxies keep the connection open and a
    disconnect is detected; None sends no heartbeats. `retry` is sent once at the start: the time in milliseconds after
    which clients reconnect.

    The response ends when graceful shutdown begins (`App.draining`), so that clients reconnect to another instance.
    `retry_when_draining` is their delay in milliseconds. Events that were yielded before are sent, and the cleanup of a
    generator runs.

    See `StreamedResponse` for failures, slow clients and disconnects. Raises `TypeError` if `events` is not an async
    iterable, and `ValueError` for an invalid heartbeat or retry.
    """

    media_type = MEDIA_TYPE
    ends_when_draining = True
    heartbeat = b":\n\n"

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
            raise TypeError(
                f"events is of type {type(events).__name__}; pass an async generator or another async iterable"
            )
        if heartbeat_seconds is not None and heartbeat_seconds <= 0:
            raise ValueError(f"heartbeat_seconds is {heartbeat_seconds}; pass more than 0, or None for no heartbeats")
        self.heartbeat_seconds: float | None = heartbeat_seconds
        self.opening: bytes = _retry(retry)
        self.closing: bytes = _retry(retry_when_draining)
        given = {name.lower(): value for name, value in (headers or {}).items()}
        # nginx and similar proxies buffer a response unless this header forbids it.
        defaults = {"content-type": MEDIA_TYPE, "cache-control": "no-store", "x-accel-buffering": "no"}
        super().__init__(defaults | given, background)
        self._events = events

    def produce(self, scope: Scope) -> Producer[Any]:
        return Producer(self._events, encode_event)


def encode_event(value: Any) -> bytes:
    """The bytes of an `Event`, or of an event with `value` as its data."""
    return value.encode() if isinstance(value, Event) else _joined(_lines("data", _text(value)))


def _text(data: Any) -> str:
    return data if isinstance(data, str) else pydantic_core.to_json(data, inf_nan_mode="null").decode()


def _lines(field: str, value: str | None) -> list[str]:
    """A field for each line of `value`; clients join the lines of data again."""
    return [] if value is None else [f"{field}: {line}" for line in LINE_BREAK.split(value)]


def _joined(lines: list[str]) -> bytes:
    return ("\n".join(lines) + "\n\n").encode()


def _retry(milliseconds: int | None) -> bytes:
    return b"" if milliseconds is None else Event(retry=milliseconds).encode()
