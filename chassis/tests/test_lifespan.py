"""The application under another server, by the ASGI lifespan protocol."""

import asyncio
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest
import uvicorn
from starlette.types import Message

from chassis import App

from .support.application import make_app
from .support.process import PATIENCE_SECONDS, PROGRAM, run
from .support.service import connect, observed, until


async def drive(app: App) -> tuple[list[str], BaseException | None]:
    """Start and stop an application like a server. Returns its messages and its exception."""
    incoming: list[Message] = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]
    said: list[str] = []

    async def receive() -> Message:
        return incoming.pop(0)

    async def send(message: Message) -> None:
        said.append(message["type"])

    try:
        await app({"type": "lifespan", "asgi": {"version": "3.0"}}, receive, send)
    except RuntimeError as error:
        return said, error
    return said, None


async def test_lifespan_starts_and_ends() -> None:
    with observed() as seen:
        said, error = await drive(make_app(seen.telemetry))
    assert (said, error) == (["lifespan.startup.complete", "lifespan.shutdown.complete"], None)


@pytest.mark.parametrize("at", ["startup", "shutdown"])
async def test_failure_is_reported_to_the_server(at: str) -> None:
    @asynccontextmanager
    async def failing() -> AsyncIterator[None]:
        if at == "startup":
            raise RuntimeError("no database")
        yield
        raise RuntimeError("no database")

    with observed() as seen:
        said, error = await drive(make_app(seen.telemetry, resources=[failing()]))
    assert said[-1] == f"lifespan.{at}.failed"
    assert isinstance(error, RuntimeError)


async def test_lifespan_that_is_cancelled_ends_tasks_and_resources() -> None:
    ended: list[str] = []

    @asynccontextmanager
    async def ending(name: str) -> AsyncIterator[None]:
        try:
            yield
        finally:
            ended.append(name)

    async def work() -> None:
        async with ending("task"):
            await asyncio.Event().wait()

    async def receive() -> Message:
        if not started.is_set():
            return {"type": "lifespan.startup"}
        return await asyncio.Event().wait()  # type: ignore[return-value]

    async def send(_message: Message) -> None:
        started.set()

    started = asyncio.Event()
    with observed() as seen:
        app = make_app(seen.telemetry, resources=[ending("resource")], shutdown_seconds=0.1)
        lifespan = asyncio.create_task(app({"type": "lifespan", "asgi": {"version": "3.0"}}, receive, send))
        await started.wait()
        app.tasks.start(work(), name="work")
        await asyncio.sleep(0)
        lifespan.cancel()
        with pytest.raises(asyncio.CancelledError):
            await lifespan
    assert ended == ["task", "resource"]
    assert app.draining.is_set()


async def test_application_is_served_by_plain_uvicorn() -> None:
    with observed() as seen:
        config = uvicorn.Config(make_app(seen.telemetry), port=0, log_config=None, lifespan="on", access_log=False)
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server.serve())
        await until(lambda: server.started)
        async with connect(server.servers[0].sockets[0].getsockname()[1]) as client:
            assert (await client.get("/readyz")).status_code == 200
            assert (await client.get("/docs")).status_code == 200
            assert (await client.get("/nowhere")).status_code == 404
        server.should_exit = True
        await serving
        assert [line["status"] for line in seen.events("request")] == [200, 404]


async def test_output_under_uvicorn_with_its_own_log_configuration_is_json() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    arguments = ("-m", "uvicorn", "--factory", f"{PROGRAM}:asgi", "--port", str(port), "--ws", "none")
    async with run(*arguments) as process, connect(port) as client:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not await is_ready(client):
                await asyncio.sleep(0.05)
        assert (await client.get("/switch-interval")).status_code == 200
        await process.line("request")
        process.send(signal.SIGTERM)
        _, error_output = await process.end()
    # One access line, and it is ours; uvicorn's lines after the start are ours as well or are not written.
    assert [line["path"] for line in process.lines if line["event"] == "request"] == ["/switch-interval"]
    assert "GET" not in error_output
    assert "Shutting down" not in error_output


async def is_ready(client: httpx.AsyncClient) -> bool:
    """Whether a service is there and ready."""
    try:
        return (await client.get("/readyz")).status_code == 200
    except httpx.ConnectError:
        return False
