"""CPU time of a call to another service, over a kept connection, by HTTP client.

The command `python -m benchmarks.clients serve` responds on a free port, which it prints. The command
`python -m benchmarks.clients call CLIENT URL SECONDS` makes one call after the other. It prints µs of CPU a call.

The server is the same quick one for all. Each client is used as its documentation says, and imported in a process of
its own. CPU time is that of all threads of the client's process.
"""

import asyncio
import itertools
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, cast

import uvloop

from .processes import LOAD_CORES, SERVER_CORES, BenchError, Child

LABELS = {
    "httpx": "httpx",
    "http_client": "ours, http_client() on httpx",
    "niquests": "niquests",
    "httpx2": "httpx2",
    "aiohttp": "aiohttp",
    "transport": "ours, the transport of app.client alone",
    "app_client": "ours, app.client with policy, spans and metrics, 1 % sampled",
    "app_client_100": "ours, app.client, 100 % sampled and exported",
    "pyreqwest": "pyreqwest",
}
OURS = ("http_client", "aiohttp", "transport", "app_client", "app_client_100")  # with the libraries of the core
PATH = "/items/1?expand=prices"
BODY = b'{"id":1,"name":"item 1"}'
RESPONSE = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(BODY), BODY)
EVERY_TRACE = {"OTEL_TRACES_SAMPLER": "parentbased_always_on"}
WARM_UP_CALLS = 200
CALLS = 50  # between two looks at the clock

Call = Callable[[], Awaitable[bytes]]


def measure(python: Path, names: Sequence[str], rounds: int, seconds: float, collector: str) -> dict[str, list[float]]:
    """µs of CPU a call of each client, in each round, in a new process every time."""
    found: dict[str, list[float]] = {name: [] for name in names}
    telemetry = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector, "OTEL_SERVICE_NAME": "bench"}
    command = (python, "-m", "benchmarks.clients")
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with upstream() as url:
        for number in range(rounds):
            for name in sorted(found, key=list(found).index, reverse=bool(number % 2)):
                call = (*command, "call", name, url, str(seconds))
                env = {**telemetry, **(EVERY_TRACE if name.endswith("_100") else {})}
                with Child(call, cores=SERVER_CORES, env=env, **pipes) as client:
                    found[name].append(float(client.output()))
    return found


@contextmanager
def upstream() -> Iterator[str]:
    """The URL of the quick server, which does not run on the core of the candidates."""
    with Child(
        (sys.executable, "-m", "benchmarks.clients", "serve"), cores=LOAD_CORES, stdout=subprocess.PIPE
    ) as server:
        assert server.process.stdout  # noqa: S101 - it is a pipe
        yield f"http://127.0.0.1:{server.process.stdout.readline().decode().strip()}"


class QuickServer(asyncio.Protocol):
    """Responds to each header section with the same bytes."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client has connected."""
        self._transport = cast("asyncio.WriteTransport", transport)  # as uvloop's are

    def data_received(self, data: bytes) -> None:
        """The clients send one request without a body at a time."""
        if data.endswith(b"\r\n\r\n"):
            self._transport.write(RESPONSE)


async def serve() -> None:
    """Serve until the process is killed."""
    server = await asyncio.get_running_loop().create_server(QuickServer, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


@asynccontextmanager
async def httpx_client(url: str) -> AsyncIterator[Call]:
    import httpx

    async with httpx.AsyncClient(base_url=url) as client:

        async def call() -> bytes:
            return (await client.get(PATH)).content

        yield call


@asynccontextmanager
async def our_httpx_client(url: str) -> AsyncIterator[Call]:
    from chassis.client import http_client

    async with http_client(base_url=url) as client:

        async def call() -> bytes:
            return (await client.get(PATH)).content

        yield call


@asynccontextmanager
async def httpx2_client(url: str) -> AsyncIterator[Call]:
    import httpx2

    async with httpx2.AsyncClient(base_url=url) as client:

        async def call() -> bytes:
            content: bytes = (await client.get(PATH)).content
            return content

        yield call


@asynccontextmanager
async def niquests_client(url: str) -> AsyncIterator[Call]:
    import niquests

    async with niquests.AsyncSession() as session:

        async def call() -> bytes:
            return (await session.get(url + PATH)).content or b""

        yield call


@asynccontextmanager
async def aiohttp_client(url: str) -> AsyncIterator[Call]:
    import aiohttp

    async with aiohttp.ClientSession(url) as session:

        async def call() -> bytes:
            async with session.get(PATH) as response:
                return await response.read()

        yield call


@asynccontextmanager
async def pyreqwest_client(url: str) -> AsyncIterator[Call]:
    from pyreqwest.client import ClientBuilder

    async with ClientBuilder().base_url(url).build() as client:

        async def call() -> bytes:
            response = await client.get(PATH).build().send()
            return bytes(await response.bytes())

        yield call


@asynccontextmanager
async def our_transport(url: str) -> AsyncIterator[Call]:
    from chassis.client import ClientSettings
    from chassis.client.aiohttp_transport import open_transport
    from chassis.client.transport import Address, OutboundRequest

    address = Address("127.0.0.1", int(url.rpartition(":")[2]))
    request = OutboundRequest("GET", PATH, {"user-agent": "bench/1.0"})
    async with open_transport(ClientSettings.model_validate({"base_url": url})) as transport:

        async def call() -> bytes:
            response = await transport.send(request, address)
            return await response.read(1_000_000)

        yield call


@asynccontextmanager
async def app_client(url: str) -> AsyncIterator[Call]:
    from opentelemetry import context as otel_context

    from chassis import App, ChassisSettings
    from chassis.context import RequestContext
    from chassis.testing import connect

    app = App(ChassisSettings.from_values(), name="bench")
    items = app.client("items", base_url=url)
    # Handlers call other services, and the trace of their request exists already.
    samples_all = os.environ.get("OTEL_TRACES_SAMPLER") == EVERY_TRACE["OTEL_TRACES_SAMPLER"]
    requests = itertools.cycle(
        [RequestContext(f"{number:032x}", f"{number:016x}", "", samples_all or number == 1) for number in range(1, 101)]
    )
    async with connect(app):

        async def call() -> bytes:
            token = otel_context.attach(next(requests))
            try:
                return (await items.get("/items/{number}", path={"number": 1}, params={"expand": "prices"})).body
            finally:
                otel_context.detach(token)

        yield call


CLIENTS: dict[str, Callable[[str], AbstractAsyncContextManager[Call]]] = {
    "httpx": httpx_client,
    "http_client": our_httpx_client,
    "niquests": niquests_client,
    "httpx2": httpx2_client,
    "aiohttp": aiohttp_client,
    "transport": our_transport,
    "app_client": app_client,
    "app_client_100": app_client,
    "pyreqwest": pyreqwest_client,
}


async def time_calls(name: str, url: str, seconds: float) -> float:
    """µs of CPU a call."""
    async with CLIENTS[name](url) as call:
        for _ in range(WARM_UP_CALLS):
            if await call() != BODY:
                raise BenchError(f"{name} has received another body")
        calls, began, cpu = 0, time.perf_counter(), time.process_time()
        while time.perf_counter() - began < seconds:
            for _ in range(CALLS):
                await call()
            calls += CALLS
        return (time.process_time() - cpu) / calls * 1e6


def main(arguments: list[Any]) -> None:
    match arguments:
        case ["serve"]:
            uvloop.run(serve())
        case ["call", name, url, seconds]:
            print(uvloop.run(time_calls(name, url, float(seconds))))
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
