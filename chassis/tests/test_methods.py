"""HTTP methods: which are allowed, and where they run."""

import asyncio
import threading
from collections.abc import AsyncIterator

import httpx
import pytest

from chassis import Handler, Reply, Route, responds

from .support.service import exchange, serve


class Item(Handler):
    """An item."""

    async def get(self) -> dict[str, str]:
        return {"name": "tea"}

    async def put(self) -> None:
        """Nothing to say."""

    @responds(202)
    async def patch(self) -> Reply[str]:
        return Reply("later", headers={"Retry-After": "7"})

    def helper(self) -> str:
        return "not an HTTP method"


class Threads(Handler):
    """Blocking code that ends only when the event loop is free to let it."""

    def __init__(self) -> None:
        self.released = threading.Event()

    def get(self) -> str:
        assert self.released.wait(5)
        return threading.current_thread().name

    async def delete(self) -> str:
        self.released.set()
        return threading.current_thread().name


@pytest.fixture(scope="module")
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with serve(Route("/item", Item()), Route("/threads", Threads())) as service:
        yield service.client


async def test_head_is_get_without_the_content(client: httpx.AsyncClient) -> None:
    got, head = await client.get("/item"), await client.head("/item")
    assert head.status_code == 200
    assert head.content == b""
    assert head.headers["content-length"] == str(len(got.content))


async def test_connection_is_usable_after_head(client: httpx.AsyncClient) -> None:
    port = client.base_url.port or 0
    responses = await exchange(
        port, b"HEAD /item HTTP/1.1\r\nhost: x\r\n\r\nGET /item HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
    )
    assert responses.count(b"HTTP/1.1 200 OK") == 2
    assert responses.count(b'{"name":"tea"}') == 1


async def test_options_lists_the_allowed_methods(client: httpx.AsyncClient) -> None:
    response = await client.options("/item")
    assert response.status_code == 204
    assert response.headers["allow"] == "GET, PUT, PATCH, HEAD, OPTIONS"


async def test_method_that_is_missing_is_405_with_allow(client: httpx.AsyncClient) -> None:
    response = await client.post("/item")
    assert response.status_code == 405
    assert response.headers["allow"] == "GET, PUT, PATCH, HEAD, OPTIONS"
    assert response.headers["content-type"] == "application/problem+json"


async def test_head_without_get_is_405(client: httpx.AsyncClient) -> None:
    class WriteOnly(Handler):
        async def post(self) -> None: ...

    async with serve(Route("/", WriteOnly())) as service:
        response = await service.client.head("/")
    assert response.status_code == 405
    assert response.headers["allow"] == "POST, OPTIONS"


async def test_method_that_no_handler_can_have_is_405(client: httpx.AsyncClient) -> None:
    assert (await client.request("PROPFIND", "/item")).status_code == 405


async def test_none_is_204_without_content(client: httpx.AsyncClient) -> None:
    response = await client.put("/item")
    assert response.status_code == 204
    assert response.content == b""
    assert "content-length" not in response.headers
    assert "content-type" not in response.headers


async def test_declared_status_and_headers_are_sent(client: httpx.AsyncClient) -> None:
    response = await client.patch("/item")
    assert (response.status_code, response.json(), response.headers["retry-after"]) == (202, "later", "7")


async def test_plain_def_runs_in_a_thread_and_does_not_stop_the_loop(client: httpx.AsyncClient) -> None:
    blocking = asyncio.create_task(client.get("/threads"))
    other = await client.delete("/threads")  # would wait for ever if the first held the loop
    assert (await blocking).json() != other.json()
