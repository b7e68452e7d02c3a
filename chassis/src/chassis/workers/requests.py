"""HTTP requests of the supervisor to the admin application of a worker."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import cast

from httptools import HttpParserError, HttpResponseParser

Headers = list[tuple[bytes, bytes]]

HOST: Headers = [(b"host", b"localhost")]


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


class RequestProtocol(asyncio.Protocol):
    """Sends one request, and collects its response."""

    def __init__(self, request: bytes) -> None:
        self._request = request
        self._parser = HttpResponseParser(self)
        self._parts: list[bytes] = []
        self._response = WorkerResponse()
        self.response: asyncio.Future[WorkerResponse] = asyncio.get_running_loop().create_future()

    # asyncio's callbacks.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast("asyncio.Transport", transport).write(self._request)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except HttpParserError as error:
            self._fail(f"malformed response: {error}")

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail("the worker has closed the connection")

    # httptools' callbacks.

    def on_header(self, name: bytes, value: bytes) -> None:
        self._response.headers.append((name.lower(), value))

    def on_body(self, body: bytes) -> None:
        self._parts.append(body)

    def on_message_complete(self) -> None:
        self._response.status = self._parser.get_status_code()
        self._response.body = b"".join(self._parts)
        if not self.response.done():
            self.response.set_result(self._response)

    def _fail(self, reason: str) -> None:
        if not self.response.done():
            self.response.set_exception(NoResponseError(reason))
            self.response.exception()  # retrieved, in case that nobody waits any more


def encode_request(method: str, target: bytes, headers: Sequence[tuple[bytes, bytes]], body: bytes) -> bytes:
    """A request of HTTP/1.1 whose connection ends after the response. `headers` need a `Host`."""
    lines = [b"%b %b HTTP/1.1" % (method.encode(), target), *(b"%b: %b" % pair for pair in headers)]
    lines += [b"content-length: %d" % len(body), b"connection: close"]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body
