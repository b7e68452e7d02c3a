"""The servers that other projects' tests are run against."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import uvicorn
from starlette.types import ASGIApp

from chassis import App, ChassisSettings, Server
from chassis.http.listener import Listener
from chassis.http.port_state import PortState
from chassis.wiring import make_connection_limits


@asynccontextmanager
async def serving(name: str, app: ASGIApp) -> AsyncIterator[int]:
    """Serve `app` by "protocol", "app" or "uvicorn" on a free port, which is yielded."""
    async with {"protocol": _protocol, "app": _app, "uvicorn": _uvicorn}[name](app) as port:
        yield port


@asynccontextmanager
async def _protocol(app: ASGIApp) -> AsyncIterator[int]:
    limits = make_connection_limits(ChassisSettings.from_values())
    listener = Listener("127.0.0.1", 0, PortState(app, limits=limits, keep_alive_seconds=75.0, accepts_websockets=True))
    await listener.start()
    try:
        yield listener.port
    finally:
        await listener.close(0.5)


@asynccontextmanager
async def _app(app: ASGIApp) -> AsyncIterator[int]:
    """Mounted in an `App`; the endpoints of the chassis are on a port of their own."""
    settings = ChassisSettings.from_values(host="127.0.0.1", port=0, admin_port=0, max_body_bytes=100_000_000)
    service = App(settings, name="peers", version="1.0")
    service.mount("/", app)
    async with Server(service) as server:
        yield server.port


@asynccontextmanager
async def _uvicorn(app: ASGIApp) -> AsyncIterator[int]:
    config = uvicorn.Config(app, port=0, http="httptools", log_config=None, lifespan="off", access_log=False, interface="asgi3")
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        await serving
