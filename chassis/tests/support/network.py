"""A network that a test scripts: what each replica does with a request."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

from starlette.datastructures import Headers

from chassis.client.client import Client
from chassis.client.transport import Address, OutboundRequest, ResponseTooLargeError
from chassis.settings import ChassisSettings


class Reply:
    """A response; an `InboundResponse`."""

    http_version = "1.1"

    def __init__(self, status: int = 200, body: bytes = b"{}", headers: Mapping[str, str] | None = None) -> None:
        self.status = status
        self.body = body
        self.headers = Headers(headers or {})
        self.closed = 0

    async def read(self, limit: int) -> bytes:
        if len(self.body) > limit:
            raise ResponseTooLargeError("too large")
        return self.body

    async def chunks(self) -> AsyncIterator[bytes]:
        yield self.body

    def close(self) -> None:
        self.closed += 1


Replica = Callable[[OutboundRequest], Awaitable[Reply]]


class Network:
    """A `Transport` with replicas by their hosts, all of port 80. It notes the requests that each one got."""

    def __init__(self, **replicas: Replica) -> None:
        self.replicas = replicas
        self.requests: list[OutboundRequest] = []
        self.asked: Counter[str] = Counter()
        self.cancelled: Counter[str] = Counter()

    @property
    def addresses(self) -> tuple[str, ...]:
        return tuple(f"{host}:80" for host in self.replicas)

    async def send(self, request: OutboundRequest, replica: Address) -> Reply:
        self.requests.append(request)
        self.asked[replica.host] += 1
        try:
            return await self.replicas[replica.host](request)
        except asyncio.CancelledError:
            self.cancelled[replica.host] += 1
            raise


def responds(status: int = 200, body: bytes = b"{}", headers: Mapping[str, str] | None = None) -> Replica:
    """A replica that responds at once."""

    async def respond(_: OutboundRequest) -> Reply:
        return Reply(status, body, headers)

    return respond


def fails(error: Exception) -> Replica:
    """A replica to which no attempt succeeds."""

    async def fail(_: OutboundRequest) -> Reply:
        raise error

    return fail


def in_turn(*replicas: Replica) -> Replica:
    """A replica that does one after the other; the last one for ever."""
    left = list(replicas)

    async def do_next(request: OutboundRequest) -> Reply:
        return await (left.pop(0) if len(left) > 1 else left[0])(request)

    return do_next


def after(seconds: float, replica: Replica) -> Replica:
    """A slow replica."""

    async def wait(request: OutboundRequest) -> Reply:
        await asyncio.sleep(seconds)
        return await replica(request)

    return wait


async def hangs(_: OutboundRequest) -> Reply:
    """A replica that never responds."""
    await asyncio.sleep(3600)
    raise AssertionError


@asynccontextmanager
async def client_of(network: Network, **settings: Any) -> AsyncIterator[Client]:
    """A client of a service on this network, without an app."""
    from chassis import App

    app = App(ChassisSettings.from_values(), name="shop")
    client = app.client(
        "catalogue", **{"base_url": "http://catalogue/v1", "replicas": network.addresses, "hedge": False, **settings}
    )
    client.use(network)
    async with client:
        yield client
