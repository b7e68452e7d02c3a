"""A port: its sockets, its connections, and its shutdown."""

import asyncio
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from email.utils import formatdate
from weakref import WeakSet

import structlog
from structlog.typing import FilteringBoundLogger

from .binding import BACKLOG, address_of, bind_tcp, bind_unix
from .port_state import PortState
from .protocol import HttpProtocol

log: FilteringBoundLogger = structlog.get_logger()

DATE_SECONDS = 1.0  # the Date header has whole seconds
ACCEPT_SECONDS = 0.02  # for connections that were accepted already, but are not known yet, to send a request
MIN_CLOSE_SECONDS = 0.1
LAST_RESPONSE_SECONDS = 1.0  # for cancelled requests to respond
LINGER_SECONDS = 0.5


class Listener:
    """Accepts connections on bound sockets, until it is closed.

    Its constructor binds, so that a port that is in use is known before anything else starts; clients that connect
    wait in the listen queue until `start`. With `unix_socket`, a path, it listens there and not on `host` and `port`.
    Raises `ListenError`.
    """

    def __init__(self, host: str, port: int, state: PortState, *, unix_socket: str | None = None) -> None:
        self.state = state
        self._sockets = bind_tcp(host, port) if unix_socket is None else [bind_unix(unix_socket)]
        self.addresses: list[str] = [address_of(sock) for sock in self._sockets]
        """URLs; `unix:` and the path for a Unix socket."""
        self.port: int = port if unix_socket is not None else self._sockets[0].getsockname()[1]
        self._unix_socket = None if unix_socket is None else (unix_socket, _identity(unix_socket))
        self._servers: list[asyncio.Server] = []
        self._date_timer: asyncio.TimerHandle | None = None
        self._is_closed = False
        _listeners.add(self)

    async def start(self) -> None:
        """Accept connections."""
        if self.state.accepts_websockets:
            from . import websocket  # noqa: F401 - so that the first WebSocket does not wait for the import
        self._update_date()
        loop = asyncio.get_running_loop()
        make_protocol: Callable[[], HttpProtocol] = lambda: HttpProtocol(self.state)  # noqa: E731
        for sock in self._sockets:
            if self._unix_socket is None:
                server = await loop.create_server(make_protocol, sock=sock, backlog=BACKLOG)
            else:
                server = await loop.create_unix_server(make_protocol, sock=sock, backlog=BACKLOG)
            self._servers.append(server)

    def drain(self) -> None:
        """Say `Connection: close` in every response from now on, also to requests in flight."""
        self.state.is_draining = True

    def stop_accepting(self) -> None:
        """Close the sockets, and every connection without a request; responses say `Connection: close`."""
        self.drain()
        for server in self._servers:
            server.close()
        for sock in self._sockets[len(self._servers) :]:  # not started
            sock.close()
        if self._unix_socket is not None:
            path, identity = self._unix_socket
            if _identity(path) == identity:  # otherwise another process has created a socket of this name
                with suppress(OSError):
                    os.unlink(path)
        self._shut_down_connections()

    async def close(self, seconds: float) -> None:
        """Stop accepting, and let requests in flight finish within `seconds`; then cancel and abort the others."""
        if self._is_closed:
            return
        self.stop_accepting()
        await asyncio.sleep(ACCEPT_SECONDS)
        self._shut_down_connections()
        tasks = self.state.tasks
        if not await self._is_idle_within(max(MIN_CLOSE_SECONDS, seconds)) and tasks:
            log.warning("requests cancelled at shutdown", count=len(tasks))
            self.state.is_stopping = True
            self.state.on_interrupt(len(tasks))
            for task in tasks:
                task.cancel("the service is stopping")
            await asyncio.wait(tasks, timeout=LAST_RESPONSE_SECONDS)
        # Clients that still send get a moment to read their last response. The event loop waits for them.
        if not await self._is_idle_within(LINGER_SECONDS):
            for connection in tuple(self.state.connections):
                connection.transport.abort()
            await asyncio.sleep(0)
        if self._date_timer is not None:
            self._date_timer.cancel()
        self._is_closed = True  # only now: a close that was interrupted is done again

    def release_in_child(self, null: int) -> None:
        """In a forked child: close the sockets. Otherwise the port stays in use, and clients stay connected.

        Their descriptors refer to `null` from then on, because the objects that own them may close them later.
        """
        sockets = [*self._sockets, *(entry.transport.get_extra_info("socket") for entry in self.state.connections)]
        for descriptor in (sock.fileno() for sock in sockets if sock is not None):
            if descriptor >= 0:
                os.dup2(null, descriptor, inheritable=False)

    def _shut_down_connections(self) -> None:
        for connection in tuple(self.state.connections):
            connection.shut_down()

    async def _is_idle_within(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                await self.state.wait_until_idle()
        except TimeoutError:
            return False
        return True

    def _update_date(self) -> None:
        self.state.date_line = f"date: {formatdate(usegmt=True)}\r\n".encode()
        self._date_timer = asyncio.get_running_loop().call_later(DATE_SECONDS, self._update_date)


def _identity(path: str) -> tuple[int, int] | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _release_in_child() -> None:
    null = os.open(os.devnull, os.O_RDWR)
    for listener in _listeners:
        listener.release_in_child(null)
    os.close(null)


_listeners: WeakSet[Listener] = WeakSet()
if sys.platform != "win32":
    os.register_at_fork(after_in_child=_release_in_child)
