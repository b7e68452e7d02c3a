"""Limits for connections and for requests before they are dispatched."""

from contextlib import suppress
from typing import NamedTuple

import structlog
from structlog.typing import FilteringBoundLogger

log: FilteringBoundLogger = structlog.get_logger()

# Connections beyond the limit that get a 503 at the same time. All others are closed at once.
MAX_REJECTED = 50

# Open files beside the clients' connections: rejected ones, ports, dependencies, the admin port's connections.
OTHER_FILES = MAX_REJECTED + 78


class ConnectionLimits(NamedTuple):
    """The limits of one port, the same for every client.

    A head is the request line and the header section. Bodies and responses must progress by `min_bytes_per_second` on
    average over each `body_seconds`. A limit for the total time would reject large bodies, and a limit for the pause
    between two pieces would accept one byte in each pause.
    """

    max_target_bytes: int
    """Size of a request target (RFC 9112, section 3, asks for at least 8000); beyond it 414."""
    max_head_bytes: int
    """Size of a head, complete or not; beyond it 431."""
    head_seconds: float
    """Time for a head, from the start of the connection or the head's first byte; beyond it 408."""
    body_seconds: float
    """Period over which the pace of a body or a response is measured. A slow body gets 408; a client that reads a
    response too slowly is disconnected."""
    min_bytes_per_second: int
    """The lowest pace that is accepted."""
    max_connections: int
    """Connections open at the same time; beyond it 503, and the connection is closed."""
    max_connection_age_seconds: float
    """Age, give or take 10 %, after which the next response says `Connection: close`."""
    max_requests_per_connection: int
    """Requests of a connection; the response to the last one says `Connection: close`."""

    @property
    def min_bytes_per_period(self) -> int:
        """Bytes that must be transferred in each `body_seconds`."""
        return max(1, round(self.min_bytes_per_second * self.body_seconds))


def within_open_files(limits: ConnectionLimits) -> ConnectionLimits:
    """Return `limits` with `max_connections` reduced to the open files that the process may have.

    The soft limit of open files is first raised as far as the hard limit allows. The usual soft limit of 1024 exists
    for programs that call select(2); other programs may raise it (getrlimit(2)).
    """
    try:
        import resource
    except ImportError:  # Windows, which has no such limit
        return limits
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = limits.max_connections + OTHER_FILES
    if soft != resource.RLIM_INFINITY and soft < needed:
        more = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        with suppress(ValueError, OSError):  # macOS has a limit of its own below an infinite one
            resource.setrlimit(resource.RLIMIT_NOFILE, (more, hard))
            soft = more
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return limits
    # With a very low limit, connections get half of the files.
    max_connections = max(soft - OTHER_FILES, soft // 2)
    log.warning("max connections reduced to open file limit", max_connections=max_connections, open_files=soft)
    return limits._replace(max_connections=max_connections)
