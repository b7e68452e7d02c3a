"""A port that serves any ASGI application, without an `App` around it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from starlette.types import ASGIApp

from chassis import ChassisSettings
from chassis.http.limits import ConnectionLimits
from chassis.http.listener import Listener
from chassis.http.port_state import PortState
from chassis.wiring import make_connection_limits


def limits_of(**settings: Any) -> ConnectionLimits:
    """The limits of these settings and the defaults."""
    return make_connection_limits(ChassisSettings.from_values(**settings))


@asynccontextmanager
async def listening(app: ASGIApp, **given: Any) -> AsyncIterator[Listener]:
    """Serve `app` on a free port; `given` options go to `PortState`."""
    options: dict[str, Any] = {"limits": limits_of(), "keep_alive_seconds": 75.0} | given
    listener = Listener("127.0.0.1", 0, PortState(app, **options))
    await listener.start()
    try:
        yield listener
    finally:
        await listener.close(0.5)
