"""What a connection and a request may take of the service before anything has been dispatched."""

from contextlib import suppress
from dataclasses import dataclass, replace

import structlog

log = structlog.get_logger()

MAX_REFUSED = 50  # connections beyond the limit that are told so, at the same time; others are just closed
# Open beside the connections of clients: those that are refused, ports, dependencies, the admin port's connections.
OTHER_FILES = MAX_REFUSED + 78


@dataclass(frozen=True)
class Limits:
    """The limits that a port holds every client to.

    A head is a request line with its fields. A body, and an answer, must move by `min_bytes_per_second` on
    average over each `body_seconds`: a limit for the whole would punish large ones, a limit for the pause
    between two pieces would let one byte in each pause through.
    """

    max_target_bytes: int = 8_192
    """Of a request target (RFC 9112, section 3, asks for 8000 at least); beyond it 414."""
    max_head_bytes: int = 32_768
    """Of a head, finished or not; beyond it 431."""
    head_seconds: float = 10.0
    """For a head, from the connection's beginning or the head's first byte; beyond it 408."""
    body_seconds: float = 10.0
    """Over which the pace of a body or an answer is measured; too slow is 408, or a close when the answer has begun."""
    min_bytes_per_second: int = 500
    """The least pace."""
    max_connections: int = 10_000
    """Open at the same time; beyond it 503 and a close."""


def within_open_files(limits: Limits) -> Limits:
    """`limits` with as many connections as may be open beside all other files.

    The process's limit of open files is raised as far as it may be. What is set on it by most systems, 1024, is
    for programs that call select(2); where more are allowed, a process asks for them (getrlimit(2)).
    """
    try:
        import resource
    except ImportError:  # Windows, which has no such limit
        return limits
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = limits.max_connections + OTHER_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        more = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        with suppress(ValueError, OSError):  # macOS has a limit of its own below an infinite one
            resource.setrlimit(resource.RLIMIT_NOFILE, (more, hard))
            soft = more
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return limits
    # Too few to spare so many: half of them.
    most = max(soft - OTHER_FILES, soft // 2)
    log.warning("fewer connections than allowed", max_connections=most, open_files=soft)
    return replace(limits, max_connections=most)
