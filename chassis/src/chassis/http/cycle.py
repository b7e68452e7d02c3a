"""One request and its response, between the ASGI application and the connection."""

import asyncio
import re
from collections.abc import Awaitable, Generator, Iterable
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import structlog

from ..context import CLIENT_DISCONNECTED
from ..problem import Problem

if TYPE_CHECKING:
    from .connection import Connection

log = structlog.get_logger()

STATUS_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus}
NO_CONTENT = frozenset({204, 304})

# RFC 9110, sections 5.1 and 5.5: what must not stand in a field's name and value.
BAD_NAME = re.compile(rb"[^!#$%&'*+\-.^_`|~0-9A-Za-z]")
BAD_VALUE = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")

# Fields that frame the message are read each time, and those that differ each time aren't worth remembering.
FRAMING = frozenset({b"connection", b"content-length", b"transfer-encoding"})
VARYING = frozenset({b"etag", b"last-modified", b"location", b"set-cookie", b"x-request-id"})
MAX_REMEMBERED = 1024
MAX_REMEMBERED_BYTES = 500
LARGE_BODY_BYTES = 65_536

# The checked wire form of what comes again and again: whole fields such as the security headers, and names.
remembered_lines: dict[tuple[bytes, bytes], bytes] = {}
remembered_names: dict[bytes, bytes] = {}


class Done:
    """What `send` returns when there is nothing to wait for; awaiting it costs less than a coroutine."""

    def __await__(self) -> Generator[None, None, None]:
        return NOTHING


NOTHING: Generator[None, None, None] = (one for one in list[None]())
DONE = Done()


class Exchange:
    """The `receive` and `send` of one request; the head of the answer waits for the body to go with it."""

    # Without a leading underscore: what uvicorn's protocol reads and writes as well.
    disconnected = False
    more_body = True
    response_started = False
    response_complete = False
    task: asyncio.Task[None]
    _may_be_cancelled = False
    _body_is_delivered = False
    _problem: Problem | None = None
    _head: list[bytes] | None = None
    _chunked: bool | None = None  # until the head tells
    _length = 0  # of the content that is still to come

    def __init__(self, connection: "Connection", scope: Any, keep_alive: bool, expects_continue: bool) -> None:
        self._connection = connection
        self.scope = scope
        self.keep_alive = keep_alive
        self._expects_continue = expects_continue
        self.message_event = connection.message_event
        self.body = bytearray()

    async def run(self, app: Any) -> None:
        """Let the application answer; what escapes it is logged, and answered with 500 or a close."""
        self._may_be_cancelled = True
        try:
            if self.disconnected:  # before it could begin; nobody would know of it, were it cancelled then
                self.leave()
            await app(self.scope, self.receive, self.send)
            if not self.response_complete and not self.disconnected:
                self._give_up("ASGI callable returned without completing response")
        except asyncio.CancelledError as error:
            if not self.disconnected:
                self._give_up("ASGI application was cancelled", error)
        except BaseException as error:  # noqa: BLE001 - a task that nobody awaits; it must not end in silence
            self._give_up("Exception in ASGI application", error)
        finally:
            # Here, and not in a callback of the task, which the event loop would have to schedule.
            self._connection.tasks.discard(asyncio.current_task())

    def leave(self) -> None:
        """The client has gone: an application that waits for it is told so, any other is cancelled."""
        self.disconnected = True
        if self._may_be_cancelled:
            self.task.cancel(CLIENT_DISCONNECTED)

    def _give_up(self, event: str, error: BaseException | None = None) -> None:
        log.error(event, exc_info=error)
        if self.response_started:
            self._connection.transport.close()  # the client sees that it has only half
        elif not self.disconnected:
            self.response_started = self.response_complete = True
            self._connection.write_problem(500)

    def fail(self, problem: Problem) -> None:
        """The rest of the body won't come: `receive` raises `problem`, unless it is too late for another answer."""
        self.keep_alive = False
        if self.response_complete:
            self._connection.finish()
        elif self.response_started:
            self._connection.transport.close()
        else:
            self._problem = problem
            self.message_event.set()

    async def receive(self) -> dict[str, Any]:
        """The ASGI application's `receive`."""
        connection = self._connection
        if self._expects_continue and not self.response_started:
            self._expects_continue = False
            if self.more_body and not self.body and not connection.transport.is_closing():
                connection.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        while not self.disconnected and not self.response_complete:
            if self._problem is not None:
                raise self._problem
            if self.body or not (self.more_body or self._body_is_delivered):
                body, self.body = bytes(self.body), bytearray()
                self._body_is_delivered = not self.more_body
                return {"type": "http.request", "body": body, "more_body": self.more_body}
            connection.flow.resume_reading()
            # The connection's, which may be set for another of its requests.
            self._may_be_cancelled = False
            try:
                await self.message_event.wait()
            finally:
                self._may_be_cancelled = True
            self.message_event.clear()
        return {"type": "http.disconnect"}

    def send(self, message: Any) -> Awaitable[None]:
        """The ASGI application's `send`."""
        if self.disconnected:
            return DONE
        if self._connection.flow.write_paused:
            return self._send_when_writable(message)
        kind = message["type"]
        if not self.response_started:
            if kind != "http.response.start":
                raise RuntimeError(f"Expected ASGI message 'http.response.start', but got '{kind}'.")
            # First the head: if it is refused, another answer can still be given.
            self._head = self._encode_head(message["status"], message.get("headers", ()))
            self.response_started = True
        elif not self.response_complete:
            if kind != "http.response.body":
                raise RuntimeError(f"Expected ASGI message 'http.response.body', but got '{kind}'.")
            self._write_body(message.get("body", b""), message.get("more_body", False))
        else:
            raise RuntimeError(f"Unexpected ASGI message '{kind}' sent, after response already completed.")
        return DONE

    async def _send_when_writable(self, message: Any) -> None:
        await self._connection.flow.drain()
        await self.send(message)

    def _encode_head(self, status: int, headers: Iterable[tuple[bytes, bytes]]) -> list[bytes]:
        lines = [STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status]
        for header in (*self._connection.server_state.default_headers, *headers):
            line = remembered_lines.get(header)
            lines.append(self._line(header) if line is None else line)
        if self._expects_continue and self.more_body:
            # The client waits for leave to send the body, and may send its next request instead: there is no telling
            # the one from the other.
            self.keep_alive = False
        if not self.keep_alive:
            lines.append(b"connection: close\r\n")
        if self._chunked is None and self.scope["method"] != "HEAD" and status not in NO_CONTENT:
            self._chunked = True
            lines.append(b"transfer-encoding: chunked\r\n")
        lines.append(b"\r\n")
        return lines

    def _line(self, header: tuple[bytes, bytes]) -> bytes:
        """A field as it is sent; raises `RuntimeError` for one that would break the message."""
        name, value = header
        lower = remembered_names.get(name) or _checked(name)
        if not value.isalnum() and BAD_VALUE.search(value):
            raise RuntimeError("Invalid HTTP header value.")
        line = b"%b: %b\r\n" % (lower, value)
        if lower in FRAMING:
            return line if self._frame(lower, value.lower()) else b""
        if lower not in VARYING and len(line) <= MAX_REMEMBERED_BYTES:
            if len(remembered_lines) >= MAX_REMEMBERED:
                remembered_lines.clear()
            remembered_lines[header] = line
        return line

    def _frame(self, name: bytes, value: bytes) -> bool:
        """Take the message's framing from a field of its head; False for one that is said elsewhere."""
        if name == b"content-length":
            if self._chunked is None:
                self._length = int(value)
                self._chunked = False
        elif name == b"transfer-encoding":
            if value == b"chunked":
                self._length = 0
                self._chunked = True
        elif b"close" in value:
            self.keep_alive = False
            return False
        return True

    def _write_body(self, body: bytes, more_body: bool) -> None:
        lines = self._head or []
        self._head = None
        if self.scope["method"] == "HEAD":
            self._length = 0
        elif self._chunked:
            if body:
                lines += (b"%x\r\n" % len(body), body, b"\r\n")
            if not more_body:
                lines.append(b"0\r\n\r\n")
        else:
            self._length -= len(body)
            if self._length < 0:
                raise RuntimeError("Response content longer than Content-Length")
            lines.append(body)
        if not more_body and self._length:
            raise RuntimeError("Response content shorter than Content-Length")
        transport = self._connection.transport
        if len(body) < LARGE_BODY_BYTES:
            transport.write(b"".join(lines))
        else:
            transport.writelines(lines)  # copying this much costs more than it saves
        if not more_body:
            self.response_complete = True
            self.message_event.set()
            if self.keep_alive:
                self._connection.on_response_complete()
            else:
                self._connection.finish()


def _checked(name: bytes) -> bytes:
    if not name or BAD_NAME.search(name):
        raise RuntimeError("Invalid HTTP header name.")
    if len(remembered_names) >= MAX_REMEMBERED:
        remembered_names.clear()
    lower = remembered_names[name] = name.lower()
    return lower
