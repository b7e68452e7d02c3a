"""A port that serves any ASGI application, without an `App` around it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from starlette.types import ASGIApp

from chassis.http.listener import Listener
from chassis.http.port_state import PortState


@asynccontextmanager
async def listening(app: ASGIApp, **options: Any) -> AsyncIterator[Listener]:
    """Serve `app` on a free port; `options` go to `PortState`."""
    listener = Listener("127.0.0.1", 0, PortState(app, **options))
    await listener.start()
    try:
        yield listener
    finally:
        await listener.close(0.5)
