"""Faults that are injected into calls."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from chassis import FaultRule, Handler, Route, Server
from chassis.client import Client
from chassis.client.faults import FaultyTransport
from chassis.client.transport import (
    Address,
    ConnectionLostError,
    InboundResponse,
    NotSentError,
    OutboundRequest,
)
from chassis.faults import Faults, UnknownClientError

from .support.application import make_app
from .support.service import connect, observed

REPLICA = Address("10.0.0.1", 8000)
GET = OutboundRequest("GET", "/products/1?page=2", {"x-fault": "yes"})


class Other:
    """A response of the other service."""

    status = 200
    headers: dict[str, str] = {}  # noqa: RUF012 - never changed
    http_version = "1.1"

    def __init__(self) -> None:
        self.is_closed = False

    async def read(self, limit: int) -> bytes:
        return b"real"[:limit]

    async def chunks(self) -> AsyncIterator[bytes]:
        yield b"real"

    def close(self) -> None:
        self.is_closed = True


class Network:
    """A transport that reaches the other service."""

    def __init__(self) -> None:
        self.responses: list[Other] = []

    async def send(self, request: OutboundRequest, replica: Address) -> InboundResponse:
        self.responses.append(response := Other())
        return response


@pytest.fixture
def network() -> Network:
    return Network()


@pytest.fixture
def faults() -> Faults:
    return Faults()


@pytest.fixture
def transport(network: Network, faults: Faults) -> FaultyTransport:
    return FaultyTransport(network, "catalogue", faults)


async def test_call_without_a_rule_is_sent(transport: FaultyTransport) -> None:
    response = await transport.send(GET, REPLICA)
    assert (response.status, await response.read(10)) == (200, b"real")


async def test_status_is_a_response_that_no_service_has_sent(
    transport: FaultyTransport, network: Network, faults: Faults
) -> None:
    faults.set([FaultRule(client="catalogue", status=503, retry_after_seconds=3)])
    response = await transport.send(GET, REPLICA)
    assert (response.status, response.headers["Retry-After"], network.responses) == (503, "3", [])
    assert response.headers["x-fault-injected"] == "error"
    body = await response.read(1000)
    assert [chunk async for chunk in response.chunks()] == [body]
    response.close()


async def test_connection_is_lost_after_the_request(
    transport: FaultyTransport, network: Network, faults: Faults
) -> None:
    faults.set([FaultRule(client="catalogue", abort=True)])
    with pytest.raises(ConnectionLostError):
        await transport.send(GET, REPLICA)
    assert [response.is_closed for response in network.responses] == [True]


async def test_connection_is_refused_before_the_request(
    transport: FaultyTransport, network: Network, faults: Faults
) -> None:
    faults.set([FaultRule(client="catalogue", refuse=True)])
    with pytest.raises(NotSentError):
        await transport.send(GET, REPLICA)
    assert network.responses == []


async def test_latency_comes_before_the_request_and_ends_with_a_timeout(
    transport: FaultyTransport, network: Network, faults: Faults
) -> None:
    faults.set([FaultRule(client="catalogue", latency_seconds=60)])
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await transport.send(GET, REPLICA)
    assert network.responses == []
    faults.set([FaultRule(client="catalogue", latency_seconds=0.001)])
    assert (await transport.send(GET, REPLICA)).status == 200


@pytest.mark.parametrize(
    ("rule", "is_hit"),
    [
        ({"path_prefix": "/products"}, True),
        ({"path_prefix": "/prices"}, False),
        ({"method": "GET"}, True),
        ({"method": "POST"}, False),
        ({"headers": {"X-Fault": "yes"}}, True),
        ({"headers": {"x-other": "*"}}, False),
    ],
)
async def test_rule_hits_calls_that_meet_its_conditions(
    transport: FaultyTransport, faults: Faults, rule: dict[str, object], is_hit: bool
) -> None:
    faults.set([FaultRule.model_validate({"client": "catalogue", "status": 500, **rule})])
    assert (await transport.send(GET, REPLICA)).status == (500 if is_hit else 200)


async def test_rules_of_requests_and_of_other_clients_hit_no_call(
    transport: FaultyTransport, network: Network, faults: Faults
) -> None:
    FaultyTransport(network, "prices", faults)
    faults.set([FaultRule(status=500), FaultRule(client="prices", status=500)])
    assert (await transport.send(GET, REPLICA)).status == 200


def test_rule_of_an_unknown_client_is_an_error_that_names_the_others(
    transport: FaultyTransport, faults: Faults
) -> None:
    with pytest.raises(UnknownClientError, match="no client 'catalog' takes faults; those that do: catalogue"):
        faults.set([FaultRule(client="catalog", status=500)])


class Offers(Handler):
    """Asks the catalogue."""

    client: Client

    async def get(self) -> int:
        return (await self.client.get("/products/1")).status


@pytest.mark.parametrize("allowed", [True, False])
async def test_rules_at_the_admin_port_hit_the_calls_of_a_client_that_allows_it(allowed: bool) -> None:
    on: dict[str, Any] = {"fault_injection": True, "fault_injection_namespace": "local", "admin_port": 0}
    offers = Offers()
    with observed() as seen:
        app = make_app(seen.telemetry, Route("/offers", offers), **on)
        offers.client = app.client("catalogue", base_url="http://catalogue", faults=allowed, hedge=False)
        offers.client.use(network := Network())
        async with Server(app) as server, connect(server.port) as client, connect(server.admin_port or 0) as admin:
            assert (await client.get("/offers")).json() == 200
            put = await admin.put("/faults", json=[{"client": "catalogue", "status": 501}])
            response = await client.get("/offers")
    assert (put.status_code, response.status_code) == ((200, 502) if allowed else (422, 200))
    assert len(network.responses) == (1 if allowed else 2)
