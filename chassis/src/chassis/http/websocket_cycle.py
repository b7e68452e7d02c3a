"""One WebSocket between the ASGI application and the connection."""

import asyncio
from collections import deque
from collections.abc import Iterable
from enum import Enum
from typing import Protocol

import structlog
from starlette.types import Message, Scope
from structlog.typing import FilteringBoundLogger

from ..request_info import REQUEST_INFO
from .errors import ClientDisconnectedError
from .flow_control import FlowControl
from .port_state import PortState
from .rejection import encode_problem_response
from .response_head import FRAMING, encode_response_head

log: FilteringBoundLogger = structlog.get_logger()

NORMAL_CLOSURE, NO_STATUS, ABNORMAL_CLOSURE, INTERNAL_ERROR = 1000, 1005, 1006, 1011  # RFC 6455, section 7.4.1


class Connection(Protocol):
    """The connection, as its cycle sees it."""

    flow: FlowControl

    def resume_reading(self) -> None: ...

    def accept(self, subprotocol: str | None, headers: Iterable[Iterable[bytes]]) -> None: ...

    def deny(self, response: bytes) -> None: ...

    def send(self, message: str | bytes) -> None: ...

    def close(self, code: int, reason: str = "") -> None: ...


class Stage(Enum):
    """The progress of the application."""

    CONNECTING = "the handshake waits for it"
    DENYING = "it sends an HTTP response instead of accepting"
    OPEN = "it has accepted"
    CLOSED = "it has closed or denied"


class WebSocketCycle:
    """Runs the application for one WebSocket, with the `receive` and `send` of ASGI."""

    task: asyncio.Task[None]

    def __init__(self, connection: Connection, port: PortState, scope: Scope) -> None:
        self._connection = connection
        self._port = port
        self._scope = websocket_scope(scope)
        self._stage = Stage.CONNECTING
        self._connect_is_delivered = False
        self._messages: deque[Message] = deque()
        self._disconnect: Message | None = None
        self._received = asyncio.Event()
        self._status = 0
        self._headers: list[tuple[bytes, bytes]] = []
        self._body = bytearray()

    async def run(self) -> None:
        """Run the application; an exception that escapes it is logged and closes the WebSocket."""
        try:
            await self._port.app(self._scope, self.receive, self.send)
            if self._stage is Stage.CONNECTING and self._disconnect is None:
                log.error("asgi application returned without accepting or closing the websocket")
            self._end(500, NORMAL_CLOSURE)
        except ClientDisconnectedError:
            self._end(500, NORMAL_CLOSURE)
        except BaseException as error:
            is_stopping = isinstance(error, asyncio.CancelledError) and self.task.cancelling() > 0
            if not (is_stopping or self._scope[REQUEST_INFO].is_logged):
                log.error("asgi application failed", exc_info=error)
            self._end(503 if is_stopping else 500, INTERNAL_ERROR)
        finally:
            self._port.tasks.discard(self.task)

    def _end(self, status: int, code: int) -> None:
        stage, self._stage = self._stage, Stage.CLOSED
        if self._disconnect is not None:
            return
        if stage is Stage.OPEN:
            self._messages.clear()
            self._connection.close(code)
            self._connection.resume_reading()
        elif stage is not Stage.CLOSED:
            self._deny(status)

    # From the client.

    def has_messages(self) -> bool:
        return bool(self._messages)

    def add_message(self, message: Message) -> None:
        if self._stage is not Stage.CLOSED:  # after its own close the application receives nothing more
            self._messages.append(message)
            self._received.set()

    def disconnect(self, code: int, reason: str = "") -> None:
        """The WebSocket is closed by the client, by an error or by the server; the first reason counts."""
        if self._disconnect is None:
            self._disconnect = {"type": "websocket.disconnect", "code": int(code), "reason": reason}
            self._received.set()

    def stop(self) -> None:
        """The service stops before the handshake is complete; for the application, the client has disconnected."""
        if self._stage in (Stage.CONNECTING, Stage.DENYING) and self._disconnect is None:
            self.disconnect(ABNORMAL_CLOSURE)
            self._deny(503)

    async def receive(self) -> Message:
        """The ASGI application's `receive`."""
        if not self._connect_is_delivered:
            self._connect_is_delivered = True
            return {"type": "websocket.connect"}
        while not self._messages:
            if self._disconnect is not None:
                return self._disconnect
            self._received.clear()
            await self._received.wait()
        message = self._messages.popleft()
        if not self._messages:
            self._connection.resume_reading()
        return message

    # From the application.

    async def send(self, message: Message) -> None:
        """The ASGI application's `send`."""
        if self._connection.flow.write_paused:
            await self._connection.flow.drain()
        if self._stage is Stage.CLOSED:
            raise RuntimeError(f"Unexpected ASGI message '{message['type']}' after the WebSocket was closed.")
        if self._disconnect is not None:
            if message["type"] == "websocket.close":
                self._stage = Stage.CLOSED  # the client has closed first, which is no error
                return
            raise ClientDisconnectedError
        match self._stage, message["type"]:
            case Stage.CONNECTING, "websocket.accept":
                self._connection.accept(message.get("subprotocol"), message.get("headers", ()))
                self._stage = Stage.OPEN
            case Stage.CONNECTING, "websocket.close":
                self._close(ABNORMAL_CLOSURE)
                self._deny(403)
            case Stage.CONNECTING, "websocket.http.response.start":
                self._status = message["status"]
                self._headers = [(name, value) for name, value in message.get("headers", ())]
                self._stage = Stage.DENYING
            case Stage.DENYING, "websocket.http.response.body":
                self._body += message.get("body", b"")
                if not message.get("more_body", False):
                    self._close(ABNORMAL_CLOSURE)
                    self._send_denial()
            case Stage.OPEN, "websocket.send":
                data = message.get("bytes")
                self._connection.send(message["text"] if data is None else data)
            case Stage.OPEN, "websocket.close":
                code, reason = message.get("code", NORMAL_CLOSURE), message.get("reason") or ""
                self._connection.close(code, reason)  # first, because it raises for an invalid code
                self._close(code, reason)
                self._connection.resume_reading()  # for the client's close frame
            case _, other:
                raise RuntimeError(f"Unexpected ASGI message '{other}' while {self._stage.value}.")

    def _close(self, code: int, reason: str = "") -> None:
        self._stage = Stage.CLOSED
        self._messages.clear()
        self.disconnect(code, reason)

    def _deny(self, status: int) -> None:
        self._connection.deny(encode_problem_response(status, self._port.date_line))

    def _send_denial(self) -> None:
        headers = [(name, value) for name, value in self._headers if name.lower() not in FRAMING]
        headers.append((b"content-length", b"%d" % len(self._body)))
        head = encode_response_head(self._status, headers, self._port.date_line, keep_alive=False)
        self._connection.deny(b"".join((*head.lines, self._body)))


def websocket_scope(scope: Scope) -> Scope:
    """Return the ASGI scope of a WebSocket for the scope of its handshake."""
    offered = [value.decode("latin-1") for name, value in scope["headers"] if name == b"sec-websocket-protocol"]
    subprotocols = [token.strip() for value in offered for token in value.split(",")]
    websocket = {name: value for name, value in scope.items() if name != "method"}
    return websocket | {
        "type": "websocket",
        "scheme": "ws",
        "subprotocols": subprotocols,
        "extensions": {"websocket.http.response": {}},
    }
