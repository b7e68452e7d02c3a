"""A client that looks like uvicorn's protocol on a mock transport and a mock event loop, to uvicorn's own tests."""

import asyncio
import select
import socket
import time
from collections.abc import Callable
from email.utils import formatdate
from typing import Any, Protocol

import uvicorn
from starlette.types import Receive, Scope, Send

from chassis import ChassisSettings
from chassis.http.port_state import PortState
from chassis.http.protocol import HttpProtocol
from chassis.wiring import make_connection_limits

SECONDS = 3.0
TIME_SCALE = 0.2  # a second of the tests takes so long
TURNS = 8  # of the event loop, for what is scheduled to run; the head of a response may wait for five


class Loop(Protocol):
    """The event loop of the server, which runs in another thread."""

    def call(self, work: Callable[[], Any]) -> Any: ...


class WatchedProtocol(HttpProtocol):
    """Our protocol, which counts what it has received."""

    __slots__ = ("received_bytes",)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.received_bytes = 0
        super().connection_made(transport)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self.received_bytes += len(data)


class Connection:
    """A connection to a server of ours, with the names that the tests use: `protocol.transport`, `protocol.loop`.

    The application waits at its begin until `loop.run_one()` lets it run, as with the mock loop.
    """

    def __init__(self, loop: Loop, app: Any, http_protocol_cls: type, lifespan: object = None, **options: Any) -> None:
        self._loop = loop
        self._config = config = uvicorn.Config(app=app, **options)
        config.load()
        self._may_run = self._begun = self._ended = self._sent_bytes = 0
        self._received = b""
        self._is_closed = False
        self._protocols: list[WatchedProtocol] = []
        self._port = PortState(
            self._gate,
            limits=make_connection_limits(ChassisSettings.from_values(**_settings(http_protocol_cls, options))),
            keep_alive_seconds=config.timeout_keep_alive * TIME_SCALE,
            accepts_websockets=config.ws_protocol_class is not None,
        )
        self.scope: Scope = {}
        self.ws_protocol_class = config.ws_protocol_class
        self.loop = self.transport = self
        server: asyncio.Server = loop.call(self._listen)
        self._socket = socket.create_connection(server.sockets[0].getsockname())
        _wait(lambda: bool(self._protocols))
        self._protocol = self._protocols[0]

    async def _listen(self) -> asyncio.Server:
        def make() -> HttpProtocol:
            protocol = WatchedProtocol(self._port)
            self._protocols.append(protocol)
            return protocol

        self._port.date_line = f"date: {formatdate(usegmt=True)}\r\n".encode()
        return await asyncio.get_running_loop().create_server(make, "127.0.0.1", 0)

    async def _gate(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope = scope
        self._begun += 1
        number = self._begun
        try:
            while number > self._may_run:
                await asyncio.sleep(0.001)
        except asyncio.CancelledError:
            pass  # the client has left, and the tests let the application run nevertheless
        try:
            await self._config.loaded_app(scope, receive, send)
        finally:
            self._ended += 1

    def _settle(self) -> None:
        for _ in range(TURNS):
            self._loop.call(lambda: None)

    # The protocol.

    def data_received(self, data: bytes) -> None:
        """Send, until the server has read it all, or doesn't read more."""
        self._socket.sendall(data)
        self._sent_bytes += len(data)
        _wait(lambda: self._protocol.received_bytes == self._sent_bytes or self.read_paused or self.is_closing())
        self._settle()

    def eof_received(self) -> None:
        """Nothing: the connection is lost next."""

    def connection_lost(self, _: object) -> None:
        """Leave."""
        self._socket.close()
        self._settle()

    def shutdown(self) -> None:
        """Shut the server's end down."""
        self._loop.call(self._protocol.shut_down)
        self._settle()

    @property
    def timeout_keep_alive_task(self) -> object:
        """Something while the connection is closed after a time without a request, else None."""
        due = self._protocol._timeouts.idle_due
        return None if due == float("inf") else due

    # The loop.

    async def run_one(self) -> None:
        """Let the next request's application run to its end."""
        self._may_run += 1
        async with asyncio.timeout(SECONDS):
            while self._ended < self._may_run:
                await asyncio.sleep(0.001)
        self._settle()

    def run_later(self, with_delay: float) -> None:
        """Let time pass."""
        time.sleep(with_delay * TIME_SCALE)
        self._settle()

    # The transport.

    @property
    def buffer(self) -> bytes:
        """The bytes that the client has received."""
        self._read()
        return self._received

    def clear_buffer(self) -> None:
        """Forget what the client has received."""
        self._read()
        self._received = b""

    def is_closing(self) -> bool:
        """Whether the client sees the end of the connection."""
        self._read()
        return self._is_closed

    @property
    def read_paused(self) -> bool:
        """Whether the server does not read."""
        return self._protocol.flow.read_paused

    def _read(self) -> None:
        self._settle()
        while not self._is_closed and select.select([self._socket], [], [], 0)[0]:
            data = self._socket.recv(65_536)
            self._received += data
            self._is_closed = not data


def _settings(http_protocol_cls: type, options: dict[str, Any]) -> dict[str, Any]:
    """Return those of our settings that mean the same as uvicorn's options."""
    if http_protocol_cls.__name__ == "HttpToolsProtocol":  # has no limit
        return {"max_head_bytes": 1_000_000}
    limit = options.get("h11_max_incomplete_event_size")
    return {} if limit is None else {"max_head_bytes": limit}


def _wait(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)
