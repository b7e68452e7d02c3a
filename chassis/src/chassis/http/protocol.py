"""HTTP/1.1 connections (RFC 9112): requests in order, each with its response, until either side closes.

The event loop schedules one task for each request and nothing else. An ordinary request sets no timer, and its
response is sent in one write.
"""

import asyncio
from collections import deque
from contextvars import Context
from time import monotonic
from typing import cast

from starlette.types import ASGIApp, Scope

from ..problem import Problem
from ..request_info import REQUEST_INFO
from .addresses import plain_host
from .cycle import RequestCycle
from .flow_control import FlowControl
from .limits import MAX_REJECTED
from .port_state import PortState
from .rejection import Address, encode_problem_response
from .request_reader import PIECE_BYTES, RequestReader
from .timeouts import NEVER, Timeouts

MAX_PIPELINED = 100  # requests that wait on one connection; beyond it nothing more is read


class HttpProtocol(asyncio.Protocol):
    """One connection: a reader, the request cycles in their order, the deadlines, and closing."""

    __slots__ = (
        "_ignores_input",
        "_loop",
        "_reader",
        "_requests_left",
        "_timeouts",
        "flow",
        "is_expiring",
        "pipeline",
        "port",
        "responding",
        "transport",
    )
    transport: asyncio.Transport
    flow: FlowControl
    _reader: RequestReader
    _timeouts: Timeouts

    def __init__(self, port: PortState) -> None:
        self.port: PortState = port
        self.pipeline: deque[RequestCycle] = deque()
        """Requests that wait for the responses before theirs (RFC 9112, section 9.3.2)."""
        self.responding: RequestCycle | None = None
        """The request cycle whose application runs, or ran last."""
        self._loop = asyncio.get_running_loop()
        self._ignores_input = False
        self._requests_left = port.limits.max_requests_per_connection
        self.is_expiring: bool = False
        """Whether the next response after which no request waits says `Connection: close`.

        Load balancers that choose a backend for a connection, such as kube-proxy, give a new replica nothing while old
        connections are kept. An idle connection is not closed for its age: a request may be on its way.
        """

    # asyncio's callbacks.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's is not declared as one
        self.flow = FlowControl(self.transport)
        limits = self.port.limits
        self._timeouts = Timeouts(self, self.transport, limits, self.port.keep_alive_seconds)
        client = _address(transport.get_extra_info("peername"))
        server = _address(transport.get_extra_info("sockname"))
        self._reader = RequestReader(self, self._timeouts, client, server)
        connections = self.port.connections
        connections.add(self)
        excess = len(connections) - limits.max_connections
        if excess <= 0:
            self._timeouts.start_head()
            self._timeouts.start_age()
        elif excess <= MAX_REJECTED:
            # With a 503, a load balancer can choose another instance. The listen queue would hide the overload.
            self.reject(
                Problem(
                    503,
                    f"The service has reached its limit of {limits.max_connections} connections; retry later.",
                    headers={"retry-after": "1"},
                )
            )
        else:
            # Clients may keep rejected connections open, and those are open files as well.
            self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        cycle = self.responding
        if cycle is not None and not cycle.response_complete:
            cycle.disconnect()
        self.flow.resume_writing()
        self._close_parts()
        self.port.remove_connection(self)

    def data_received(self, data: bytes) -> None:
        if not self._ignores_input and (self._requests_left > -MAX_PIPELINED or self._takes_more()):
            self._timeouts.idle_due = NEVER
            if self._reader.unread or len(data) > PIECE_BYTES:
                self._reader.queue(data)
            else:
                self._reader.read(data)

    def _takes_more(self) -> bool:
        """Long after its expiry, the connection takes only what belongs to a request that has begun."""
        cycle = self._reader.cycle
        return cycle is None or cycle.more_body or cycle.response_complete or self._reader.in_head

    def pause_writing(self) -> None:
        self.flow.pause_writing()
        self._timeouts.start_writing()

    def resume_writing(self) -> None:
        self.flow.resume_writing()
        self._timeouts.write_due = NEVER

    # Requests, from the reader.

    def may_parse(self) -> bool:
        return not self._ignores_input and len(self.pipeline) < MAX_PIPELINED

    def begin(self, app: ASGIApp, scope: Scope, keep_alive: bool, expects_continue: bool) -> RequestCycle:
        """Run `app` for a request, after the responses to the requests before it."""
        before = self._reader.cycle
        cycle = RequestCycle(self, app, scope, keep_alive, expects_continue)
        if before is None or before.response_complete:
            self._run(cycle)
        else:
            self.flow.pause_reading()
            self.pipeline.append(cycle)
        return cycle

    def on_websocket(self, scope: Scope, data: bytes) -> None:
        """Hand the connection to the WebSocket protocol, or reject an invalid handshake."""
        from .websocket import (
            WebSocketProtocol,
            accept_handshake,
        )  # imported on use, as many services have no WebSockets

        self._ignores_input = True
        self._timeouts.stop_reading()
        try:
            protocol, response = accept_handshake(scope)
        except Problem as problem:
            scope["state"]["problem"] = problem
            self._reject(scope)
            return
        self._close_parts()
        self.port.connections.discard(self)
        websocket = WebSocketProtocol(self.port, scope, protocol, response)
        self.transport.set_protocol(websocket)
        websocket.connection_made(self.transport)
        websocket.data_received(data)

    def reject(self, problem: Problem) -> None:
        """Read nothing more; respond with `problem` when it is its turn, and close."""
        if self._ignores_input:
            return
        self._ignores_input = True
        self._reader.discard()
        self._timeouts.stop_reading()
        last_read = self._reader.cycle
        if last_read is not None and last_read.more_body:
            last_read.reject_body(problem)
            return
        self._reject(self._reader.rejection_scope(problem))

    def _reject(self, scope: Scope) -> None:
        # An application responds, so that a rejection has an access line, an id and a count like every request.
        cycle = self.begin(self.port.rejections, scope, keep_alive=False, expects_continue=False)
        cycle.more_body = False
        self._reader.cycle = cycle

    # Responses, one after the other.

    def _run(self, cycle: RequestCycle) -> None:
        self.responding = cycle
        self._requests_left -= 1
        if self._requests_left <= 0:
            self.is_expiring = True
        cycle.scope[REQUEST_INFO].read_at = monotonic()
        # In a context of its own, or a pipelined request would start with the variables of the one before.
        cycle.task = task = self._loop.create_task(cycle.run(), context=Context())
        self.port.tasks.add(task)

    def has_waiting_requests(self) -> bool:
        return bool(self.pipeline or self._reader.unread)

    def on_response_complete(self) -> None:
        """The response is written, and the connection stays open."""
        if self.transport.is_closing():
            return
        last_read = self._reader.cycle
        if self.pipeline:
            self._run(self.pipeline.popleft())
        elif self._reader.in_head:
            self._timeouts.start_head()
        elif last_read is not None and not last_read.more_body:  # else the rest of the body comes first
            self._timeouts.start_idle()
        if self.flow.read_paused:
            self.resume_reading()

    def resume_reading(self) -> None:
        """Continue to read, also to notice that the client disconnects, unless too many requests wait already."""
        if self._reader.unread:
            self._reader.read_on()
        if len(self.pipeline) < MAX_PIPELINED:
            self.flow.resume_reading()

    def send_problem_response(self, status: int) -> None:
        """Respond when the application cannot, and close."""
        self.transport.write(encode_problem_response(status, self.port.date_line))
        self.finish()

    # Closing.

    def finish(self) -> None:
        """Close when the client has received what was written.

        If the client still sends, closing at once would make the kernel reset the connection and discard the response.
        So its data is ignored for a while (RFC 9112, section 9.6).
        """
        still_sends = self._ignores_input or self._reader.awaits_body() or self.is_expiring
        if still_sends and not self.transport.is_closing():
            self._ignores_input = True
            self._timeouts.stop_reading()
            self.flow.resume_reading()
            self.transport.write_eof()
            self._timeouts.start_linger()
            self._limit_unsent()
        else:
            self.close()

    def close(self) -> None:
        """Close when what was written is sent, although a response may be incomplete."""
        self._ignores_input = True
        if not self.transport.is_closing():
            self._timeouts.stop_reading()
            self.transport.close()
            self._limit_unsent()

    def _limit_unsent(self) -> None:
        if self.transport.get_write_buffer_size():
            self._timeouts.start_writing()

    def shut_down(self) -> None:
        """Close the connection, after the responses to the requests that were read."""
        last_read = self._reader.cycle
        if last_read is None or last_read.response_complete:
            self.finish()  # with time for a client that still sends to read its response
        else:
            last_read.keep_alive = False

    def _close_parts(self) -> None:
        """Drop all references to the connection, so that no reference cycle is left to the garbage collector."""
        self._timeouts.close()
        self._reader.close()
        self.responding = None
        self.pipeline.clear()

    # Deadlines that have passed.

    def on_head_timeout(self) -> None:
        seconds = self.port.limits.head_seconds
        self.reject(Problem(408, f"The request line and headers did not arrive within {seconds:g} seconds."))

    def on_age(self) -> None:
        self.is_expiring = True
        self._requests_left = min(self._requests_left, 0)

    def on_idle_timeout(self) -> None:
        self.finish()

    def on_body_timeout(self) -> None:
        min_pace = self.port.limits.min_bytes_per_second
        self.reject(
            Problem(
                408,
                f"The request's body arrived at less than {min_pace} bytes per second.",
                headers={"connection": "close"},
            )
        )

    def waits_for_application(self) -> bool:
        cycle = self._reader.cycle
        return self.flow.read_paused or (cycle is not None and cycle.has_unread_body())


def _address(value: object) -> Address:
    """Return the host and the port of a socket's address; an IPv6 address has more parts, a Unix socket none."""
    return (plain_host(str(value[0])), int(value[1])) if isinstance(value, tuple) and len(value) >= 2 else None
