"""The listening sockets of all slots. They stay open in the supervisor, so that connections outlive a worker.

Each slot has sockets of its own for the same port (SO_REUSEPORT, socket(7)): the system distributes the connections
among them. A Unix socket is shared by all slots.
"""

import os
import socket
from contextlib import suppress

from ..http.binding import address_of, bind_tcp, bind_unix, identity_of
from ..http.listener import port_of
from ..settings import ChassisSettings


class PublicSockets:
    """Listens on the public port. Raises `ListenError`."""

    def __init__(self, settings: ChassisSettings, slots: int) -> None:
        self._path = settings.unix_socket
        if self._path is not None:
            self._slots = [[bind_unix(self._path)]] * slots
            self._identity = identity_of(self._path)
        else:
            if settings.port:
                # With SO_REUSEPORT the system would not report that another instance of the service has the port.
                _close(bind_tcp(settings.host, settings.port))
            first = bind_tcp(settings.host, settings.port, _shared_port)
            port = port_of(first[0])
            self._slots = [first, *(bind_tcp(settings.host, port, _shared_port) for _ in range(1, slots))]
        self.are_shared: bool = self._path is not None
        """Whether all slots have the same sockets."""
        self.port: int = port_of(self._slots[0][0]) or settings.port
        self.addresses: list[str] = [address_of(sock) for sock in self._slots[0]]

    def of(self, slot: int) -> list[socket.socket]:
        """The sockets of one slot."""
        return self._slots[slot]

    def close(self) -> None:
        """Close them in this process. The port is closed as soon as the workers have closed them, too."""
        if self._path is not None and identity_of(self._path) == self._identity:
            with suppress(OSError):
                os.unlink(self._path)
        for sockets in self._slots:
            _close(sockets)


def _shared_port(family: int, kind: int) -> socket.socket:
    sock = socket.socket(family, kind)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    return sock


def _close(sockets: list[socket.socket]) -> None:
    for sock in sockets:
        sock.close()
