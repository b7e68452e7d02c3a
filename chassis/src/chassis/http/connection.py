"""A connection's life: the one timer that watches it, how a request is refused on it, and how it ends."""

import asyncio
from contextvars import Context
from math import inf
from time import monotonic
from typing import Any

import orjson
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from ..context import READ_AT
from ..problem import Problem, phrase, send_problem
from .cycle import STATUS_LINES, Exchange
from .limits import MAX_REFUSED, Limits

NEVER = inf
DEFAULT_LIMITS = Limits()
LINGER_SECONDS = 2.0
SHOWN_TARGET_BYTES = 256


async def answer_refused(scope: Scope, receive: Receive, send: Send) -> None:
    """The ASGI application behind a request that was refused before it could be dispatched."""
    await send_problem(send, scope["state"]["problem"])


class Connection(HttpToolsProtocol):
    """A connection, whatever is said on it; `HttpProtocol` reads.

    What it waits for has a time by which it must have come. There is one timer, which is set anew when it has
    rung or when something is due earlier, so that the way of an ordinary request never touches it.
    """

    _idle_due = _head_due = _body_due = _write_due = _end_due = NEVER
    _timer: asyncio.TimerHandle | None = None
    _timer_due = NEVER
    _running: Exchange | None = None
    _deaf = False  # nothing that comes is read any more
    _in_head = False
    _body_bytes = 0
    _body_bytes_before = 0
    _unsent_bytes = 0

    def __init__(
        self, *args: Any, limits: Limits = DEFAULT_LIMITS, refusals: ASGIApp = answer_refused, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self.message_event = asyncio.Event()
        self.url = b""
        self.headers = []
        self._limits = limits
        self._refusals = refusals
        self._small_bytes = min(limits.max_target_bytes, limits.max_head_bytes)  # what needs no closer look
        self._least_bytes = max(1, round(limits.min_bytes_per_second * limits.body_seconds))

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """asyncio's callback: the client is there, and should say what it wants."""
        super().connection_made(transport)
        beyond = len(self.connections) - self._limits.max_connections
        if beyond <= 0:
            self._await_head()
        elif beyond <= MAX_REFUSED:
            # Not left in the listen queue, where a balancer couldn't know that it should ask another.
            self.fail(Problem(503, "The service has too many connections.", headers={"retry-after": "1"}))
        else:
            # Those that were refused don't leave, and they are open files as well.
            transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """asyncio's callback: the connection is gone; nothing is left for the garbage collector to find."""
        # The request that is being answered. uvicorn tells only the one that was read last.
        running = self._running
        if running is not None and not running.response_complete:
            running.leave()
        super().connection_lost(exc)
        self._forget()

    def _forget(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        # What holds this connection, and is held by it.
        self._timer = self._running = self.cycle = None  # type: ignore[assignment]
        self.pipeline.clear()

    def handle_websocket_upgrade(self) -> None:
        """Leave the connection to the WebSocket protocol."""
        super().handle_websocket_upgrade()
        self._forget()

    def _unset_keepalive_if_required(self) -> None:
        """uvicorn's timer for each request, which isn't used."""

    # Answers, one after the other.

    def begin(self, exchange: Any, app: Any) -> None:
        """Let `app` answer, after the requests that came before (RFC 9112, section 9.3.2)."""
        before: Any = self.cycle
        self.cycle = exchange
        if before is None or before.response_complete:
            self._start_asgi_task(exchange, app)
        else:
            self.flow.pause_reading()
            self.pipeline.appendleft((exchange, app))

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        self._running = cycle
        cycle.scope[READ_AT] = monotonic()
        # A context of its own, or a pipelined request would begin with the variables of the one before.
        cycle.task = task = self.loop.create_task(cycle.run(app), context=Context())
        self.tasks.add(task)

    def on_response_complete(self) -> None:
        """A response is out: begin the pipelined request that waits for it, or wait for the client."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            cycle, app = self.pipeline.pop()
            self._start_asgi_task(cycle, app)
        elif self._in_head:
            self._await_head()
        elif not self.cycle.more_body:  # else the rest of the body must come first
            self._idle_due = self.loop.time() + self.timeout_keep_alive
            if self._timer_due > self._idle_due:
                self._wake_in(self.timeout_keep_alive)

    def fail(self, problem: Problem) -> None:
        """Answer what can't be read on with `problem`, in its turn, and close."""
        if self._deaf:
            return
        self._deaf = True
        self._idle_due = self._head_due = self._body_due = NEVER
        reading: Any = self.cycle
        if reading is not None and reading.more_body:
            reading.fail(problem)
            return
        # Through an application of its own, so that it has a line in the log, an id and a count as well.
        exchange = Exchange(self, self._scope_of_refused(problem), keep_alive=False, expects_continue=False)
        exchange.more_body = False
        self.begin(exchange, self._refusals)

    def _scope_of_refused(self, problem: Problem) -> Any:
        target = self.url if self._in_head else b""
        path = target.partition(b"?")[0][:SHOWN_TARGET_BYTES].decode("latin-1")
        return {
            "type": "http",
            "asgi": {"version": self.asgi_version, "spec_version": "2.3"},
            "http_version": "1.1",
            "method": self.parser.get_method().decode("ascii") if target else "_OTHER",
            "scheme": self.scheme,
            "path": path,
            "raw_path": path.encode("latin-1"),
            "query_string": b"",
            "root_path": "",
            "headers": self.headers if self._in_head else [],
            "client": self.client,
            "server": self.server,
            "state": {"problem": problem},
        }

    def write_problem(self, status: int) -> None:
        """Answer with a problem document when no application can, and close."""
        body = orjson.dumps({"type": "about:blank", "title": phrase(status), "status": status})
        head = b"content-type: application/problem+json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(body)
        self.transport.write(STATUS_LINES[status] + head + body)
        self.finish()

    def finish(self) -> None:
        """Close when the client has what was written.

        Closing while it still sends would make the kernel reset the connection, and with it take back the answer.
        So what it sends is dropped for a while (RFC 9112, section 9.6).
        """
        unread = self._deaf or (self.cycle is not None and self.cycle.more_body)
        self._deaf = True
        self._idle_due = self._head_due = self._body_due = NEVER
        transport = self.transport
        if transport.is_closing():
            return
        if unread:
            self.flow.resume_reading()
            transport.write_eof()
            self._end_due = self._wake_in(LINGER_SECONDS)
        else:
            transport.close()
        if transport.get_write_buffer_size():
            self._watch_writing()

    # Time.

    def _wake_in(self, seconds: float) -> float:
        """Let the timer ring in `seconds` or before; returns when that is."""
        due = self.loop.time() + seconds
        if self._timer_due <= due:
            return due
        if self._timer is not None:
            self._timer.cancel()
        self._timer_due = due
        self._timer = self.loop.call_at(due, self._look)
        return due

    def _await_head(self) -> None:
        if self._head_due == NEVER:
            self._head_due = self._wake_in(self._limits.head_seconds)

    def _await_body(self) -> None:
        if self._body_due == NEVER:
            self._body_bytes = self._body_bytes_before = 0
            self._body_due = self._wake_in(self._limits.body_seconds)

    def pause_writing(self) -> None:
        """asyncio's callback: the client takes its answer more slowly than it is written."""
        super().pause_writing()
        self._watch_writing()

    def resume_writing(self) -> None:
        """asyncio's callback: it has taken enough of it."""
        super().resume_writing()
        self._write_due = NEVER

    def _watch_writing(self) -> None:
        self._unsent_bytes = self.transport.get_write_buffer_size()
        self._write_due = self._wake_in(self._limits.body_seconds)

    def _look(self) -> None:
        """The timer has rung: what was due by now?"""
        self._timer = None
        self._timer_due = NEVER
        now = self.loop.time()
        if self._head_due <= now:
            self.fail(Problem(408, f"The request's head did not come within {self._limits.head_seconds:g} seconds."))
        elif self._idle_due <= now:
            self.finish()
        elif self._body_due <= now:
            self._look_at_body()
        if self._write_due <= now:
            self._look_at_writing()
        if self._end_due <= now:
            # A slow reader's time is measured by its pace.
            self._end_due = NEVER
            if not self.transport.get_write_buffer_size():
                self.transport.abort()
                return
        nearest = min(self._idle_due, self._head_due, self._body_due, self._write_due, self._end_due)
        if nearest != NEVER:
            self._wake_in(max(0.0, nearest - now))

    def _look_at_body(self) -> None:
        self._body_due = NEVER
        came = self._body_bytes - self._body_bytes_before
        reading = self.cycle
        # What the application hasn't taken yet is not the client's fault.
        waits = self.flow.read_paused or (reading.body and not reading.response_complete)
        if came >= self._least_bytes or waits:
            self._body_bytes_before = self._body_bytes
            self._body_due = self._wake_in(self._limits.body_seconds)
        else:
            self.fail(Problem(408, "The request's body came too slowly.", headers={"connection": "close"}))

    def _look_at_writing(self) -> None:
        self._write_due = NEVER
        unsent = self.transport.get_write_buffer_size()
        if not unsent:
            return
        if self._unsent_bytes - unsent < self._least_bytes:
            self.transport.abort()
        else:
            self._watch_writing()
