"""Requests to replicas with httpx: for HTTP/2, which aiohttp does not speak. Imported when such a client opens."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import httpx

from .origin import Origin
from .request_syntax import check_request
from .tls import tls_context
from .transport import (
    Address,
    ConnectionLostError,
    InboundResponse,
    NotSentError,
    OutboundRequest,
    ResponseTooLargeError,
    Transport,
)

if TYPE_CHECKING:
    from .settings import ClientSettings

# The errors of httpx before a connection is made. The rest of its errors say that one was lost.
NOT_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.ProxyError, httpx.UnsupportedProtocol)


@asynccontextmanager
async def open_transport(settings: "ClientSettings") -> AsyncIterator[Transport]:
    """A transport whose connections are closed at the end. Raises `OSError` and `ValueError` for wrong settings.

    HTTP/2 is used over TLS, with servers that offer it; all calls to a replica then share one connection.
    """
    if settings.http2 and find_spec("h2") is None:
        raise ImportError(
            "a client with http2 needs h2, which is not installed; depend on httpx[http2] in pyproject.toml"
        )
    origin = Origin.of(settings.base_url)
    proxy = origin.proxy() if settings.trust_env else None
    protocols = ("h2", "http/1.1") if settings.http2 else ("http/1.1",)
    is_secure = origin.scheme == "https"
    pool = httpx.AsyncHTTPTransport(
        verify=tls_context(settings.ca_file, *protocols) if is_secure else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),
        http2=settings.http2,
        # The bulkhead of the client bounds the calls.
        limits=httpx.Limits(max_connections=None, keepalive_expiry=settings.idle_seconds),
        proxy=proxy,
        trust_env=False,
    )
    async with pool:
        transport = HttpxTransport(pool, origin, settings.connect_timeout_seconds, is_proxied=proxy is not None)
        try:
            yield transport
        finally:
            await transport.settle()


class HttpxTransport:
    """Sends each request once, to the replica that its caller names."""

    def __init__(
        self, pool: httpx.AsyncHTTPTransport, origin: Origin, connect_seconds: float, *, is_proxied: bool
    ) -> None:
        self._pool = pool
        self._origin = origin
        self._is_proxied = is_proxied
        self._options: dict[str, Any] = {"timeout": {"connect": connect_seconds}, "sni_hostname": origin.host}
        self._closing = set[asyncio.Task[None]]()

    async def send(self, request: OutboundRequest, replica: Address) -> InboundResponse:
        """Send a request. Raises `NotSentError`, `ConnectionLostError`, and `ValueError` if it cannot be sent as it is.

        Through a proxy, the request goes to the name of the base URL, whatever `replica` is.
        """
        check_request(request)
        origin = self._origin
        if self._is_proxied:
            url, extensions = origin.at(origin.host, origin.port) + request.target, self._options
        else:
            url = origin.at(*replica)
            extensions = {**self._options, "target": request.target.encode()}  # which httpx would normalize
        try:
            response = await self._pool.handle_async_request(
                httpx.Request(
                    request.method,
                    url,
                    # No coding: httpx has no bound for what a small body becomes.
                    headers={**request.headers, "host": origin.authority, "accept-encoding": "identity"},
                    content=request.body,
                    extensions=extensions,
                )
            )
        except NOT_SENT as error:
            raise NotSentError(f"no connection: {describe(error)}") from error
        except httpx.TransportError as error:
            raise ConnectionLostError(describe(error)) from error
        received = HttpxResponse(response, self)
        if response.headers.get("content-encoding", "identity") != "identity":
            received.close()
            raise ConnectionLostError("malformed response: the body has a coding that was not asked for")
        return received

    def release(self, response: httpx.Response) -> None:
        """Close a response, in a task, since its reader may be one that is cancelled."""
        task = asyncio.create_task(response.aclose())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def settle(self) -> None:
        """Wait until the responses are closed."""
        await asyncio.gather(*self._closing, return_exceptions=True)


class HttpxResponse:
    """A response whose header section has arrived."""

    def __init__(self, response: httpx.Response, transport: HttpxTransport) -> None:
        self._response = response
        self._transport = transport
        self.status: int = response.status_code
        self.headers: Mapping[str, str] = response.headers

    @property
    def http_version(self) -> str:
        """`1.0`, `1.1` or `2`."""
        return self._response.http_version.removeprefix("HTTP/")

    async def read(self, limit: int) -> bytes:
        """The whole body."""
        parts, size = list[bytes](), 0
        async for part in self.chunks():
            parts.append(part)
            size += len(part)
            if size > limit:
                self.close()
                raise ResponseTooLargeError(f"the body is longer than {limit} bytes")
        return b"".join(parts)

    async def chunks(self) -> AsyncIterator[bytes]:
        """The parts of the body as they arrive."""
        try:
            async for part in self._response.aiter_raw():
                yield part
        except httpx.TransportError as error:
            raise ConnectionLostError(describe(error)) from error
        finally:
            self.close()

    def close(self) -> None:
        """Close the connection, unless the body is complete; with HTTP/2, forget the stream."""
        if not self._response.is_closed:
            self._transport.release(self._response)


def describe(error: Exception) -> str:
    """What happened, for logs."""
    return str(error).partition("\n")[0] or type(error).__name__
