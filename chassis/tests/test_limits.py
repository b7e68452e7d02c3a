"""Limits for the size of a request's body."""

from collections.abc import AsyncIterator

import pytest
from starlette.requests import Request

from chassis import Handler, Route

from .support.service import Service, exchange, serve

LIMIT = 1000


class Sink(Handler):
    """Reads the body in one of two ways."""

    async def post(self, body: str) -> int:
        return len(body)

    async def put(self, request: Request) -> int:
        return len(await request.body())


@pytest.fixture(scope="module")
async def service() -> AsyncIterator[Service]:
    async with serve(Route("/sink", Sink()), max_body_bytes=LIMIT) as service:
        yield service


async def chunks(count: int) -> AsyncIterator[bytes]:
    """A body without a declared length."""
    for _ in range(count):
        yield b"x" * 100


async def test_body_at_the_limit_is_accepted(service: Service) -> None:
    assert (await service.client.put("/sink", content=b"x" * LIMIT)).json() == LIMIT


async def test_body_over_the_limit_is_413(service: Service) -> None:
    response = await service.client.put("/sink", content=b"x" * (LIMIT + 1))
    assert response.status_code == 413
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json()["max_body_bytes"] == LIMIT


async def test_declared_length_is_413_before_the_body_is_sent(service: Service) -> None:
    response = await exchange(
        service.server.port, b"POST /sink HTTP/1.1\r\nhost: x\r\ncontent-length: 99999999999999\r\n\r\n"
    )
    assert response.startswith(b"HTTP/1.1 413 ")  # and the connection was closed, or this would not return


async def test_client_that_expects_100_continue_gets_413_for_a_body_over_the_limit(service: Service) -> None:
    response = await exchange(
        service.server.port,
        b"PUT /sink HTTP/1.1\r\nhost: x\r\ncontent-length: 1001\r\nexpect: 100-continue\r\n\r\n",
    )
    assert response.startswith(b"HTTP/1.1 413 ")


async def test_chunked_body_at_the_limit_is_accepted(service: Service) -> None:
    assert (await service.client.put("/sink", content=chunks(10))).json() == LIMIT


@pytest.mark.parametrize("method", ["POST", "PUT"])
async def test_chunked_body_over_the_limit_is_413(service: Service, method: str) -> None:
    response = await service.client.request(
        method, "/sink", content=chunks(11), headers={"content-type": "application/json"}
    )
    assert response.status_code == 413
    assert response.headers["connection"] == "close"


async def test_limit_holds_for_each_request_of_a_connection(service: Service) -> None:
    for _ in range(3):
        assert (await service.client.put("/sink", content=b"x" * LIMIT)).status_code == 200
