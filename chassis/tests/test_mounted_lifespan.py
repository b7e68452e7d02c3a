"""The lifespan of a mounted application, and its state in requests."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from chassis import App, Server

from .support.application import make_app
from .support.service import Observed, connect, observed

events: list[str] = []


def legacy(name: str) -> Starlette:
    """An application whose lifespan yields state."""

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[dict[str, Any]]:
        events.append(f"{name} starts")
        yield {"name": name, "shared": []}
        events.append(f"{name} stops")

    async def read(request: Request) -> Response:
        request.state.shared.append(1)
        seen = (request.state.name, len(request.state.shared), hasattr(request.state, "mine"))
        request.state.mine = True
        return JSONResponse(seen)

    return Starlette(routes=[Route("/state", read)], lifespan=lifespan)


def application(seen: Observed) -> App:
    events.clear()
    return make_app(seen.telemetry)


async def test_each_mounted_application_has_its_own_state_and_each_request_a_copy() -> None:
    with observed() as seen:
        app = application(seen)
        app.mount("/one", legacy("one"), lifespan=True)
        app.mount("/two", legacy("two"), lifespan=True)
        async with Server(app) as server, connect(server.port) as client:
            assert events == ["one starts", "two starts"]
            got = [(await client.get(path)).json() for path in ("/one/state", "/one/state", "/two/state")]
            assert got == [["one", 1, False], ["one", 2, False], ["two", 1, False]]
            line = seen.events("request")[0]
            assert line["route"] == "/one/state"
        assert events[2:] == ["two stops", "one stops"]


async def test_application_without_the_option_gets_no_lifespan() -> None:
    with observed() as seen:
        app = application(seen)
        app.mount("/one", legacy("one"))
        async with Server(app):
            assert events == []


@asynccontextmanager
async def fails_to_start(_app: Starlette) -> AsyncIterator[None]:
    raise LookupError("no database")
    yield


async def knows_no_lifespan(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "lifespan":
        return


@pytest.mark.parametrize("mounted", [Starlette(lifespan=fails_to_start), knows_no_lifespan])
async def test_service_does_not_start_when_the_mounted_application_does_not(mounted: Any) -> None:
    with observed() as seen:
        app = application(seen)
        app.mount("/broken", mounted, lifespan=True)
        with pytest.raises((LookupError, RuntimeError), match=r"no database|returned too early"):
            async with Server(app):
                pass
