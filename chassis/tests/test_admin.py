"""The endpoints for operators."""

import platform
from collections.abc import AsyncIterator
from datetime import datetime

import httpx
import pytest
from starlette.middleware import Middleware

from chassis import __version__

from .support.service import serve


@pytest.fixture(scope="module")
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with serve() as service:
        yield service.client


async def test_info_shows_name_version_and_commit(client: httpx.AsyncClient) -> None:
    info = (await client.get("/info")).json()
    assert datetime.fromisoformat(info.pop("started")).tzinfo is not None
    assert info == {
        "name": "test-service",
        "version": "1.2.3",
        "commit": "c0ffee",
        "chassis": __version__,
        "python": platform.python_version(),
    }


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics", "/info"])
async def test_endpoints_are_read_only(client: httpx.AsyncClient, path: str) -> None:
    assert (await client.head(path)).status_code == 200
    response = await client.post(path)
    assert (response.status_code, response.headers["allow"]) == (405, "GET, HEAD, OPTIONS")


async def test_endpoints_take_no_body(client: httpx.AsyncClient) -> None:
    assert (await client.post("/healthz", content=b"x")).status_code in (405, 413)


async def test_endpoints_are_counted_under_their_paths(client: httpx.AsyncClient) -> None:
    await client.get("/healthz")
    assert 'http_route="/healthz"' in (await client.get("/metrics")).text


async def test_endpoints_are_not_in_openapi(client: httpx.AsyncClient) -> None:
    assert (await client.get("/openapi.json")).json()["paths"] == {}


async def test_broken_middleware_of_the_owner_does_not_affect_them() -> None:
    class Broken:
        def __init__(self, app: object) -> None: ...

        async def __call__(self, scope: object, receive: object, send: object) -> None:
            raise RuntimeError

    async with serve(middleware=[Middleware(Broken)]) as service:
        assert (await service.client.get("/docs")).status_code == 500
        assert (await service.client.get("/readyz")).status_code == 200
