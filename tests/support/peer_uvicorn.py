"""A plugin for uvicorn's own tests of its protocols: they get ours, on real connections."""

import asyncio
import os
import select
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import uvicorn
import uvloop
from starlette.types import Receive, Scope, Send

from chassis import ChassisSettings
from chassis.http.listener import Listener
from chassis.http.port_state import PortState
from chassis.http.protocol import HttpProtocol
from chassis.wiring import make_connection_limits

SECONDS = 3.0
TIME_SCALE = 0.2  # a second of the tests takes so long


class Watched(HttpProtocol):
    """Our protocol, which counts what it has received."""

    __slots__ = ("received_bytes",)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.received_bytes = 0
        super().connection_made(transport)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self.received_bytes += len(data)


class Loop:
    """An event loop in a thread of its own."""

    def __init__(self) -> None:
        self.loop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()

    def call(self, work: Callable[[], Any]) -> Any:
        """Call `work` in the loop, and return what it returns."""

        async def call() -> Any:
            result = work()
            return await result if asyncio.iscoroutine(result) else result

        return asyncio.run_coroutine_threadsafe(call(), self.loop).result(SECONDS)

    def settle(self) -> None:
        """Let what is scheduled run."""
        for _ in range(4):
            self.call(lambda: None)


def until(condition: Callable[[], object], message: str) -> None:
    """Wait for a condition, at most `SECONDS`."""
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, message
        time.sleep(0.001)


class Connection:
    """Looks like uvicorn's protocol with a `MockTransport` and a `MockLoop`, and is a client of our server.

    The application waits at its begin until `loop.run_one()` lets it run, as the tests expect.
    """

    LOOPS: "list[Loop]" = []

    def __init__(self, app: Any, http_protocol_cls: object, lifespan: Any = None, **options: Any) -> None:
        if not self.LOOPS:
            self.LOOPS.append(Loop())
        self._loop = self.LOOPS[0]
        self._config = config = uvicorn.Config(app=app, **options)
        config.load()
        self._state = {} if lifespan is None else lifespan.state
        self._allowed = 0
        self._begun = 0
        self._ended = 0
        self.scope: Scope = {}
        self._buffer = b""
        self._eof = False
        self._sent = 0
        self.loop = self.transport = self
        self._protocols: list[Watched] = []
        self._port = PortState(
            self._gate,
            limits=make_connection_limits(ChassisSettings.from_values(max_connections=config.limit_concurrency or 1000)),
            keep_alive_seconds=config.timeout_keep_alive * TIME_SCALE,
            accepts_websockets=config.ws_protocol_class is not None,
        )
        self._server = self._loop.call(self._listen)
        port = self._server.sockets[0].getsockname()[1]
        self._socket = socket.create_connection(("127.0.0.1", port))
        until(lambda: self._protocols, "no connection")
        self._protocol = self._protocols[0]

    async def _listen(self) -> asyncio.Server:
        from email.utils import formatdate

        self._port.date_line = f"date: {formatdate(usegmt=True)}\r\n".encode()

        def make() -> Watched:
            protocol = Watched(self._port)
            self._protocols.append(protocol)
            return protocol

        return await asyncio.get_running_loop().create_server(make, "127.0.0.1", 0)

    async def _gate(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope = scope
        number, self._begun = self._begun, self._begun + 1
        try:
            while number >= self._allowed:
                try:
                    await asyncio.sleep(0.001)
                except asyncio.CancelledError:  # the client has left; the application runs nevertheless
                    self._allowed = number + 1
            scope["state"] = scope["state"] | self._state
            await self._config.loaded_app(scope, receive, send)
        finally:
            self._ended += 1

    # The protocol.

    def data_received(self, data: bytes) -> None:
        try:
            self._socket.sendall(data)
        except OSError:
            return
        self._sent += len(data)
        until(lambda: self._protocol.received_bytes >= self._sent or self.read_paused or self.is_closing(), "not read")
        self._loop.settle()

    def eof_received(self) -> None:
        pass

    def connection_lost(self, _: object) -> None:
        self._socket.close()
        self._loop.settle()

    def shutdown(self) -> None:
        self._loop.call(self._protocol.shut_down)
        self._loop.settle()

    # The loop.

    async def run_one(self) -> None:
        number = self._allowed
        self._allowed += 1
        deadline = time.monotonic() + SECONDS
        while self._ended <= number:
            assert time.monotonic() < deadline, "the application did not run"
            await asyncio.sleep(0.001)
        self._loop.settle()

    def run_later(self, with_delay: float) -> None:
        time.sleep(with_delay * TIME_SCALE)
        self._loop.settle()

    # The transport.

    def _read(self) -> None:
        self._loop.settle()
        while not self._eof and select.select([self._socket], [], [], 0)[0]:
            try:
                data = self._socket.recv(65_536)
            except OSError:
                data = b""
            self._buffer += data
            self._eof = not data

    @property
    def buffer(self) -> bytes:
        self._read()
        return self._buffer

    def clear_buffer(self) -> None:
        self._read()
        self._buffer = b""

    def is_closing(self) -> bool:
        self._read()
        return self._eof

    @property
    def read_paused(self) -> bool:
        return self._protocol.flow.read_paused

    @property
    def timeout_keep_alive_task(self) -> object:
        due = self._protocol._timeouts.idle_due
        return None if due == float("inf") else due

    def close(self) -> None:
        self._socket.close()
        self._loop.call(self._server.close)


class Server:
    """Looks like `uvicorn.Server`, as far as the tests need."""

    def __init__(self, config: uvicorn.Config) -> None:
        config.load()
        if not config.loaded:
            config.load()
        app = config.loaded_app
        self._config = config
        limits = make_connection_limits(ChassisSettings.from_values())
        self._port = PortState(
            app,
            limits=limits,
            keep_alive_seconds=config.timeout_keep_alive,
            accepts_websockets=True,
            ping_seconds=config.ws_ping_interval or 20.0,
        )
        self.should_exit = False
        self.server_state = SimpleNamespace(connections=self._port.connections, tasks=self._port.tasks)

    async def startup(self) -> None:
        self._listener = Listener("127.0.0.1", self._config.port, self._port)
        await self._listener.start()

    async def shutdown(self) -> None:
        await self._listener.close(2.0)

    def run(self) -> None:
        async def serve() -> None:
            await self.startup()
            while not self.should_exit:
                await asyncio.sleep(0.01)
            await self.shutdown()

        asyncio.run(serve())


@asynccontextmanager
async def run_server(config: uvicorn.Config, sockets: object = None) -> AsyncIterator[Server]:
    server = Server(config)
    await server.startup()
    try:
        yield server
    finally:
        await server.shutdown()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        module = item.module  # type: ignore[attr-defined]
        if module.__name__ == "tests.protocols.test_http":
            module.get_connected_protocol = Connection
            module.Server = Server
        elif module.__name__ == "tests.protocols.test_websocket":
            module.run_server = run_server
