"""What a connection and a request may take of the service before anything has been dispatched."""

from dataclasses import dataclass


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
