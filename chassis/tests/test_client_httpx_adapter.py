"""Libraries that are made for httpx call by way of a `Client`, with its policy."""

import asyncio
import gzip
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from chassis import App
from chassis.client import DependencyError, DependencyTimeoutError, DependencyUnavailableError
from chassis.client.errors import BadResponseError
from chassis.settings import ChassisSettings
from chassis.testing import connect, environment

from .support.scripted import OK, Connection, once, responding, scripted


@asynccontextmanager
async def using(*addresses: tuple[str, int], **options: Any) -> AsyncIterator[httpx.AsyncClient]:
    """An httpx client on top of a client with these replicas."""
    with environment({}):
        app = App(ChassisSettings.from_values(), name="shop")
    replicas = [f"{host}:{port}" for host, port in addresses]
    client = app.client("catalogue", base_url="http://catalogue/api", replicas=replicas, **options)
    async with connect(app), client.httpx() as http:
        yield http


async def test_request_arrives_as_httpx_has_it() -> None:
    received = list[bytes]()

    async def script(connection: Connection) -> None:
        received.append(await connection.request())
        received.append(await connection.reader.readexactly(9))
        await connection.send(OK)

    async with scripted(script) as server, using(server.address) as http:
        response = await http.post(
            "/a%2Fb/{id}", params={"q": "a b&c", "e": ""}, json={"a": "x"}, headers={"X-Own": "1"}
        )
    assert (response.status_code, response.text) == (200, "ok")
    lines = received[0].decode().lower().split("\r\n")
    assert lines[0] == "post /api/a%2fb/%7bid%7d?q=a%20b%26c&e= http/1.1"
    assert {"host: catalogue", "x-own: 1", "content-type: application/json", "content-length: 9"} <= set(lines)
    assert not any("python-httpx" in line for line in lines)
    assert received[1] == b'{"a":"x"}'


async def test_policy_of_the_client_holds() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        address = closed.getsockname()
    async with scripted(responding()) as server, using(address, server.address) as http:
        assert [(await http.get("/")).text for _ in range(4)] == ["ok"] * 4


@pytest.mark.parametrize("status", [302, 404, 429, 500, 503])
async def test_every_status_is_a_response(status: int) -> None:
    response = b"HTTP/1.1 %d x\r\ncontent-length: 2\r\nx-own: 1\r\n\r\nno" % status
    async with scripted(responding(response)) as server, using(server.address, max_attempts=1) as http:
        received = await http.get("/")
    assert (received.status_code, received.text, received.headers["x-own"]) == (status, "no", "1")
    assert received.request.url == "http://catalogue/api/"


async def test_decoded_body_is_not_decoded_again() -> None:
    body = gzip.compress(b"ok")
    head = b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: %d\r\n\r\n" % len(body)
    async with scripted(responding(head + body)) as server, using(server.address) as http:
        assert (await http.get("/")).text == "ok"


async def test_parts_of_a_response_arrive_as_they_are_sent() -> None:
    may_go_on = asyncio.Event()

    async def script(connection: Connection) -> None:
        await connection.request()
        await connection.send(b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\none")
        await may_go_on.wait()
        await connection.send(b"two")
        await connection.ended()

    async with scripted(script) as server, using(server.address) as http, http.stream("GET", "/") as response:
        parts = response.aiter_bytes()
        assert await anext(parts) == b"one"
        may_go_on.set()
        assert [part async for part in parts] == [b"two"]


async def test_response_that_is_left_closes_its_connection() -> None:
    async def script(connection: Connection) -> None:
        await connection.request()
        await connection.send(b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\none")
        await connection.ended()

    async with scripted(script) as server, using(server.address) as http:
        async with http.stream("GET", "/") as response:
            assert response.status_code == 200
        async with asyncio.timeout(20):
            while not server.closed:
                await asyncio.sleep(0.005)


async def test_failures_are_errors_of_httpx_and_of_the_dependency() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        address = closed.getsockname()
    async with using(address) as http:
        with pytest.raises(httpx.ConnectError, match="'catalogue' could not be reached") as raised:
            await http.get("/")
    assert isinstance(raised.value, DependencyUnavailableError)
    assert raised.value.request.url == "http://catalogue/api/"

    async with scripted(Connection.ended) as server, using(server.address, timeout_seconds=0.1) as http:
        with pytest.raises(httpx.TimeoutException, match="'catalogue' did not respond in time") as late:
            await http.get("/")
    assert isinstance(late.value, DependencyTimeoutError)

    half = once(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf")
    async with scripted(half) as server, using(server.address) as http, http.stream("GET", "/") as response:
        with pytest.raises(httpx.RemoteProtocolError, match="'catalogue' closed the connection") as lost:
            await response.aread()
    assert isinstance(lost.value, BadResponseError)
    assert isinstance(lost.value, DependencyError)


@pytest.mark.parametrize(
    "url", ["http://elsewhere/api/", "https://catalogue/api/", "http://catalogue/apis", "http://catalogue/"]
)
async def test_requests_outside_of_the_base_url_are_rejected(url: str) -> None:
    async with scripted(responding()) as server, using(server.address) as http:
        with pytest.raises(httpx.UnsupportedProtocol, match="base URL"):
            await http.get(url)
        assert server.connections == 0
