"""Faults of a backend that a test switches on and off: `PUT /switches`."""

import asyncio
import os
import random
import socket
import stat
import struct

from pydantic import BaseModel
from starlette.types import ASGIApp, Receive, Scope, Send

from chassis import App, Handler, Problem

RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class Faults(BaseModel):
    """Shares are between 0 and 1."""

    latency_seconds: float = 0
    error_share: float = 0
    reset_share: float = 0


class Switches(Handler):
    """The faults of now."""

    faults = Faults()

    async def put(self, body: Faults) -> Faults:
        """Replace them."""
        Switches.faults = body
        return body


class FaultsMiddleware:
    """Does what the switches say."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] != "/switches":
            faults = Switches.faults
            if faults.latency_seconds:
                await asyncio.sleep(faults.latency_seconds)
            if random.random() < faults.error_share:  # noqa: S311 - no secret
                raise Problem(500, "A fault was injected.")
            if random.random() < faults.reset_share:  # noqa: S311 - no secret
                reset(scope["client"])
                await asyncio.sleep(10)
        await self._app(scope, receive, send)


def reset(client: tuple[str, int]) -> None:
    """Close the connection from this address with RST: the server closes it when it sees an end."""
    for name in os.listdir("/proc/self/fd"):
        try:
            if not stat.S_ISSOCK(os.stat(int(name)).st_mode):
                continue
            connection = socket.socket(fileno=os.dup(int(name)))
        except OSError:
            continue
        with connection:
            try:
                is_wanted = connection.getpeername() == client
            except OSError:
                continue
            if is_wanted:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
                connection.shutdown(socket.SHUT_RD)


def add_switches(app: App) -> None:
    """Add the faults to a service."""
    app.add_middleware(FaultsMiddleware)
    app.add_route("/switches", Switches())
