"""Streamed responses among the requests that operators see: as slow as their start."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from chassis import Event, EventStream

from .support.service import connect, serve, until

STREAM_SECONDS = 0.2


async def parts() -> AsyncIterator[bytes]:
    yield b"first"
    await asyncio.sleep(STREAM_SECONDS)
    yield b"last"


async def events() -> AsyncIterator[Event]:
    await asyncio.sleep(STREAM_SECONDS)
    yield Event("late")


async def stream(_request: Request) -> Response:
    return StreamingResponse(parts())


async def event_stream(_request: Request) -> Response:
    return EventStream(events())


async def late_stream(_request: Request) -> Response:
    await asyncio.sleep(0.1)
    return StreamingResponse(parts())


async def whole(_request: Request) -> Response:
    await asyncio.sleep(0.05)
    return Response("whole")


ROUTES = [Route(f"/{work.__name__}", work) for work in (stream, event_stream, late_stream, whole)]


@pytest.fixture(scope="module")
async def slow() -> dict[str, dict[str, Any]]:
    """The slowest requests of a service by their paths, the slowest first."""
    async with serve(*ROUTES, admin_port=0) as service, connect(service.server.admin_port or 0) as admin:
        await asyncio.gather(*(service.client.get(route.path) for route in ROUTES))
        await until(lambda: len(service.seen.events("request")) == len(ROUTES), 5)
        response = await admin.get("/requests", params={"kind": "slow"})
    return {request["path"]: request for request in response.json()}


async def test_streams_are_as_slow_as_their_start(slow: dict[str, dict[str, Any]]) -> None:
    assert [*slow][:2] == ["/late_stream", "/whole"]
    assert {*slow} == {route.path for route in ROUTES}


@pytest.mark.parametrize("path", ["/stream", "/event_stream", "/late_stream"])
async def test_streams_have_the_time_of_their_start_beside_their_duration(
    path: str, slow: dict[str, dict[str, Any]]
) -> None:
    assert slow[path]["first_byte_ms"] < slow[path]["duration_ms"]
    assert slow[path]["duration_ms"] > 900 * STREAM_SECONDS  # timers of uvloop have milliseconds


async def test_other_responses_have_no_such_time(slow: dict[str, dict[str, Any]]) -> None:
    assert slow["/whole"]["first_byte_ms"] is None
