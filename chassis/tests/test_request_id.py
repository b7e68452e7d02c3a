"""The request id: the caller's when it is safe to repeat, else one of ours."""

import re
from collections.abc import AsyncIterator

import pytest

from chassis import Handler, Route

from .support.service import SAMPLED, TRACE_ID, Service, exchange, serve


class Item(Handler):
    """Responds."""

    async def get(self) -> str:
        return "here"


@pytest.fixture(scope="module")
async def running() -> AsyncIterator[Service]:
    async with serve(Route("/", Item())) as service:
        yield service


@pytest.fixture
async def service(running: Service) -> Service:
    return await running.fresh()


@pytest.mark.parametrize("sent", ["a", "7d444840-9dc0-11d1-b245-5ffdce74fad2", "a.b_c~d:e/f+g=h", "x" * 128])
async def test_sane_id_is_kept(service: Service, sent: str) -> None:
    answer = await service.client.get("/", headers={"x-request-id": sent})
    assert answer.headers["x-request-id"] == sent
    assert (await service.access_line())["request_id"] == sent


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"x" * 129,
        b"x" * 10_000,
        b"a b",
        b'"',
        b"a;b",
        b"<script>",
        b"\x1b[31m",
        b"a\tb",
        "ä".encode(),
        b"\xff",
        b"a,b",
    ],
)
async def test_hostile_id_is_replaced(service: Service, sent: bytes) -> None:
    answer = await exchange(
        service.server.port, b"GET / HTTP/1.1\r\nhost: x\r\nx-request-id: %s\r\nconnection: close\r\n\r\n" % sent
    )
    if answer.startswith(b"HTTP/1.1 400 "):
        return  # the parser takes no control characters
    found = re.search(rb"x-request-id: ([0-9a-f]{32})\r\n", answer)
    assert found is not None
    assert (await service.access_line())["request_id"] == found[1].decode()


async def test_id_of_ours_is_the_trace_id(service: Service) -> None:
    answer = await service.client.get("/", headers=SAMPLED)
    assert answer.headers["x-request-id"] == TRACE_ID


async def test_id_is_sent_once(service: Service) -> None:
    answer = await service.client.get("/none")
    assert len(answer.headers.get_list("x-request-id")) == 1
