"""The configuration and the state that all connections of one port share."""

import asyncio
from collections.abc import Callable
from typing import Protocol

from starlette.types import ASGIApp

from ..request_info import RequestInfo
from .limits import ConnectionLimits
from .rejection import send_rejection

# Middleware that runs the application in a task of its own passes each message on in another turn. So many turns let
# its responses be sent in one write, too, and a failure in them still become a 500.
HELD_TURNS = 5


class Connection(Protocol):
    """A connection of either protocol, as the port sees it."""

    transport: asyncio.Transport

    def shut_down(self) -> None:
        """Close the connection as soon as the responses that have begun are complete."""
        ...


class Cycle(Protocol):
    """A request cycle, as the port sees it."""

    info: RequestInfo

    def send_head(self) -> None: ...


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
        "held_heads",
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
        self.held_heads: list[Cycle] = []
        """Responses that have started in this turn of the event loop; most of them are complete already."""
        self.is_draining: bool = False
        """Whether every response says `Connection: close`."""
        self.is_stopping: bool = False
        """Whether the remaining requests have been cancelled at the end of the graceful shutdown."""
        self.on_interrupt: Callable[[int], object] = on_interrupt
        """Called with the number of these requests before they are cancelled."""
        self._without_connections: asyncio.Event | None = None

    def send_heads(self) -> None:
        """Send the heads that still wait for a part of the body, `HELD_TURNS` after this turn of the event loop.

        A client must not wait for them until a slow stream has its first part (ASGI, "Response Start").
        """
        heads, self.held_heads = self.held_heads, []
        self._send_heads_after(HELD_TURNS, heads)

    def _send_heads_after(self, turns: int, heads: list[Cycle]) -> None:
        heads = [cycle for cycle in heads if cycle.info.holds_head]
        if heads and turns:
            asyncio.get_running_loop().call_soon(self._send_heads_after, turns - 1, heads)
            return
        for cycle in heads:
            cycle.send_head()

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
