"""The servers that other projects' tests are run against."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import structlog
import uvicorn
from starlette.types import ASGIApp
from structlog.typing import EventDict

from chassis import App, ChassisSettings, Server
from chassis.http.listener import Listener
from chassis.http.port_state import PortState
from chassis.wiring import make_connection_limits


@asynccontextmanager
async def serving(name: str, app: ASGIApp) -> AsyncIterator[int]:
    """Serve `app` by "protocol", "app" or "uvicorn" on a free port, which is yielded."""
    servers = {"protocol": _protocol, "app": _app, "uvicorn": _uvicorn}
    drop_logs()
    async with servers[name](app) as port:
        yield port


def drop_logs() -> None:
    """Log nothing. Tests make applications fail, and drawing tracebacks would take most of the time."""
    structlog.configure(processors=[_drop])


def _drop(_logger: object, _method: str, _event: EventDict) -> EventDict:
    raise structlog.DropEvent


@asynccontextmanager
async def _protocol(app: ASGIApp) -> AsyncIterator[int]:
    """Our protocol alone, as uvicorn serves an application."""
    async with listening(app, close_seconds=0.05) as listener:  # tests that fail leave connections open
        yield listener.port


@asynccontextmanager
async def listening(
    app: ASGIApp, port: int = 0, *, close_seconds: float = 0.5, **options: Any
) -> AsyncIterator[Listener]:
    """Serve `app` by our protocol; `options` go to `PortState`. The end waits so long for connections."""
    limits = make_connection_limits(ChassisSettings.from_values())
    given: dict[str, Any] = {"limits": limits, "keep_alive_seconds": 75.0, "accepts_websockets": True} | options
    listener = Listener("127.0.0.1", port, PortState(app, **given))
    await listener.start()
    try:
        yield listener
    finally:
        await listener.close(close_seconds)


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
    """uvicorn, to see which tests no server over TCP can pass."""
    logging.getLogger("uvicorn").setLevel(logging.CRITICAL + 1)
    config = uvicorn.Config(
        app, port=0, http="httptools", log_config=None, lifespan="off", access_log=False, interface="asgi3"
    )
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        await task
