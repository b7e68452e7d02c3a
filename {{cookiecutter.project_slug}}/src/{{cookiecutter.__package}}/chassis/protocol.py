"""uvicorn's HTTP/1.1 protocol with a shorter way from request to response.

httptools parses and uvicorn keeps connections, as always. What differs: head and body of a response
leave in one `write`, header lines that repeat are checked and encoded once, and what the event loop
has to schedule for each request is its task alone.
"""

import asyncio
import re
from collections.abc import Awaitable, Generator, Iterable
from contextvars import Context
from http import HTTPStatus
from typing import Any
from urllib.parse import unquote

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

STATUS_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus}
NO_CONTENT = frozenset({204, 304})

# RFC 9110, sections 5.1 and 5.5: what must not stand in a field's name and value.
BAD_NAME = re.compile(rb"[^!#$%&'*+\-.^_`|~0-9A-Za-z]")
BAD_VALUE = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")

# Fields that frame the message are read each time, and those that differ each time aren't worth remembering.
FRAMING = frozenset({b"connection", b"content-length", b"transfer-encoding"})
VARYING = frozenset({b"etag", b"last-modified", b"location", b"set-cookie", b"x-request-id"})
MAX_REMEMBERED_LINES = 1024
LARGE_BODY_BYTES = 65_536

# The checked wire form of header fields that come again and again, such as the security headers.
remembered_lines: dict[tuple[bytes, bytes], bytes] = {}


def field_line(name: bytes, value: bytes) -> bytes:
    """A header field as it is sent; raises `RuntimeError` for one that would break the message."""
    if not name or BAD_NAME.search(name):
        raise RuntimeError("Invalid HTTP header name.")
    if BAD_VALUE.search(value):
        raise RuntimeError("Invalid HTTP header value.")
    lower = name.lower()
    line = lower + b": " + value + b"\r\n"
    if lower not in FRAMING and lower not in VARYING:
        if len(remembered_lines) >= MAX_REMEMBERED_LINES:
            remembered_lines.clear()
        remembered_lines[name, value] = line
    return line


class Done:
    """What `send` returns when there is nothing to wait for; awaiting it costs less than a coroutine."""

    def __await__(self) -> Generator[None, None, None]:
        return NOTHING


NOTHING: Generator[None, None, None] = (one for one in list[None]())
DONE = Done()


class Exchange(RequestResponseCycle):
    """One request and its response; the ASGI `send` that holds the head until there is a body to go with it."""

    tasks: set[asyncio.Task[None]]
    _head: list[bytes] | None = None

    async def run_asgi(self, app: Any) -> None:
        """Let the application answer; what escapes it is logged by uvicorn, and answered with 500 or a close."""
        try:
            await super().run_asgi(app)
        finally:
            # Here, and not in a callback of the task, which the event loop would have to schedule.
            self.tasks.discard(asyncio.current_task())

    def send(self, message: Any) -> Awaitable[None]:  # type: ignore[override]
        """The ASGI application's `send`, for HTTP responses."""
        if self.disconnected:
            return DONE
        if self.flow.write_paused:
            return self._send_when_writable(message)
        kind = message["type"]
        if not self.response_started:
            if kind != "http.response.start":
                raise RuntimeError(f"Expected ASGI message 'http.response.start', but got '{kind}'.")
            # First the head: if it is refused, another answer can still be given.
            self._head = self._encode_head(message["status"], message.get("headers", ()))
            self.response_started = True
            self.waiting_for_100_continue = False
        elif not self.response_complete:
            if kind != "http.response.body":
                raise RuntimeError(f"Expected ASGI message 'http.response.body', but got '{kind}'.")
            self._write_body(message.get("body", b""), message.get("more_body", False))
        else:
            raise RuntimeError(f"Unexpected ASGI message '{kind}' sent, after response already completed.")
        return DONE

    async def _send_when_writable(self, message: Any) -> None:
        await self.flow.drain()
        await self.send(message)

    def _encode_head(self, status: int, headers: Iterable[tuple[bytes, bytes]]) -> list[bytes]:
        lines = [STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status]
        closes = False
        for header in (*self.default_headers, *headers):
            line = remembered_lines.get(header)
            if line is None:
                line = field_line(*header)
                name = line[: len(header[0])]
                if name in FRAMING:
                    closes = self._frame(name, header[1].lower()) or closes
            lines.append(line)
        if not self.keep_alive and not closes:
            lines.append(b"connection: close\r\n")
        if self.chunked_encoding is None and self.scope["method"] != "HEAD" and status not in NO_CONTENT:
            self.chunked_encoding = True
            lines.append(b"transfer-encoding: chunked\r\n")
        lines.append(b"\r\n")
        return lines

    def _frame(self, name: bytes, value: bytes) -> bool:
        """Take the message's framing from a field of its head; whether it closes the connection."""
        if name == b"content-length":
            if self.chunked_encoding is None:
                self.expected_content_length = int(value)
                self.chunked_encoding = False
        elif name == b"transfer-encoding":
            if value == b"chunked":
                self.expected_content_length = 0
                self.chunked_encoding = True
        elif b"close" in value:
            self.keep_alive = False
            return True
        return False

    def _write_body(self, body: bytes, more_body: bool) -> None:
        lines = self._head or []
        self._head = None
        if self.scope["method"] == "HEAD":
            self.expected_content_length = 0
        elif self.chunked_encoding:
            if body:
                lines += (b"%x\r\n" % len(body), body, b"\r\n")
            if not more_body:
                lines.append(b"0\r\n\r\n")
        else:
            self.expected_content_length -= len(body)
            if self.expected_content_length < 0:
                raise RuntimeError("Response content longer than Content-Length")
            lines.append(body)
        if not more_body and self.expected_content_length != 0:
            raise RuntimeError("Response content shorter than Content-Length")
        if len(body) < LARGE_BODY_BYTES:
            self.transport.write(b"".join(lines))
        else:
            self.transport.writelines(lines)  # copying this much costs more than it saves
        if not more_body:
            self.response_complete = True
            self.message_event.set()
            if not self.keep_alive:
                self.transport.close()
            self.on_response()


class HttpProtocol(HttpToolsProtocol):
    """A connection."""

    _idle_since: float | None = None

    def on_headers_complete(self) -> None:
        """httptools' callback: the head of a request is there, so the request begins."""
        parser = self.parser
        version = parser.get_http_version()
        scope: Any = self.scope
        scope["method"] = parser.get_method().decode("ascii")
        if version != "1.1":
            scope["http_version"] = version
        if parser.should_upgrade() and self._should_upgrade():
            return
        url = httptools.parse_url(self.url)
        path = url.path.decode("ascii")
        scope["path"] = unquote(path) if "%" in path else path
        scope["raw_path"] = url.path
        scope["query_string"] = url.query or b""

        before = self.cycle
        self.cycle = cycle = Exchange(
            scope=scope,
            transport=self.transport,
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=False,
            default_headers=self.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=self.expect_100_continue,
            keep_alive=version != "1.0" and parser.should_keep_alive(),
            on_response=self.on_response_complete,
        )
        cycle.tasks = self.tasks
        if before is None or before.response_complete:
            self._start_asgi_task(cycle, self.app)
        else:
            # A pipelined request waits for the one before (RFC 9112, section 9.3.2).
            self.flow.pause_reading()
            self.pipeline.appendleft((cycle, self.app))

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        # A context of its own, or a pipelined request would begin with the variables of the one before.
        self.tasks.add(self.loop.create_task(cycle.run_asgi(app), context=Context()))

    def send_400_response(self, msg: str) -> None:
        """Answer what httptools refused to read, and close; no application has seen it."""
        body = b'{"type":"about:blank","title":"Bad Request","status":400,"detail":"%b"}' % msg.encode()
        head = b"content-type: application/problem+json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(body)
        self.transport.write(STATUS_LINES[400] + head + body)
        self.transport.close()

    # uvicorn starts and cancels a timer for each request. One for each connection does, which looks
    # when it is due whether there has been a request since.

    def on_response_complete(self) -> None:
        """A response is out: begin the pipelined request that waits for it, or be idle."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            cycle, app = self.pipeline.pop()
            self._start_asgi_task(cycle, app)
            return
        self._idle_since = self.loop.time()
        if self.timeout_keep_alive_task is None:
            self._close_when_idle_for(self.timeout_keep_alive)

    def _unset_keepalive_if_required(self) -> None:
        self._idle_since = None

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone, and with it its timer."""
        super().connection_lost(exc)
        if self.timeout_keep_alive_task is not None:
            self.timeout_keep_alive_task.cancel()

    def _close_when_idle_for(self, seconds: float) -> None:
        self.timeout_keep_alive_task = self.loop.call_later(seconds, self.timeout_keep_alive_handler)

    def timeout_keep_alive_handler(self) -> None:
        """Close the connection if it has been idle for the whole time."""
        self.timeout_keep_alive_task = None
        if self._idle_since is None or self.transport.is_closing():
            return
        left = self._idle_since + self.timeout_keep_alive - self.loop.time()
        if left > 0:
            self._close_when_idle_for(left)
        else:
            self.transport.close()
