"""`Transport`: sends one request to one replica. The interface of what a client uses for the network."""

from collections.abc import AsyncIterator, Mapping
from typing import NamedTuple, Protocol


class Address(NamedTuple):
    """Where a replica listens: an IP address or a host name, and a port."""

    host: str
    port: int


class OutboundRequest:
    """A request as it is sent. Attempts of one call share it, so a transport does not change it."""

    __slots__ = ("body", "headers", "method", "target")

    def __init__(self, method: str, target: str, headers: Mapping[str, str], body: bytes | None = None) -> None:
        """`target` is the encoded path with its query; names of `headers` are in lower case."""
        self.method: str = method
        self.target: str = target
        self.headers: Mapping[str, str] = headers
        self.body: bytes | None = body


class InboundResponse(Protocol):
    """A response whose header section has arrived."""

    @property
    def status(self) -> int:
        """The status code."""
        ...

    @property
    def headers(self) -> Mapping[str, str]:
        """The header section; names are case-insensitive, fields that were sent repeatedly are joined by commas."""
        ...

    @property
    def http_version(self) -> str:
        """`1.0`, `1.1` or `2`."""
        ...

    async def read(self, limit: int) -> bytes:
        """The whole body, decoded. Raises `ConnectionLostError`, and `ResponseTooLargeError` beyond `limit` bytes."""
        ...

    def chunks(self) -> AsyncIterator[bytes]:
        """The parts of the body, decoded, as they arrive. Raises `ConnectionLostError`."""
        ...

    def close(self) -> None:
        """Give the connection back, or close it if the body has not been read. May be called more than once."""


class Transport(Protocol):
    """Keeps connections to the replicas of one dependency. Opened and closed with the service."""

    async def send(self, request: OutboundRequest, replica: Address) -> InboundResponse:
        """Send a request, and return when the header section of its response has arrived.

        Raises `NotSentError` if no byte of the request was sent: another attempt is always safe. Raises
        `ConnectionLostError` if the connection failed later. It is cancelled by its caller for timeouts, and then
        closes the connection.
        """
        ...


class TransportError(Exception):
    """An attempt failed below HTTP. The text is for logs."""


class NotSentError(TransportError):
    """The connection could not be made: rejected, unreachable, TLS failed, or no connection in time."""


class ConnectionLostError(TransportError):
    """The connection failed after a part of the request may have been sent, or before the response was complete."""


class ResponseTooLargeError(TransportError):
    """The body of the response is longer than its limit."""
