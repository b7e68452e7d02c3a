"""Messages between the supervisor, the zygote and the workers, over pairs of connected sockets.

Pairs have no name in a file system or a network, so that nobody else can connect. They end with the processes that hold
them: each process reads the end of its peer.
"""

import socket
import struct
from collections.abc import Sequence
from typing import NamedTuple

MAX_SOCKETS = 16  # in one message

# Supervisor to zygote.
FORK = b"f"  # worker number, slot; the sockets are its link and those of its slot
SIGNAL = b"s"  # process, number of the signal
# Zygote to supervisor.
FORKED = b"p"  # worker number, process; 0 if it could not be forked
EXITED = b"x"  # process, exit status, negative for a signal
# Supervisor to worker.
CONNECTION = b"c"  # with a connection for the admin application
LISTEN = b"l"  # slot; with its sockets, on which to accept as well
UNLISTEN = b"u"  # slot
DRAIN = b"d"  # shut down with the service, at SIGTERM
STOP = b"q"  # shut down with the service, without a drain
# Worker to supervisor, each with the length of what follows.
READY = b"r"
RETIRING = b"t"  # new requests are no longer accepted: another worker is needed
METRICS = b"m"  # the last snapshot follows

FORMAT = struct.Struct("!cii")


class Message(NamedTuple):
    """A message, and the sockets that came with it."""

    kind: bytes
    first: int
    second: int
    sockets: list[socket.socket]


def send(
    to: socket.socket, kind: bytes, first: int = 0, second: int = 0, sockets: Sequence[socket.socket] = ()
) -> None:
    """Send a message. Raises `OSError` if the peer has ended, or cannot take more."""
    data = FORMAT.pack(kind, first, second)
    if sockets:
        socket.send_fds(to, [data], [sock.fileno() for sock in sockets])
    else:
        to.send(data)


def receive(source: socket.socket) -> Message | None:
    """The next message; None if the peer has ended. Raises `BlockingIOError` if there is none, and no blocking."""
    try:
        data, descriptors, _, _ = socket.recv_fds(source, FORMAT.size, MAX_SOCKETS)
    except ConnectionResetError:
        return None
    sockets = [socket.socket(fileno=descriptor) for descriptor in descriptors]
    for sock in sockets:
        sock.set_inheritable(False)
    if len(data) < FORMAT.size:  # the end: so small a message is never sent in parts
        return None
    kind, first, second = FORMAT.unpack(data)
    return Message(kind, first, second, sockets)
