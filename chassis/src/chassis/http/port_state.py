"""The configuration and the state that all connections of one port share."""

import asyncio
from typing import Protocol

from starlette.types import ASGIApp

from .limits import ConnectionLimits
from .rejection import send_rejection

DEFAULT_LIMITS = ConnectionLimits()


class Connection(Protocol):
    """A connection of either protocol, as the port sees it."""

    transport: asyncio.Transport

    def shut_down(self) -> None:
        """Close the connection as soon as the responses that have begun are complete."""
        ...


class PortState:
    """Connections and running requests of one port, and what they need to serve.

    `rejections` is the application that responds to requests which are rejected before dispatch; the problem is in
    `scope["state"]["problem"]`. `date_line` is the encoded Date header; its owner keeps it current.
    """

    __slots__ = (
        "_on_idle",
        "accepts_websockets",
        "app",
        "connections",
        "date_line",
        "is_draining",
        "keep_alive_seconds",
        "limits",
        "rejections",
        "tasks",
    )

    def __init__(
        self,
        app: ASGIApp,
        *,
        rejections: ASGIApp = send_rejection,
        limits: ConnectionLimits = DEFAULT_LIMITS,
        keep_alive_seconds: float = 75.0,
        accepts_websockets: bool = False,
    ) -> None:
        self.app = app
        self.rejections = rejections
        self.limits = limits
        self.keep_alive_seconds = keep_alive_seconds
        self.accepts_websockets = accepts_websockets
        self.connections: set[Connection] = set()
        self.tasks: set[asyncio.Task[None]] = set()
        self.date_line = b""
        self.is_draining = False
        """Whether every response says `Connection: close`."""
        self._on_idle: asyncio.Event | None = None

    def remove_connection(self, connection: Connection) -> None:
        self.connections.discard(connection)
        self._check_idle()

    def remove_task(self, task: asyncio.Task[None]) -> None:
        self.tasks.discard(task)
        if self._on_idle is not None:
            self._check_idle()

    async def wait_until_idle(self) -> None:
        """Wait until all connections are closed and all requests have ended."""
        self._on_idle = asyncio.Event()
        self._check_idle()
        await self._on_idle.wait()

    def _check_idle(self) -> None:
        if self._on_idle is not None and not self.connections and not self.tasks:
            self._on_idle.set()
