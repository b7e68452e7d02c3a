"""uvicorn's HTTP/1.1 protocol with a shorter way from request to response.

httptools parses and uvicorn keeps connections, as always. What differs: head and body of a response
leave in one `write`, header lines that repeat are checked and encoded once, and what the event loop
has to schedule for each request is its task alone.
"""

import asyncio
from contextvars import Context
from http import HTTPStatus
from time import monotonic
from typing import Any
from urllib.parse import unquote

import httptools
import orjson
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from .exchange import STATUS_LINES, Exchange
from .load import READ_AT


class HttpProtocol(HttpToolsProtocol):
    """A connection."""

    _idle_since: float | None = None
    _upgrades = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.message_event = asyncio.Event()

    def on_message_begin(self) -> None:
        """httptools' callback: the first bytes of a request are there."""
        self.url = b""
        self.expect_100_continue = False
        self.headers = []

    def on_headers_complete(self) -> None:
        """httptools' callback: the head of a request is there, so the request begins."""
        parser = self.parser
        version = parser.get_http_version()
        self._upgrades = parser.should_upgrade() and self._should_upgrade()
        if self.url.startswith(b"/") and b"#" not in self.url:
            raw_path, _, query = self.url.partition(b"?")
        else:  # absolute form (RFC 9112, section 3.2.2)
            url = httptools.parse_url(self.url)
            raw_path, query = url.path, url.query or b""
        path = raw_path.decode("ascii")
        scope: Any = {
            "type": "http",
            "asgi": {"version": self.asgi_version, "spec_version": "2.3"},
            "http_version": version,
            "method": parser.get_method().decode("ascii"),
            "scheme": self.scheme,
            "path": unquote(path) if "%" in path else path,
            "raw_path": raw_path,
            "query_string": query,
            "root_path": "",
            "headers": self.headers,
            "client": self.client,
            "server": self.server,
            "state": {},
        }
        self.scope = scope
        if self._upgrades:
            return

        before: Any = self.cycle
        keep_alive = version != "1.0" and parser.should_keep_alive()
        exchange: Any = Exchange(self, scope, keep_alive, self.expect_100_continue)
        self.cycle = exchange
        if before is None or before.response_complete:
            self._start_asgi_task(exchange, self.app)
        else:
            # A pipelined request waits for the one before (RFC 9112, section 9.3.2).
            self.flow.pause_reading()
            self.pipeline.appendleft((exchange, self.app))

    def on_body(self, body: bytes) -> None:
        """httptools' callback: a piece of a request's body."""
        exchange = self.cycle
        if self._upgrades or exchange.response_complete:
            return
        exchange.body += body
        if len(exchange.body) > HIGH_WATER_LIMIT:
            self.flow.pause_reading()
        exchange.message_event.set()

    def on_message_complete(self) -> None:
        """httptools' callback: the request is there as a whole."""
        exchange = self.cycle
        if not self._upgrades and not exchange.response_complete:
            exchange.more_body = False
            exchange.message_event.set()

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        cycle.scope[READ_AT] = monotonic()
        # A context of its own, or a pipelined request would begin with the variables of the one before.
        self.tasks.add(self.loop.create_task(cycle.run(app), context=Context()))

    def send_400_response(self, msg: str) -> None:
        """Answer what httptools refused to read; no application has seen it."""
        self.refuse(400, msg)

    def refuse(self, status: int, detail: str | None = None) -> None:
        """Answer with a problem document that no application has written, and close."""
        problem = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status}
        if detail is not None:
            problem["detail"] = detail
        body = orjson.dumps(problem)
        head = b"content-type: application/problem+json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(body)
        self.transport.write(STATUS_LINES[status] + head + body)
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
        """The connection is gone, and with it its timer; nothing is left for the garbage collector to find."""
        super().connection_lost(exc)
        if self.timeout_keep_alive_task is not None:
            self.timeout_keep_alive_task.cancel()
        # What holds this connection, and is held by it.
        del self.timeout_keep_alive_task, self.cycle
        self.pipeline.clear()

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
