"""Peers that make one outbound call to $UPSTREAM_URL for each request, each as its client's documentation says."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any


def bare_aiohttp() -> Any:
    """The yardstick: an ASGI function that calls with aiohttp, and reads the response as JSON."""
    import aiohttp
    import orjson

    session: Any = None

    async def app(scope: Any, receive: Any, send: Any) -> None:
        nonlocal session
        if scope["type"] == "lifespan":
            await receive()
            session = aiohttp.ClientSession(os.environ["UPSTREAM_URL"])
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await session.close()
            await send({"type": "lifespan.shutdown.complete"})
            return
        async with session.get(scope["path"]) as response:
            item = orjson.loads(await response.read())
        body = orjson.dumps({"id": item["id"], "name": item["name"]})
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    return app


def fastapi_aiohttp() -> Any:
    """Typed path parameter, aiohttp, pydantic model in and out."""
    import aiohttp
    from fastapi import FastAPI
    from pydantic import BaseModel

    class Item(BaseModel):
        id: int
        name: str

    @asynccontextmanager
    async def lifespan(app: Any) -> AsyncIterator[None]:
        async with aiohttp.ClientSession(os.environ["UPSTREAM_URL"], raise_for_status=True) as app.state.session:
            yield

    async def read_item(item_id: int) -> Item:
        async with app.state.session.get(f"/items/{item_id}") as response:
            return Item.model_validate_json(await response.read())

    app = FastAPI(lifespan=lifespan)
    app.get("/items/{item_id}")(read_item)
    return app


def fastapi_httpx() -> Any:
    """The same with httpx."""
    import httpx
    from fastapi import FastAPI
    from pydantic import BaseModel

    class Item(BaseModel):
        id: int
        name: str

    async def read_item(item_id: int) -> Item:
        response = await app.state.client.get(f"/items/{item_id}")
        return Item.model_validate_json(response.raise_for_status().content)

    app = FastAPI()
    app.state.client = httpx.AsyncClient(base_url=os.environ["UPSTREAM_URL"])
    app.get("/items/{item_id}")(read_item)
    return app


def add_calls(app: Any) -> None:
    """A span for each call of httpx, after `add_traces`."""
    from opentelemetry.instrumentation.httpx import HTTPXClientInstrumentor

    HTTPXClientInstrumentor().instrument_client(app.state.client)


APPS = {"aiohttp": bare_aiohttp, "fastapi_aiohttp": fastapi_aiohttp, "fastapi_httpx": fastapi_httpx}
