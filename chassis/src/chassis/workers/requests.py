"""HTTP requests of the supervisor to the admin application of a worker."""

import asyncio
import socket
from collections.abc import Sequence
from dataclasses import dataclass, field

from httptools import HttpParserError, HttpResponseParser

Headers = list[tuple[bytes, bytes]]

HOST: Headers = [(b"host", b"localhost")]


READ_BYTES = 262_144


class NoResponseError(Exception):
    """The worker has ended, or has not responded in time."""


@dataclass(slots=True)
class WorkerResponse:
    """A complete response of a worker."""

    status: int = 0
    headers: Headers = field(default_factory=list[tuple[bytes, bytes]])
    body: bytes = b""

    @property
    def is_success(self) -> bool:
        """Whether the status is 2xx."""
        return 200 <= self.status < 300

    def header(self, name: bytes) -> bytes:
        """The value of a header, named in lower case; empty without one."""
        return next((value for field, value in self.headers if field == name), b"")


class ResponseReader:
    """Makes a response of bytes."""

    def __init__(self) -> None:
        self._parser = HttpResponseParser(self)
        self._parts: list[bytes] = []
        self._response = WorkerResponse()
        self.response: WorkerResponse | None = None
        """The response, as soon as it is complete."""

    def feed(self, data: bytes) -> None:
        """Read the next bytes. Raises `NoResponseError` if they are malformed."""
        try:
            self._parser.feed_data(data)
        except HttpParserError as error:
            raise NoResponseError(f"malformed response: {error}") from error

    # httptools' callbacks.

    def on_header(self, name: bytes, value: bytes) -> None:
        self._response.headers.append((name.lower(), value))

    def on_body(self, body: bytes) -> None:
        self._parts.append(body)

    def on_message_complete(self) -> None:
        self._response.status = self._parser.get_status_code()
        self._response.body = b"".join(self._parts)
        self.response = self._response


async def exchange(sock: socket.socket, request: bytes) -> WorkerResponse:
    """Send a request on a connection, and return its response. Raises `OSError` and `NoResponseError`.

    The loop's functions for sockets leave the socket to the caller. A transport of uvloop closes a descriptor twice if
    the peer ends at once: then it is neither attached to the socket nor detached from it.
    """
    loop = asyncio.get_running_loop()
    sock.setblocking(False)
    await loop.sock_sendall(sock, request)
    reader = ResponseReader()
    while reader.response is None:
        data = await loop.sock_recv(sock, READ_BYTES)
        if not data:
            raise NoResponseError("the worker has closed the connection")
        reader.feed(data)
    return reader.response


def encode_request(method: str, target: bytes, headers: Sequence[tuple[bytes, bytes]], body: bytes) -> bytes:
    """A request of HTTP/1.1 whose connection ends after the response. `headers` need a `Host`."""
    lines = [b"%b %b HTTP/1.1" % (method.encode(), target), *(b"%b: %b" % pair for pair in headers)]
    lines += [b"content-length: %d" % len(body), b"connection: close"]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body
