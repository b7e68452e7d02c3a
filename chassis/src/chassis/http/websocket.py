"""WebSocket connections (RFC 6455), on the sans-I/O API of `websockets`."""

import asyncio
import logging
from collections.abc import Iterable
from contextvars import Context
from typing import cast

from starlette.types import Scope
from websockets.exceptions import InvalidState
from websockets.extensions.permessage_deflate import ServerPerMessageDeflateFactory
from websockets.frames import CloseCode, Frame, Opcode
from websockets.http11 import Request, Response
from websockets.protocol import State
from websockets.server import ServerProtocol

from ..problem import Problem
from .errors import ClientDisconnectedError
from .flow_control import FlowControl
from .port_state import PortState
from .response_head import encode_field
from .websocket_cycle import WebSocketCycle

MAX_MESSAGE_BYTES = 16_777_216
CLOSE_SECONDS = 10.0  # for the client's close frame after ours
LINGER_SECONDS = 2.0
# Bytes parsed at a time. The rest waits for the application, because compressed bytes may become a thousand times more.
PIECE_BYTES = 16_384
HANDSHAKE_FIELDS = frozenset({b"connection", b"origin", b"upgrade"})
# Fields of the 101 response that the server sets. Those of the application are dropped.
SERVER_FIELDS = frozenset({b"connection", b"upgrade", b"sec-websocket-accept", b"sec-websocket-extensions"})

library_log: logging.Logger = logging.getLogger("chassis.websocket")
library_log.setLevel(logging.WARNING)  # the library has an info line for each connection; the access line is enough


def accept_handshake(scope: Scope) -> tuple[ServerProtocol, Response]:
    """Return the protocol and its 101 for the handshake in an HTTP scope; raises a `Problem` if it is invalid."""
    fields = [b"%b: %b\r\n" % field for field in scope["headers"] if _is_of_handshake(field[0])]
    request_line = f"{scope['method']} / HTTP/{scope['http_version']}\r\n".encode()
    protocol = ServerProtocol(
        # Smaller windows than the default, so that a connection needs less memory.
        extensions=[
            ServerPerMessageDeflateFactory(
                server_max_window_bits=12, client_max_window_bits=12, compress_settings={"memLevel": 5}
            )
        ],
        max_size=MAX_MESSAGE_BYTES,
        logger=library_log,
    )
    protocol.receive_data(b"".join((request_line, *fields, b"\r\n")))
    requests = [event for event in protocol.events_received() if isinstance(event, Request)]
    response = protocol.accept(requests[0]) if requests else None
    if response is None or response.status_code != 101:
        detail = f"Invalid WebSocket handshake: {protocol.handshake_exc}."
        raise Problem(400, detail, headers={"sec-websocket-version": "13"})
    return protocol, response


def _is_of_handshake(name: bytes) -> bool:
    # The library limits the size of headers, and others such as cookies may be larger.
    return name in HANDSHAKE_FIELDS or name.startswith(b"sec-websocket-")


class WebSocketProtocol(asyncio.Protocol):
    """One WebSocket: bytes to messages and back, keepalive pings, and the closing handshake."""

    def __init__(self, port: PortState, scope: Scope, protocol: ServerProtocol, response: Response) -> None:
        self._port = port
        self._protocol = protocol
        self._response = response
        self._loop = asyncio.get_running_loop()
        self._cycle = WebSocketCycle(self, port, scope)
        self._unread = b""
        self._message = bytearray()  # the fragments of a message, as far as they have arrived
        self._is_text = False
        self._ignores_input = False
        self._ping_number = 0
        self._awaits_pong = False
        self._ping_timer: asyncio.TimerHandle | None = None
        self._close_timer: asyncio.TimerHandle | None = None

    # asyncio's callbacks.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: asyncio.Transport = cast("asyncio.Transport", transport)
        self.flow: FlowControl = FlowControl(self.transport)
        self._port.connections.add(self)
        self._cycle.task = task = self._loop.create_task(self._cycle.run(), context=Context())
        self._port.tasks.add(task)

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in (self._ping_timer, self._close_timer):
            if timer is not None:
                timer.cancel()
        self._ping_timer = self._close_timer = None
        self._ignores_input = True
        received = self._protocol.close_rcvd
        self._cycle.disconnect(received.code if received else CloseCode.ABNORMAL_CLOSURE)
        self.flow.resume_writing()
        self._port.remove_connection(self)

    def data_received(self, data: bytes) -> None:
        if not self._ignores_input:
            self._unread += data
            self._read_messages()

    def pause_writing(self) -> None:
        self.flow.pause_writing()

    def resume_writing(self) -> None:
        self.flow.resume_writing()

    # From the client to the application.

    def resume_reading(self) -> None:
        """The application has taken all messages; continue to read."""
        self.flow.resume_reading()
        self._read_messages()

    def _read_messages(self) -> None:
        """Parse until the application has a message to take; nothing before the handshake is complete."""
        if self._protocol.state is State.CONNECTING:
            if self._unread:
                self.flow.pause_reading()
            return
        start = 0
        while start < len(self._unread) and not self._ignores_input and not self._cycle.has_messages():
            self._protocol.receive_data(self._unread[start : start + PIECE_BYTES])
            start += PIECE_BYTES
            for event in self._protocol.events_received():
                if isinstance(event, Frame):
                    self._on_frame(event)
            if self._protocol.state is not State.OPEN:
                self._on_closing()
            self._flush()
        self._unread = self._unread[start:]
        if self._cycle.has_messages() and not self._ignores_input:
            self.flow.pause_reading()

    def _on_frame(self, frame: Frame) -> None:
        if frame.opcode is Opcode.CLOSE:
            received = self._protocol.close_rcvd
            if received is not None:
                self._cycle.disconnect(received.code, received.reason)
        elif frame.opcode is Opcode.PONG:
            if bytes(frame.data) == b"%d" % self._ping_number:
                self._awaits_pong = False
        elif frame.opcode is not Opcode.PING:  # the library responds to pings
            if frame.opcode is not Opcode.CONT:
                self._is_text = frame.opcode is Opcode.TEXT
            if not frame.fin:
                self._message += frame.data
            elif not self._message:  # as most messages have one frame
                self._on_message(bytes(frame.data))
            else:
                message, self._message = bytes(self._message + frame.data), bytearray()
                self._on_message(message)

    def _on_message(self, message: bytes) -> None:
        if not self._is_text:
            self._cycle.add_message({"type": "websocket.receive", "bytes": message})
            return
        try:
            text = message.decode()
        except UnicodeDecodeError:
            self._protocol.fail(CloseCode.INVALID_DATA, "invalid UTF-8")
        else:
            self._cycle.add_message({"type": "websocket.receive", "text": text})

    def _on_closing(self) -> None:
        """Report the end. If the client sent no close frame, it broke the protocol, and the library has sent one."""
        sent = self._protocol.close_sent
        self._cycle.disconnect(sent.code if sent else CloseCode.ABNORMAL_CLOSURE, sent.reason if sent else "")

    # From the application to the client.

    def accept(self, subprotocol: str | None, headers: Iterable[Iterable[bytes]]) -> None:
        """Complete the handshake with 101. Raises `RuntimeError` for an invalid header."""
        fields = [(*header,) for header in headers]
        if subprotocol is not None:
            fields.append((b"sec-websocket-protocol", subprotocol.encode("latin-1")))
        for name, value in fields:
            lower, _line = encode_field(name, value)
            if lower in SERVER_FIELDS or (lower == b"sec-websocket-protocol" and value is not fields[-1][1]):
                continue
            if lower == b"date":
                del self._response.headers["date"]  # the application's instead of ours
            self._response.headers[bytes(name).decode()] = value.decode("latin-1")
        self._protocol.send_response(self._response)
        self._flush()
        self.resume_reading()
        self._ping_timer = self._loop.call_later(self._port.ping_seconds, self._ping)

    def deny(self, response: bytes) -> None:
        """End the handshake with another response than 101."""
        self._ignores_input = True
        self.transport.write(response)
        self.transport.close()
        self._close_in(CLOSE_SECONDS)

    def send(self, message: str | bytes) -> None:
        """Send a message. Raises `ClientDisconnectedError` when the WebSocket is closed."""
        if self.transport.is_closing():  # an endless stream would keep the event loop from noticing it
            raise ClientDisconnectedError
        try:
            if isinstance(message, str):
                self._protocol.send_text(message.encode())
            else:
                self._protocol.send_binary(message)
        except InvalidState:
            raise ClientDisconnectedError from None
        self._flush()

    def close(self, code: int, reason: str = "", seconds: float = CLOSE_SECONDS) -> None:
        """Send a close frame, and close the connection when the client has replied, or after `seconds`.

        Raises the library's `ProtocolError` for a code that must not be sent (RFC 6455, section 7.4.1).
        """
        if self._protocol.state is State.OPEN:
            self._protocol.send_close(code, reason.encode()[:123].decode(errors="ignore"))
            self._flush()
            self._close_in(seconds)

    def shut_down(self) -> None:
        """Inform the client and the application that the service stops (1012, Service Restart)."""
        if self._protocol.state is State.OPEN:
            self._cycle.disconnect(CloseCode.SERVICE_RESTART)
            self.close(CloseCode.SERVICE_RESTART, seconds=LINGER_SECONDS)
            self.resume_reading()  # for the client's close frame
        elif self._protocol.state is State.CONNECTING:
            self._cycle.stop()

    def _flush(self) -> None:
        if self.transport.is_closing():
            return
        pieces = self._protocol.data_to_send()
        self.transport.write(b"".join(pieces))
        if b"" not in pieces:
            return
        # The library marks the end of what is to be sent by an empty piece.
        self._ignores_input = True
        if self._protocol.close_rcvd is not None:
            self.transport.close()
            self._close_in(CLOSE_SECONDS)
        else:
            # The client may still send. Closing at once would reset the connection and discard our close frame.
            self.flow.resume_reading()
            self.transport.write_eof()
            self._close_in(LINGER_SECONDS)

    def _close_in(self, seconds: float) -> None:
        """Abort the connection after so long, should the client not read what was sent, or not close."""
        if self._close_timer is not None:
            self._close_timer.cancel()
        self._close_timer = self._loop.call_later(seconds, self.transport.abort)

    def _ping(self) -> None:
        if self._protocol.state is not State.OPEN:
            return
        if self._awaits_pong and not self.flow.read_paused:  # else its pong may just not have been read
            self._protocol.fail(CloseCode.INTERNAL_ERROR, "keepalive ping timeout")
            self._cycle.disconnect(CloseCode.ABNORMAL_CLOSURE)
        elif not self._awaits_pong:
            self._ping_number += 1
            self._awaits_pong = True
            self._protocol.send_ping(b"%d" % self._ping_number)
        self._flush()
        self._ping_timer = self._loop.call_later(self._port.ping_seconds, self._ping)
