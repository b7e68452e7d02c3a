"""A plugin for uvicorn's own tests of its protocols: they get ours, on real connections."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import uvicorn

from chassis.http.protocol import HttpProtocol
from peer_connection import SECONDS, Connection
from peer_servers import drop_logs, listening


class WebSockets:
    """Stands for our WebSocket protocol, which the HTTP protocol finds by itself."""

    def __init__(self, **_: object) -> None:
        pytest.skip("looks into uvicorn's protocol object")


class Server:
    """Looks like `uvicorn.Server`, as far as the tests need it."""

    def __init__(self, config: uvicorn.Config) -> None:
        config.load()
        self._config = config
        self._stack = AsyncExitStack()
        self.should_exit = False

    async def startup(self) -> None:
        """Listen."""
        config = self._config
        listener = await self._stack.enter_async_context(
            listening(config.loaded_app, config.port, ping_seconds=config.ws_ping_interval or 20.0)
        )
        self.server_state = SimpleNamespace(connections=listener.state.connections, tasks=listener.state.tasks)

    async def shutdown(self) -> None:
        """Close the connections."""
        await self._stack.aclose()

    def run(self) -> None:
        """Serve in this thread until `should_exit` is set."""

        async def serve() -> None:
            await self.startup()
            while not self.should_exit:
                await asyncio.sleep(0.01)
            await self.shutdown()

        asyncio.run(serve())


@asynccontextmanager
async def run_server(config: uvicorn.Config, sockets: object = None) -> AsyncIterator[Server]:
    """Stand for `run_server` of uvicorn's tests."""
    server = Server(config)
    await server.startup()
    try:
        yield server
    finally:
        await server.shutdown()


class ServingLoop:
    """The event loop of the servers that `Connection` talks to, in a thread of its own."""

    def __init__(self) -> None:
        self._loop = uvicorn.Config(app="").get_loop_factory()()  # type: ignore[misc]
        threading.Thread(target=self._loop.run_forever, daemon=True).start()

    def call(self, work: Callable[[], Any]) -> Any:
        """Call `work` in the loop, await what it returns, and return the result."""

        async def call() -> Any:
            result = work()
            return await result if asyncio.iscoroutine(result) else result

        return asyncio.run_coroutine_threadsafe(call(), self._loop).result(SECONDS)


@pytest.fixture(params=[pytest.param(HttpProtocol, id="chassis")])
def http_protocol_cls(request: pytest.FixtureRequest) -> object:
    """The HTTP protocol under test, in place of uvicorn's three."""
    return request.param


@pytest.fixture(params=[pytest.param(WebSockets, id="chassis")])
def ws_protocol_cls(request: pytest.FixtureRequest) -> object:
    """The WebSocket protocol under test, in place of uvicorn's two."""
    return request.param


def pytest_plugin_registered(plugin: object) -> None:
    """Replace the fixtures in the tests' conftest.py before pytest reads them."""
    if getattr(plugin, "__name__", "") == "tests.conftest":
        vars(plugin).update(http_protocol_cls=http_protocol_cls, ws_protocol_cls=ws_protocol_cls)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put our parts in place of those that the tests' modules define or import."""
    drop_logs()
    loop = ServingLoop()
    for module in {item.module for item in items if isinstance(item, pytest.Function)}:
        if module.__name__ == "tests.protocols.test_http":
            module.get_connected_protocol = lambda *args, **options: Connection(loop, *args, **options)
            module.Server = Server
        elif module.__name__ == "tests.protocols.test_websocket":
            module.run_server = run_server
