"""The cost of a request, counted rather than timed: function calls from its first byte to its last log line.

A count is the same on any machine, so a budget can be kept that a clock could not. A test that fails
here says that the way of every request has grown longer. If that is worth it, raise the budget in the
same commit; if the way has become shorter, lower it, so that what was won is not lost unseen.
"""

import asyncio
import os
import ssl
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from pydantic import BaseModel

from chassis import Handler, Requirement, Route, Telemetry
from chassis.api.access import AccessControl
from chassis.auth import Principal
from chassis.auth.guard import BearerGuard
from chassis.http.port_state import PortState
from chassis.http.protocol import HttpProtocol
from chassis.middleware.load_shedder import LoadShedder
from chassis.telemetry.collector import CollectorConnection
from chassis.telemetry.exporter import OtlpExporter
from chassis.telemetry.logs import Logs
from chassis.telemetry.tracing import Tracing

from .support.application import make_app
from .support.listener import limits_of

REQUESTS = 1000
CONNECTIONS = 10

# Calls for each request, of Python and of C functions. Python versions differ a little: this is the most of them.
BUDGETS = {
    "a request that isn't sampled": 134,
    "a sampled request": 163,
    "a request with a body": 157,
    "a request with a rate limit": 172,
    "a request with a cached token": 148,
    "a request with the deadline of its caller": 146,
}

HEADERS = "host: localhost:8000\r\nuser-agent: test/1.0\r\naccept: */*\r\n"
GET = f"GET /items/1 HTTP/1.1\r\n{HEADERS}\r\n".encode()
WITH_TOKEN = f"GET /items/1 HTTP/1.1\r\n{HEADERS}authorization: Bearer a.b.c\r\n\r\n".encode()
WITH_DEADLINE = f"GET /items/1 HTTP/1.1\r\n{HEADERS}x-request-timeout-ms: 1500\r\n\r\n".encode()
BODY = '{"name":"item 1","quantity":2}'
POST = f"POST /items HTTP/1.1\r\n{HEADERS}content-type: application/json\r\ncontent-length: {len(BODY)}\r\n\r\n{BODY}"


class Item(BaseModel):
    name: str
    quantity: int


class OneItem(Handler):
    """The smallest possible handler, so that the count is that of the chassis."""

    async def get(self, item_id: int) -> Item:
        return Item(name="item", quantity=item_id)


class Items(Handler):
    """The same with a body."""

    async def post(self, body: Item) -> Item:
        return body


class KnownToken:
    """A verifier that has verified one token."""

    def __init__(self) -> None:
        self._principals = {"a.b.c": Principal("ada", "https://login.example", frozenset({"items:read"}))}

    def cached(self, token: str) -> Principal | None:
        return self._principals.get(token)

    async def verify(self, token: str) -> Principal:
        raise NotImplementedError


class AnyCollector(CollectorConnection):
    """Takes everything at once."""

    def __init__(self, url: str) -> None:
        super().__init__(url, timeout_seconds=1.0, make_context=ssl.create_default_context)

    def post(self, body: bytes, headers: Mapping[str, bytes]) -> tuple[int, str]:
        return 200, ""


class Wire(asyncio.Transport):
    """A connection that takes everything at once."""

    def __init__(self) -> None:
        super().__init__()
        self.responses = 0

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return {"sockname": ("127.0.0.1", 8000), "peername": ("127.0.0.1", 50000)}.get(name, default)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.responses += bytes(data).startswith(b"HTTP/1.1 200 ")

    def is_closing(self) -> bool:
        return False

    def close(self) -> None:
        """Nothing to close."""


@asynccontextmanager
async def connected(
    path: Path, *, is_protected: bool, **settings: Any
) -> AsyncIterator[list[tuple[HttpProtocol, Wire]]]:
    """Connections to a service that logs to `path`."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT)
    tracing = Tracing("test-service", version="1")
    url = "http://collector"
    options: dict[str, Any] = {"headers": {}, "delay_seconds": 3600, "batch_size": 10**6, "max_queued": 10**6}
    tracing.add_processor(OtlpExporter(lambda: AnyCollector(url), url, **options))
    telemetry = Telemetry("test-service", version="1", commit="", logs=Logs(format="json", fd=fd), tracing=tracing)
    app = make_app(telemetry, Route("/items/{item_id}", OneItem()), Route("/items", Items()), **settings)
    if is_protected:
        guard = BearerGuard(KnownToken(), None, realm="items")
        app.set_access_control(AccessControl(guard, {}, requirement=Requirement(scopes=["items:read"])))
    # Counting makes requests slow, and so do other processes: with this clock, none is late and has to wait.
    app.load_shedder = LoadShedder(None, telemetry.metrics, clock=lambda: 0.0)
    port = PortState(app.public, limits=limits_of(), keep_alive_seconds=75.0)
    port.date_line = b"date: Mon, 23 Nov 2026 07:42:54 GMT\r\n"
    await app.open()
    connections = []
    for _ in range(CONNECTIONS):
        protocol, wire = HttpProtocol(port), Wire()
        protocol.connection_made(wire)
        connections.append((protocol, wire))
    yield connections
    for protocol, _ in connections:
        protocol.connection_lost(None)
    await app.tasks.stop(0)
    await app.close()
    await telemetry.shutdown(5.0)
    os.close(fd)


@contextmanager
def counting() -> Iterator[list[int]]:
    """Counts the calls of functions in this thread."""
    count = [0]

    def see(_frame: FrameType, event: str, _argument: object) -> None:
        if event in ("call", "c_call"):
            count[0] += 1

    sys.setprofile(see)
    try:
        yield count
    finally:
        sys.setprofile(None)


async def calls_of(path: Path, sent: bytes, **settings: Any) -> float:
    """The calls for one request, on average over many."""
    async with connected(path, is_protected=b"authorization" in sent, **settings) as connections:

        async def ask(times: int) -> None:
            for _ in range(times):
                for protocol, _wire in connections:
                    protocol.data_received(sent)
                for _turn in range(3):  # the handler's, the observation's and the log's
                    await asyncio.sleep(0)

        await ask(10)  # caches are filled now
        with counting() as count:
            await ask(REQUESTS // CONNECTIONS)
        assert sum(wire.responses for _, wire in connections) == REQUESTS + 10 * CONNECTIONS
    return count[0] / REQUESTS


@pytest.mark.parametrize(
    ("what", "sent", "sampler"),
    [
        ("a request that isn't sampled", GET, "always_off"),
        ("a sampled request", GET, "always_on"),
        ("a request with a body", POST.encode(), "always_off"),
        ("a request with a rate limit", GET, "always_off"),
        ("a request with a cached token", WITH_TOKEN, "always_off"),
        ("a request with the deadline of its caller", WITH_DEADLINE, "always_off"),
    ],
)
async def test_calls_stay_within_the_budget(
    what: str, sent: bytes, sampler: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", sampler)
    log = tmp_path / "log"
    settings = {"rate_limit_requests": 10**6} if "rate limit" in what else {}
    calls = await calls_of(log, sent, **settings)
    assert log.read_bytes().count(b'"event":"request"') == REQUESTS + 10 * CONNECTIONS
    budget = BUDGETS[what]
    assert budget * 0.9 <= calls <= budget, f"{what} takes {calls:.1f} calls; the budget is {budget}"
