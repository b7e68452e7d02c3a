"""The configuration and the state that all connections of one port share."""

import asyncio
from collections.abc import Callable
from typing import Protocol

from starlette.types import ASGIApp

from .limits import ConnectionLimits
from .rejection import send_rejection


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
        "_without_connections",
        "accepts_websockets",
        "app",
        "connections",
        "date_line",
        "is_draining",
        "is_stopping",
        "keep_alive_seconds",
        "limits",
        "on_interrupt",
        "ping_seconds",
        "rejections",
        "tasks",
    )

    def __init__(
        self,
        app: ASGIApp,
        *,
        limits: ConnectionLimits,
        keep_alive_seconds: float,
        rejections: ASGIApp = send_rejection,
        accepts_websockets: bool = False,
        ping_seconds: float = 20.0,
        on_interrupt: Callable[[int], object] = lambda _count: None,
    ) -> None:
        self.app: ASGIApp = app
        self.rejections: ASGIApp = rejections
        self.limits: ConnectionLimits = limits
        self.keep_alive_seconds: float = keep_alive_seconds
        self.accepts_websockets: bool = accepts_websockets
        self.ping_seconds: float = ping_seconds
        """Between the keepalive pings of a WebSocket; one without a pong before the next closes it."""
        self.connections: set[Connection] = set()
        self.tasks: set[asyncio.Task[None]] = set()
        self.date_line: bytes = b""
        self.is_draining: bool = False
        """Whether every response says `Connection: close`."""
        self.is_stopping: bool = False
        """Whether the requests that are left have been cancelled at the end of the graceful shutdown."""
        self.on_interrupt: Callable[[int], object] = on_interrupt
        """Called with the number of these requests before they are cancelled."""
        self._without_connections: asyncio.Event | None = None

    def remove_connection(self, connection: Connection) -> None:
        self.connections.discard(connection)
        if self._without_connections is not None and not self.connections:
            self._without_connections.set()

    async def wait_until_idle(self) -> None:
        """Wait until all connections are closed and all requests have ended."""
        while self.connections or self.tasks:
            if self.tasks:
                await asyncio.wait(self.tasks)
                self.tasks.difference_update([task for task in self.tasks if task.done()])
            else:
                self._without_connections = asyncio.Event()
                await self._without_connections.wait()
