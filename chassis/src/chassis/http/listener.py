"""A port: its sockets, its connections, and its shutdown."""

import asyncio
import os
import socket
import sys
from collections.abc import Sequence
from contextlib import suppress
from email.utils import formatdate
from weakref import WeakSet

import structlog
from structlog.typing import FilteringBoundLogger

from .binding import BACKLOG, address_of, bind_tcp, bind_unix, identity_of
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
    With `sockets`, it listens on these, which another process has bound. Raises `ListenError`.
    """

    def __init__(
        self,
        host: str,
        port: int,
        state: PortState,
        *,
        unix_socket: str | None = None,
        sockets: Sequence[socket.socket] | None = None,
    ) -> None:
        self.state = state
        self._unix_socket: tuple[str, tuple[int, int] | None] | None = None
        if sockets is not None:
            self._sockets = [*sockets]
        elif unix_socket is not None:
            self._sockets = [bind_unix(unix_socket)]
            self._unix_socket = (unix_socket, identity_of(unix_socket))
        else:
            self._sockets = bind_tcp(host, port)
        self.addresses: list[str] = [address_of(sock) for sock in self._sockets]
        """URLs; `unix:` and the path for a Unix socket."""
        self.port: int = next((port_of(sock) for sock in self._sockets), 0) or port
        self._servers: list[asyncio.Server] = []
        self._also: dict[int, list[tuple[socket.socket, asyncio.Server]]] = {}
        self._date_timer: asyncio.TimerHandle | None = None
        self._accepting: set[asyncio.Task[None]] = set()
        self._is_listening = False
        self._is_closed = False
        _listeners.add(self)

    async def start(self) -> None:
        """Accept connections."""
        if self.state.accepts_websockets:
            from . import websocket  # noqa: F401 - so that the first WebSocket does not wait for the import
        self._update_date()
        for sock in self._sockets:
            self._servers.append(await self._serve(sock))
        self._is_listening = True

    async def listen_also(self, key: int, sockets: Sequence[socket.socket]) -> None:
        """Accept connections on these sockets too, until `stop_listening_also` with the same key."""
        for sock in sockets:
            self._also.setdefault(key, []).append((sock, await self._serve(sock)))

    def stop_listening_also(self, key: int) -> None:
        """Close the sockets that were given to `listen_also`."""
        for _, server in self._also.pop(key, ()):
            server.close()

    async def accept(self, connection: socket.socket) -> None:
        """Serve a connection that another process has accepted or made."""
        await asyncio.get_running_loop().connect_accepted_socket(self._make_protocol, connection)

    async def _serve(self, sock: socket.socket) -> asyncio.Server:
        loop = asyncio.get_running_loop()
        if isinstance(sock.getsockname(), tuple):
            return await loop.create_server(self._make_protocol, sock=sock, backlog=BACKLOG)
        return await loop.create_unix_server(self._make_protocol, sock=sock, backlog=BACKLOG)

    def _make_protocol(self) -> HttpProtocol:
        return HttpProtocol(self.state)

    def drain(self) -> None:
        """Say `Connection: close` in every response from now on, also to requests in flight."""
        self.state.is_draining = True

    def stop_accepting(self) -> None:
        """Close the sockets; responses say `Connection: close`."""
        self.drain()
        if self._is_listening:
            self._accept_waiting()
        self.stop_listening()

    def _accept_waiting(self) -> None:
        """Accept the connections in the listen queues, which the system resets when the sockets are closed."""
        also = [sock for pairs in self._also.values() for sock, _ in pairs]
        for sock in (*self._sockets, *also):
            with suppress(OSError):  # BlockingIOError: no connection waits
                while True:
                    connection, _ = sock.accept()
                    connection.setblocking(False)
                    task = asyncio.create_task(self.accept(connection), name="accept")
                    self._accepting.add(task)
                    task.add_done_callback(self._accepting.discard)

    def stop_listening(self) -> None:
        """Close the sockets, and leave the connections as they are."""
        self._is_listening = False
        for key in [*self._also]:
            self.stop_listening_also(key)
        for server in self._servers:
            server.close()
        for sock in self._sockets[len(self._servers) :]:  # not started
            sock.close()
        if self._unix_socket is not None:
            path, identity = self._unix_socket
            if identity_of(path) == identity:  # otherwise another process has created a socket of this name
                with suppress(OSError):
                    os.unlink(path)

    async def close(self, seconds: float) -> None:
        """Stop accepting, and let requests in flight finish within `seconds`; then cancel and abort the others."""
        if self._is_closed:
            return
        self.stop_accepting()
        if self._accepting:
            await asyncio.wait(self._accepting)
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
        also = [sock for pairs in self._also.values() for sock, _ in pairs]
        sockets = [
            *self._sockets,
            *also,
            *(entry.transport.get_extra_info("socket") for entry in self.state.connections),
        ]
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


def port_of(sock: socket.socket) -> int:
    """The port of a listening socket; 0 for a Unix socket."""
    address = sock.getsockname()
    return int(address[1]) if isinstance(address, tuple) else 0


def _release_in_child() -> None:
    null = os.open(os.devnull, os.O_RDWR)
    for listener in _listeners:
        listener.release_in_child(null)
    os.close(null)


_listeners: WeakSet[Listener] = WeakSet()
if sys.platform != "win32":
    os.register_at_fork(after_in_child=_release_in_child)
