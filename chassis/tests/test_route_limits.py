"""Limits of one route."""

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest

from chassis import App, ChassisSettings, Handler
from chassis.testing import serve

from .support.application import TEST_SETTINGS


class Slow(Handler):
    """Takes its time, and counts bytes."""

    async def post(self, body: bytes) -> int:
        return len(body)

    async def get(self, seconds: float) -> str:
        await asyncio.sleep(seconds)
        return "done"


@pytest.fixture(scope="module")
async def limited() -> AsyncIterator[httpx.AsyncClient]:
    settings = {"max_body_bytes": 100, "deadline_seconds": 0.3, "max_requests": 1}
    app = App(ChassisSettings.from_values(**TEST_SETTINGS | settings), name="test-service", version="1")
    app.add_route("/slow", Slow())
    app.add_route("/uploads/{name}", Upload(), max_body_bytes=1_000_000, deadline_seconds=20, sheds_load=False)
    group = app.group("/v2")
    group.add_route("/uploads", Slow(), max_body_bytes=10)
    async with serve(app) as client:
        yield client


class Upload(Handler):
    """Counts bytes, and takes its time."""

    async def post(self, name: str, body: bytes) -> int:
        return len(body)

    async def get(self, name: str, seconds: float) -> str:
        return await Slow().get(seconds)


async def test_body_is_limited_for_each_route(limited: httpx.AsyncClient) -> None:
    assert (await limited.post("/slow", content=b"x" * 101)).status_code == 413
    assert (await limited.post("/uploads/1", content=b"x" * 1_000_000)).json() == 1_000_000
    assert (await limited.post("/uploads/1", content=b"x" * 1_000_001)).status_code == 413
    too_large = await limited.post("/v2/uploads", content=b"x" * 11)
    assert (too_large.status_code, too_large.json()["max_body_bytes"]) == (413, 10)


async def test_deadline_is_that_of_the_route(limited: httpx.AsyncClient) -> None:
    assert (await limited.get("/slow?seconds=10")).status_code == 504
    assert (await limited.get("/uploads/1?seconds=0.5")).json() == "done"


async def test_route_may_be_left_out_of_load_shedding(limited: httpx.AsyncClient) -> None:
    slow = [asyncio.create_task(limited.get("/slow?seconds=0.1")) for _ in range(3)]
    uploads = [asyncio.create_task(limited.get("/uploads/1?seconds=0.05")) for _ in range(5)]
    assert {response.status_code for response in await asyncio.gather(*uploads)} == {200}
    assert 503 in {response.status_code for response in await asyncio.gather(*slow)}


async def test_deadline_does_not_measure_a_slow_upload(limited: httpx.AsyncClient) -> None:
    async def slowly() -> AsyncIterator[bytes]:
        for _ in range(6):
            yield b"x"
            await asyncio.sleep(0.1)

    assert (await limited.post("/slow", content=slowly())).json() == 6


async def test_handler_after_a_slow_upload_has_its_deadline_still() -> None:
    class Both(Handler):
        async def post(self, body: bytes) -> None:
            await asyncio.Event().wait()

    async def slowly() -> AsyncIterator[bytes]:
        for _ in range(3):
            yield b"x"
            await asyncio.sleep(0.1)

    app = App(ChassisSettings.from_values(**TEST_SETTINGS | {"deadline_seconds": 0.2}), name="t", version="1")
    app.add_route("/both", Both())
    async with serve(app) as client:
        assert (await client.post("/both", content=slowly())).status_code == 504
