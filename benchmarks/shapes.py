"""Handlers of different shapes, each of which needs 5 ms of CPU unless its name says otherwise.

python -c 'from chassis import run; run("benchmarks.shapes:create_app")'
python -m benchmarks.shapes <port>      # what the handler with outbound calls asks
"""

import asyncio
import os
import sys
from time import sleep, thread_time
from typing import cast

import httpx

from chassis import App, ChassisSettings, Handler

UPSTREAM_SECONDS = 0.005


def compute(seconds: float) -> None:
    """Use so much CPU, also where others use the processor meanwhile."""
    until = thread_time() + seconds
    while thread_time() < until:
        pass


class Piece(Handler):
    """In one piece."""

    async def get(self) -> str:
        """Compute."""
        compute(0.005)
        return "done"


class Quick(Handler):
    """Half a millisecond in one piece."""

    async def get(self) -> str:
        """Compute."""
        compute(0.0005)
        return "done"


class Slices(Handler):
    """In 25 slices."""

    async def get(self) -> str:
        """Compute."""
        for _ in range(25):
            compute(0.0002)
            await asyncio.sleep(0)
        return "done"


class Waits(Handler):
    """In 5 slices between waits of 10 ms."""

    async def get(self) -> str:
        """Compute, and wait for others."""
        for _ in range(5):
            compute(0.001)
            await asyncio.sleep(0.01)
        return "done"


class Late(Handler):
    """Waits 20 ms before it computes in one piece."""

    async def get(self) -> str:
        """Wait, and compute."""
        await asyncio.sleep(0.02)
        compute(0.005)
        return "done"


class Calls(Handler):
    """Two outbound calls, which take CPU enough themselves."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._client: httpx.AsyncClient | None = None

    async def get(self) -> str:
        """Ask twice."""
        if self._client is None:
            self._client = httpx.AsyncClient(trust_env=False, limits=httpx.Limits(max_connections=None))
        for _ in range(2):
            (await self._client.get(self._url)).raise_for_status()
        return "done"


class Threads(Handler):
    """In a thread."""

    def get(self) -> str:
        """Compute."""
        compute(0.005)
        return "done"


class Sleeps(Handler):
    """In a thread that waits 10 ms, and needs no CPU."""

    def get(self) -> str:
        """Wait."""
        sleep(0.01)
        return "done"


class Pool(Handler):
    """Waits 50 ms for one of ten connections, as with a database."""

    def __init__(self) -> None:
        self._connections = asyncio.Semaphore(10)

    async def get(self) -> str:
        """Wait."""
        async with self._connections:
            await asyncio.sleep(0.05)
        return "done"


def add_shapes(app: App) -> None:
    """Each shape on a route of its name."""
    url = f"http://127.0.0.1:{os.environ.get('UPSTREAM_PORT', '1')}/"
    handlers = (Piece(), Quick(), Slices(), Waits(), Late(), Calls(url), Threads(), Sleeps(), Pool())
    for handler in handlers:
        app.add_route(f"/{type(handler).__name__.lower()}", handler)


def create_app(settings: ChassisSettings) -> App:
    """A service with all of them."""
    app = App(settings, name="shapes")
    add_shapes(app)
    return app


class Upstream(asyncio.Protocol):
    """Responds to each piece of data after a while, as a service that is asked with small requests."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Respond to nothing yet."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Respond soon."""
        response = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
        asyncio.get_running_loop().call_later(UPSTREAM_SECONDS, self._transport.write, response)


async def serve_upstream(port: int) -> None:
    """Serve until cancelled."""
    server = await asyncio.get_running_loop().create_server(Upstream, "127.0.0.1", port, backlog=2048)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve_upstream(int(sys.argv[1])))
