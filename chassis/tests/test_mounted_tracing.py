"""Applications of other frameworks belong to the trace of the chassis: one server span, and its ids everywhere."""

import asyncio
from typing import Any

import litestar
import pytest
import structlog
from fastapi import FastAPI
from opentelemetry import trace
from opentelemetry.trace import SpanKind, TracerProvider
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Mount
from starlette.routing import Route as StarletteRoute
from starlette.types import ASGIApp

from .support.service import PARENT_ID, SAMPLED, TRACE_ID, UNSAMPLED, serve


def ids() -> dict[str, str]:
    """The ids that a handler sees, also in a log line and a child span."""
    structlog.get_logger().info("inside")
    context = trace.get_current_span().get_span_context()
    return {"trace_id": f"{context.trace_id:032x}", "span_id": f"{context.span_id:016x}"}


def fastapi_app() -> ASGIApp:
    app = FastAPI()

    @app.get("/things/{thing}")
    async def read_thing(thing: int) -> dict[str, str]:
        await asyncio.sleep(0)
        return ids()

    return app


def starlette_app() -> ASGIApp:
    async def read_thing(_request: Request) -> JSONResponse:
        return JSONResponse(ids())

    return Starlette(routes=[StarletteRoute("/things/{thing}", read_thing)])


def litestar_app() -> Any:
    @litestar.get("/things/7", sync_to_thread=False)
    def read_thing() -> dict[str, str]:
        return ids()

    return litestar.Litestar([read_thing])


@pytest.mark.parametrize("make", [fastapi_app, starlette_app, litestar_app])
@pytest.mark.parametrize("headers", [SAMPLED, UNSAMPLED])
async def test_mounted_application_has_the_ids_of_the_chassis(make: Any, headers: dict[str, str]) -> None:
    async with serve(Mount("/legacy", make())) as service:
        # FastAPI's telemetry begins as soon as the process has a provider.
        assert not isinstance(trace.get_tracer_provider(), trace.NoOpTracerProvider)
        assert isinstance(trace.get_tracer_provider(), TracerProvider)
        seen = (await service.client.get("/legacy/things/7", headers=headers)).json()
        line = await service.access_line()
        (inside,) = service.seen.events("inside")
        spans = await service.spans() if headers is SAMPLED else service.seen.spans
    assert seen == {"trace_id": TRACE_ID, "span_id": line["span_id"]}
    assert (inside["trace_id"], inside["span_id"], inside["request_id"]) == (
        line["trace_id"],
        line["span_id"],
        line["request_id"],
    )
    assert [span.kind for span in spans] == [SpanKind.SERVER] * (headers is SAMPLED)
    assert [f"{span.parent.span_id:016x}" for span in spans if span.parent] == [PARENT_ID] * (headers is SAMPLED)
