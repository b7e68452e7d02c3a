"""Messages between the supervisor, the zygote and the workers, over pairs of connected sockets.

These sockets have no name in a file system or a network, so that no other process can connect. They close when a
process ends, and its peer reads the end of the stream.
"""

import socket
import struct
from collections.abc import Sequence
from typing import NamedTuple

MAX_SOCKETS = 16  # in one message

# The supervisor sends these to the zygote.
FORK = b"f"
"""The number of the worker, and its slot. The sockets are its link and those of its slot."""
SIGNAL = b"s"
"""The process, and the number of the signal."""

# The zygote sends these to the supervisor.
FORKED = b"p"
"""The number of the worker, and its process; 0 if it could not be forked."""
EXITED = b"x"
"""The process, and its exit status; negative for a signal."""

# The supervisor sends these to a worker.
CONNECTION = b"c"
"""The socket is a connection for the admin application."""
LISTEN = b"l"
"""Accept connections of another slot, too: the slot, and its sockets."""
UNLISTEN = b"u"
"""Accept no connections of that slot any more."""
DRAIN = b"d"
"""Shut down with the service, as at SIGTERM."""
POD_WORK = b"w"
"""Do the work of the pod from now on, which one worker does at a time."""
STOP = b"q"
"""Shut down with the service, without a drain."""

# A worker sends these to the supervisor.
READY = b"r"
"""It accepts connections."""
RETIRING = b"t"
"""It accepts no connections any more, so that another worker is needed."""
METRICS = b"m"
"""The length of its last snapshot, which follows."""

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
    """The next message; None if the peer has ended. Raises `BlockingIOError` if a non-blocking socket has none."""
    try:
        data, descriptors, _, _ = socket.recv_fds(source, FORMAT.size, MAX_SOCKETS)
    except ConnectionResetError:
        return None
    sockets = [socket.socket(fileno=descriptor) for descriptor in descriptors]
    for sock in sockets:
        sock.set_inheritable(False)
    if len(data) < FORMAT.size:  # the end of the stream: a message this small never arrives in parts
        return None
    kind, first, second = FORMAT.unpack(data)
    return Message(kind, first, second, sockets)
