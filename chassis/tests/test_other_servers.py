"""The application runs under other ASGI servers, each started as its documentation says."""

import asyncio
import signal
import socket

import httpx
import orjson
import pytest

from .support.process import PROGRAM, run
from .support.service import connect

# uvicorn is tested in test_lifespan.py.
SERVERS = {
    "granian": (
        ("granian", "--interface", "asgi", "--factory", "--loop", "asyncio"),
        (f"{PROGRAM}:asgi", "--host", "127.0.0.1", "--port", "{port}"),
    ),
    "hypercorn": (("hypercorn", "--bind", "127.0.0.1:{port}"), (f"{PROGRAM}:asgi()",)),
    "uvicorn": (("uvicorn", "--factory", "--ws", "none"), (f"{PROGRAM}:asgi", "--port", "{port}")),
}


async def is_ready(client: httpx.AsyncClient) -> bool:
    """Whether a service is there and ready."""
    try:
        return (await client.get("/readyz")).status_code == 200
    except httpx.TransportError:
        return False


@pytest.mark.parametrize("server", SERVERS)
async def test_application_runs_under_another_server(server: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    arguments = [argument.format(port=port) for part in SERVERS[server] for argument in part]
    async with run("-m", *arguments, warnings="default", forked=False) as process, connect(port) as client:
        async with asyncio.timeout(30):
            while not await is_ready(client):
                await asyncio.sleep(0.05)
        assert (await client.get("/switch-interval")).status_code == 200
        missing = await client.get("/nowhere")
        assert (missing.status_code, missing.headers["content-type"]) == (404, "application/problem+json")
        metrics = (await client.get("/metrics")).text
        assert 'http_route="/switch-interval"' in metrics
        process.send(signal.SIGTERM)
        await process.end()
    lines = [orjson.loads(line) for line in process.output.splitlines() if b'"event":"request"' in line]
    assert [(line["path"], line["status"]) for line in lines] == [("/switch-interval", 200), ("/nowhere", 404)]
    assert all(len(line["trace_id"]) == 32 for line in lines)
