"""The peers: `python -m benchmarks.peers <app> [logs] [metrics] [traces] [queries] [calls]` serves one on $PORT.

Each is written as its documentation says. FastAPI with all parts is the usual stack. The part `queries` is for the app
`orm`, which reads from $DATABASE_URL, as `asyncpg` does; the part `calls` is for `fastapi_httpx`. Libraries are
imported where they are used, so that no peer's start and memory hold those of another.
"""

import os
import sys
from time import perf_counter
from typing import Any
from uuid import uuid4

import uvicorn

from . import calling_peers

CONNECTIONS = 10  # to the database, as many as the service has by default


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


def bare_asyncpg() -> Any:
    """The yardstick with a database: an ASGI function that reads one row through asyncpg's own pool."""
    import asyncpg
    import orjson

    pool: Any = None

    async def app(scope: Any, receive: Any, send: Any) -> None:
        nonlocal pool
        if scope["type"] == "lifespan":
            await receive()
            pool = await asyncpg.create_pool(os.environ["DATABASE_URL"], min_size=CONNECTIONS, max_size=CONNECTIONS)
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await pool.close()
            await send({"type": "lifespan.shutdown.complete"})
            return
        number = int(scope["path"].removeprefix("/items/"))
        row = await pool.fetchrow("SELECT id, name FROM items WHERE id = $1", number)
        body = orjson.dumps({"id": row["id"], "name": row["name"]})
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    return app


def fastapi_pyjwt() -> Any:
    """Each token is verified, in a dependency, as FastAPI's tutorial does with PyJWT."""
    import json
    from typing import Annotated

    import jwt
    from fastapi import Depends, FastAPI, HTTPException
    from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
    from pydantic import BaseModel

    class Item(BaseModel):
        id: int
        name: str

    [key] = jwt.PyJWKSet(json.loads(os.environ["TOKEN_KEYS"])["keys"]).keys
    issuer, audience = os.environ["TOKEN_ISSUER"], os.environ["TOKEN_AUDIENCE"]

    async def get_claims(credentials: Annotated[HTTPAuthorizationCredentials, Depends(HTTPBearer())]) -> dict[str, Any]:
        try:
            claims: dict[str, Any] = jwt.decode(
                credentials.credentials, key, algorithms=["ES256"], issuer=issuer, audience=audience
            )
        except jwt.InvalidTokenError as error:
            raise HTTPException(401) from error
        if "items:read" not in claims["scope"].split():
            raise HTTPException(403)
        return claims

    async def read_item(item_id: int, claims: Annotated[dict[str, Any], Depends(get_claims)]) -> Item:
        return Item(id=item_id, name=f"item {item_id}")

    app = FastAPI()
    app.get("/items/{item_id}")(read_item)
    return app


def fastapi_orm() -> Any:
    """One `AsyncSession` a request as a dependency, one object by its primary key, pydantic model out."""
    from collections.abc import AsyncIterator
    from typing import Annotated

    from fastapi import Depends, FastAPI, HTTPException
    from pydantic import BaseModel
    from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
    from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

    class Base(DeclarativeBase):
        pass

    class StoredItem(Base):
        __tablename__ = "items"
        id: Mapped[int] = mapped_column(primary_key=True)
        name: Mapped[str]

    class Item(BaseModel):
        id: int
        name: str

    url = os.environ["DATABASE_URL"].replace("postgresql://", "postgresql+asyncpg://")
    engine = create_async_engine(url, pool_size=CONNECTIONS, max_overflow=0)
    sessions = async_sessionmaker(engine, expire_on_commit=False)

    async def get_session() -> AsyncIterator[AsyncSession]:
        async with sessions() as session:
            yield session

    async def read_item(item_id: int, session: Annotated[AsyncSession, Depends(get_session)]) -> Item:
        item = await session.get(StoredItem, item_id)
        if item is None:
            raise HTTPException(404)
        return Item(id=item.id, name=item.name)

    app = FastAPI()
    app.state.engine = engine
    app.get("/items/{item_id}")(read_item)
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


def add_queries(app: Any) -> None:
    """A span for each query, after `add_traces`."""
    from opentelemetry.instrumentation.sqlalchemy import SQLAlchemyInstrumentor

    SQLAlchemyInstrumentor().instrument(engine=app.state.engine.sync_engine)


def usual() -> Any:
    """The usual stack, for another server."""
    app = bare_fastapi()
    for name in ("logs", "metrics", "traces"):
        PARTS[name](app)
    return app


APPS = {
    "asgi": bare_asgi,
    "asyncpg": bare_asyncpg,
    "fastapi": bare_fastapi,
    "orm": fastapi_orm,
    "pyjwt": fastapi_pyjwt,
    **calling_peers.APPS,
}
PARTS = {
    "logs": add_logs,
    "metrics": add_metrics,
    "traces": add_traces,
    "queries": add_queries,
    "calls": calling_peers.add_calls,
}


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
