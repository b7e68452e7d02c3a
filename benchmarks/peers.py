"""The peers: `python -m benchmarks.peers asgi|fastapi [logs] [metrics] [traces]` serves one on $PORT.

Each is written as its documentation says. FastAPI with all three parts is the usual stack. Libraries are imported
where they are used, so that no peer's start and memory hold those of another.
"""

import os
import sys
from time import perf_counter
from typing import Any
from uuid import uuid4

import uvicorn


def bare_asgi() -> Any:
    """The yardstick: an ASGI function with the same response for every request."""
    body = b'{"id":1,"name":"item 1"}'
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    return app


def bare_fastapi() -> Any:
    """Typed path parameter, pydantic models in and out."""
    from fastapi import FastAPI
    from pydantic import BaseModel, Field

    class Item(BaseModel):
        id: int
        name: str

    class NewItem(BaseModel):
        name: str = Field(min_length=1, max_length=100)
        quantity: int = Field(ge=1, le=1000)
        tags: list[str] = Field(max_length=10)

    async def read_item(item_id: int) -> Item:
        return Item(id=item_id, name=f"item {item_id}")

    async def create_item(body: NewItem) -> Item:
        return Item(id=1, name=body.name)

    app = FastAPI()
    app.get("/items/{item_id}")(read_item)
    app.post("/items")(create_item)
    return app


def add_logs(app: Any) -> None:
    """Request id and JSON access line in `BaseHTTPMiddleware`, configured as structlog's page "Performance" says."""
    import logging

    import orjson
    import structlog
    from opentelemetry.trace import get_current_span
    from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
    from starlette.requests import Request
    from starlette.responses import Response

    log = structlog.get_logger()

    class AccessLogMiddleware(BaseHTTPMiddleware):
        async def dispatch(self, request: Request, call_next: RequestResponseEndpoint) -> Response:
            began = perf_counter()
            request_id = request.headers.get("x-request-id") or uuid4().hex
            structlog.contextvars.clear_contextvars()
            structlog.contextvars.bind_contextvars(request_id=request_id)
            response = await call_next(request)
            response.headers["x-request-id"] = request_id
            span = get_current_span().get_span_context()
            log.info(
                "request",
                method=request.method,
                route=getattr(request.scope.get("route"), "path", None),
                path=request.url.path,
                status=response.status_code,
                duration_ms=round((perf_counter() - began) * 1000, 3),
                client=request.client.host if request.client else None,
                trace_id=f"{span.trace_id:032x}",
                span_id=f"{span.span_id:016x}",
            )
            return response

    structlog.configure(
        cache_logger_on_first_use=True,
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.format_exc_info,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.JSONRenderer(serializer=orjson.dumps),
        ],
        logger_factory=structlog.BytesLoggerFactory(),
    )
    app.add_middleware(AccessLogMiddleware)


def add_metrics(app: Any) -> None:
    from prometheus_fastapi_instrumentator import Instrumentator

    Instrumentator().instrument(app).expose(app)


def add_traces(app: Any) -> None:
    """Spans in batches, OTLP over HTTP; endpoint, sampler and service name come from `OTEL_*`."""
    from opentelemetry import trace
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
    FastAPIInstrumentor.instrument_app(app)


APPS = {"asgi": bare_asgi, "fastapi": bare_fastapi}
PARTS = {"logs": add_logs, "metrics": add_metrics, "traces": add_traces}


def main() -> None:
    name, *parts = sys.argv[1:]
    app = APPS[name]()
    for part in parts:
        PARTS[part](app)
    uvicorn.run(
        app,
        host="127.0.0.1",
        port=int(os.environ["PORT"]),
        http="httptools",
        loop="uvloop",
        ws="none",
        lifespan="off" if name == "asgi" else "on",
        interface="asgi3",
        access_log=False,
        log_level="warning",
        proxy_headers=False,
        server_header=False,
    )


if __name__ == "__main__":
    main()
