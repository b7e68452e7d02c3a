"""One request and its response, between the ASGI application and the connection."""

import asyncio
from collections.abc import Awaitable, Iterable
from typing import Protocol

import structlog
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Scope
from structlog.typing import FilteringBoundLogger

from ..context import CLIENT_DISCONNECTED
from ..problem import Problem
from ..request_info import REQUEST_INFO, RequestInfo
from ..response_sender import BODY_FOLLOWS, DONE, DefaultHeaders, Header
from .errors import ClientDisconnectedError
from .flow_control import HIGH_WATER_BYTES, FlowControl
from .port_state import PortState
from .response_head import NO_CONTENT, encode_json_response, encode_response_head

log: FilteringBoundLogger = structlog.get_logger()

LARGE_BODY_BYTES = 65_536


class Connection(Protocol):
    """The connection, as its request cycles see it."""

    port: PortState
    transport: asyncio.Transport
    flow: FlowControl
    is_expiring: bool

    def has_waiting_requests(self) -> bool: ...

    def resume_reading(self) -> None: ...

    def on_response_complete(self) -> None: ...

    def finish(self) -> None: ...

    def close(self) -> None: ...

    def send_problem_response(self, status: int) -> None: ...


class RequestCycle:
    """Runs the application for one request, with the `receive` and `send` of ASGI.

    The head of the response waits for the first part of the body, so that both are sent in one write. A head
    whose body takes longer is sent alone, a few turns of the event loop later (`PortState.send_heads`). Until then
    another response can replace it (`RequestInfo.holds_head`).
    """

    __slots__ = (
        "_body",
        "_body_is_delivered",
        "_chunked",
        "_connection",
        "_content_left",
        "_expects_continue",
        "_has_content",
        "_head",
        "_is_head",
        "_is_receiving",
        "_is_running",
        "_knows_of_disconnect",
        "_problem",
        "_received",
        "app",
        "disconnected",
        "info",
        "keep_alive",
        "more_body",
        "response_complete",
        "response_started",
        "scope",
        "task",
    )
    task: asyncio.Task[None]
    # From the start of the response:
    _head: list[bytes]
    _has_content: bool
    _chunked: bool
    _content_left: int | None

    def __init__(
        self, connection: Connection, app: ASGIApp, scope: Scope, keep_alive: bool, expects_continue: bool
    ) -> None:
        self._connection = connection
        self.app: ASGIApp = app
        self.scope: Scope = scope
        self.info: RequestInfo = scope[REQUEST_INFO]
        self.keep_alive: bool = keep_alive
        self.more_body: bool = True
        """Whether the connection has not received the whole body yet."""
        self.disconnected: bool = False
        self.response_started: bool = False
        self.response_complete: bool = False
        self._is_head = scope["method"] == "HEAD"  # now, because middleware may change the method
        self._expects_continue = expects_continue
        self._body: bytes | bytearray = b""
        self._body_is_delivered = False
        self._received: asyncio.Event | None = None
        self._is_running = False
        self._is_receiving = False
        self._knows_of_disconnect = False
        self._problem: Problem | None = None

    async def run(self) -> None:
        """Run the application; an exception that escapes it never reaches the event loop."""
        self._is_running = True
        try:
            # The client disconnected before the task began. Run it nevertheless, so that it is logged and counted.
            if self.disconnected:
                self.disconnect()
            self.info.send = send = self.send
            self.info.respond = self.respond
            await self.app(self.scope, self.receive, send)
            if not self.response_complete and not self.disconnected:
                if self.info.is_aborted:
                    self._connection.transport.abort()
                else:
                    self._end_response(500)
                    log.error("asgi application returned without a complete response")
        except BaseException as error:  # noqa: BLE001 - no code awaits this task, so the error would be lost
            self._on_exception(error)
        finally:
            # Not in a callback of the task, which the event loop would have to schedule.
            self._connection.port.tasks.discard(self.task)
            self.info.send = self.info.respond = None  # breaks reference cycles

    def disconnect(self) -> None:
        """The client has disconnected: an application in `receive` gets `http.disconnect`, any other is cancelled.

        Once `send` has raised, the application is not cancelled as well: that would interrupt its cleanup.
        """
        self.disconnected = self.info.client_has_gone = True
        if self._is_running and not (self._is_receiving or self._knows_of_disconnect):
            self.task.cancel(CLIENT_DISCONNECTED)
        self._wake()

    def _on_exception(self, error: BaseException) -> None:
        """Log an exception that the application let escape, and end its response.

        A failure after the complete response, such as in a background task, does not close the connection: the next
        request can use it. A cancellation by the server, or a client that disconnects, is no error.
        """
        cancelled = isinstance(error, asyncio.CancelledError)
        is_stopping = cancelled and not self.disconnected and self.task.cancelling() > 0
        if not self.response_complete and not self.disconnected:
            self._end_response(503 if is_stopping else 500)
        if is_stopping or self.info.is_logged:
            return
        if self.disconnected and (cancelled or isinstance(error, ClientDisconnect)):
            return
        log.error("asgi application failed", exc_info=error)  # last, as a log processor of the service's owner may fail

    def _end_response(self, status: int) -> None:
        """End a response that the application has not completed: `status`, if nothing of it is sent yet."""
        if self.response_started and not self.info.holds_head:
            self._connection.close()  # so that the client sees that the response is incomplete
            return
        self.response_started = self.response_complete = True
        self.info.holds_head = False
        self._connection.send_problem_response(status)

    # The request's body.

    def add_body(self, body: bytes) -> None:
        """Keep a part of the body until the application receives it."""
        if self.response_complete:
            return
        if not self._body:
            self._body = body  # not copied, as most bodies come in one part
        else:
            if isinstance(self._body, bytes):
                self._body = bytearray(self._body)
            self._body += body
        if len(self._body) > HIGH_WATER_BYTES:
            self._connection.flow.pause_reading()
        if self._received is not None:  # as in `_wake`
            self._received.set()

    def end_body(self) -> None:
        """The body is complete."""
        self.more_body = False
        if self._received is not None:
            self._received.set()

    def has_unread_body(self) -> bool:
        return bool(self._body) and not self.response_complete

    def reject_body(self, problem: Problem) -> None:
        """The rest of the body won't be read: `receive` raises `problem`, unless the response has begun."""
        self.keep_alive = False
        if self.response_complete:
            self._connection.finish()
        elif self.response_started:
            self._connection.close()
        else:
            self._problem = problem
            self._wake()

    def _wake(self) -> None:
        if self._received is not None:
            self._received.set()

    async def receive(self) -> Message:
        """The ASGI application's `receive`."""
        connection = self._connection
        if self._expects_continue and not self.response_started:
            self._expects_continue = False
            if self.more_body and not self._body and not connection.transport.is_closing():
                connection.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        while not self.disconnected and not self.response_complete:
            if self._problem is not None:
                raise self._problem
            if self._body or not (self.more_body or self._body_is_delivered):
                body, self._body = bytes(self._body), b""
                self._body_is_delivered = not self.more_body
                return {"type": "http.request", "body": body, "more_body": self.more_body}
            connection.resume_reading()
            if self._received is None:
                self._received = asyncio.Event()
            self._is_receiving = True
            if self.more_body:
                self.info.begin_waiting()
            try:
                await self._received.wait()
            finally:
                self._is_receiving = False
                self.info.end_waiting()
            self._received.clear()
        return {"type": "http.disconnect"}

    # The response.

    def send(self, message: Message) -> Awaitable[None]:
        """The ASGI application's `send`."""
        if self.disconnected:
            raise self._disconnected_error()
        if self._connection.flow.write_paused:
            return self._send_when_writable(message)
        message_type = message["type"]
        if not self.response_started:
            if message_type != "http.response.start":
                raise RuntimeError(f"Expected ASGI message 'http.response.start', but got '{message_type}'.")
            self._start_response(message)
        elif not self.response_complete:
            if message_type != "http.response.body":
                if message_type == "http.response.start" and self.info.replaces_head:
                    self._start_response(message)
                    return DONE
                raise RuntimeError(f"Expected ASGI message 'http.response.body', but got '{message_type}'.")
            body = message["body"] if "body" in message else b""  # noqa: SIM401
            more_body = "more_body" in message and message["more_body"]
            if more_body and self._connection.transport.is_closing():
                # An endless stream would keep the event loop from noticing it.
                self.disconnected = self.info.client_has_gone = True
                raise self._disconnected_error()
            self._write_body(body, more_body)
            if more_body and not (body and self._has_content):
                return asyncio.sleep(0)  # no buffer ever fills, so nothing else would make the application wait
        else:
            raise RuntimeError(f"Unexpected ASGI message '{message_type}' after the response was complete.")
        return DONE

    def respond(
        self, status: int, body: bytes, request_id: str, defaults: DefaultHeaders, others: Iterable[Header]
    ) -> bool:
        """Send a complete JSON response in one write (`Respond`): the case of most requests."""
        connection, port = self._connection, self._connection.port
        if (
            self.response_started
            or self.disconnected
            or self._is_head
            or (self._expects_continue and self.more_body)
            or port.is_draining
            or connection.is_expiring
            or connection.flow.write_paused
            or status in NO_CONTENT
            or len(body) >= LARGE_BODY_BYTES
        ):
            return False
        keep_alive = self.keep_alive
        response = encode_json_response(status, body, request_id, defaults, others, port.date_line, keep_alive)
        connection.transport.write(response)
        self.response_started = self.response_complete = True
        if self._received is not None:  # as in `_wake`
            self._received.set()
        if keep_alive:
            connection.on_response_complete()
        else:
            connection.finish()
        return True

    def _disconnected_error(self) -> ClientDisconnectedError:
        # In another task, the application's own one has yet to be cancelled.
        self._knows_of_disconnect = self._knows_of_disconnect or asyncio.current_task() is self.task
        return ClientDisconnectedError()

    async def _send_when_writable(self, message: Message) -> None:
        await self._connection.flow.drain()
        await self.send(message)

    def _start_response(self, message: Message) -> None:
        keep_alive = self.keep_alive
        if self._expects_continue and self.more_body:
            # The client was not asked for the body. It may send the body or its next request, and the server
            # cannot distinguish them.
            keep_alive = False
        elif keep_alive and (self._connection.port.is_draining or self._connection.is_expiring):
            keep_alive = self._connection.has_waiting_requests()
        # An invalid head raises here, while another response can still be sent.
        response = encode_response_head(
            message["status"],
            message.get("headers", ()),
            self._connection.port.date_line,
            keep_alive,
            self._is_head,
            self.scope["http_version"] == "1.0",
        )
        self._head = response.lines
        self._has_content = response.has_content
        self._chunked = response.chunked
        self._content_left = response.content_length
        self.keep_alive = response.keep_alive
        self.response_started = True
        self.info.holds_head = True
        self.info.replaces_head = False
        if BODY_FOLLOWS in message:
            return
        heads = self._connection.port.held_heads
        if not heads:
            asyncio.get_running_loop().call_soon(self._connection.port.send_heads)
        heads.append(self)

    def send_head(self) -> None:
        """Send the head without a part of the body."""
        lines, self._head = self._head, []
        self.info.holds_head = False
        if not self._connection.transport.is_closing():
            self._connection.transport.write(b"".join(lines))

    def _write_body(self, body: bytes, more_body: bool) -> None:
        lines = self._head
        if not self._has_content:
            pass  # dropped, whatever the application sends (RFC 9110, section 6.4.1)
        elif self._chunked:
            if body:
                lines += (b"%x\r\n" % len(body), body, b"\r\n")
            if not more_body:
                lines.append(b"0\r\n\r\n")
        else:
            if self._content_left is not None:
                self._content_left -= len(body)
                if self._content_left < 0:
                    raise RuntimeError(
                        f"The response's content is {-self._content_left} bytes longer than its Content-Length."
                    )
                if self._content_left and not more_body:
                    raise RuntimeError(
                        f"The response's content is {self._content_left} bytes shorter than its Content-Length."
                    )
            lines.append(body)
        if len(body) < LARGE_BODY_BYTES or not self._has_content:
            if lines:
                self._connection.transport.write(b"".join(lines))
        else:
            self._connection.transport.writelines(lines)  # without a copy of a large body
        self.info.holds_head = False
        if more_body:
            self._head = []
            return
        self.response_complete = True
        if self._received is not None:
            self._received.set()
        if self.keep_alive:
            self._connection.on_response_complete()
        else:
            self._connection.finish()
