"""Requests to replicas over HTTP/1.1, with aiohttp's client. Imported when a client opens, since it is an extra."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from http import HTTPStatus
from importlib.util import find_spec
from io import BytesIO
from typing import TYPE_CHECKING

if find_spec("aiohttp") is None:
    raise ImportError(
        "chassis.client needs aiohttp, which is not installed; depend on asgi-chassis[client] in pyproject.toml"
    )

import aiohttp
from multidict import istr  # of aiohttp's interface, as is yarl
from yarl import URL

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
    from aiohttp.client_proto import ResponseHandler
    from aiohttp.connector import Connection
    from multidict import CIMultiDictProxy

    from .settings import ClientSettings

# The errors of aiohttp for the network. Others, such as `ValueError`, are errors in the call.
FAILURES = (aiohttp.ClientError, aiohttp.EofStream, OSError)
# Bounds of the header section of a response: bytes of the status line and of each field, and the number of fields.
MAX_LINE_BYTES = 8190
MAX_FIELDS = 128
# Bytes of a response, decoded, that are kept before its reader takes them. The connection is not read meanwhile.
BUFFER_BYTES = 65_536
# aiohttp warns about larger bodies if they are bytes; those of a file it writes in parts.
LARGE_BODY_BYTES = 1_048_576
# Headers that tell where a body ends.
CONTENT_LENGTH, TRANSFER_ENCODING = istr("content-length"), istr("transfer-encoding")
# Headers that aiohttp adds by default, which costs 4 µs; the methods for which it adds a content type.
ADDED_HEADERS = ("content-type", "user-agent")
WITH_CONTENT = frozenset({"PATCH", "POST", "PUT"})
DEFAULT_HEADERS = {"accept": "*/*", "accept-encoding": "gzip, deflate"}


@asynccontextmanager
async def open_transport(settings: "ClientSettings") -> AsyncIterator[Transport]:
    """A transport whose connections are closed at the end. Raises `OSError` and `ValueError` for wrong settings."""
    origin = Origin.of(settings.base_url)
    proxy = origin.proxy() if settings.trust_env else None
    connector = aiohttp.TCPConnector(
        # No limit: the bulkhead of the client bounds the calls, and here they would wait without a word.
        limit=0,
        keepalive_timeout=settings.idle_seconds,
        ssl=tls_context(settings.ca_file, "http/1.1") if origin.scheme == "https" else True,
        resolver=aiohttp.ThreadedResolver(),  # as the rest of the process, by the system's rules
    )
    async with aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        # The caller bounds the whole.
        timeout=aiohttp.ClientTimeout(total=None, connect=settings.connect_timeout_seconds),
        # The session reads neither the environment nor ~/.netrc, which it would do for each request.
        proxy=proxy,
        request_class=TrackedRequest,
        read_bufsize=BUFFER_BYTES,
        max_line_size=MAX_LINE_BYTES,
        max_field_size=MAX_LINE_BYTES,
        max_headers=MAX_FIELDS,
    ) as session:
        yield AiohttpTransport(session, origin, is_proxied=proxy is not None)


class AiohttpTransport:
    """Sends each request once, to the replica that its caller names."""

    def __init__(self, session: aiohttp.ClientSession, origin: Origin, *, is_proxied: bool) -> None:
        self._session = session
        self._origin = origin
        self._is_proxied = is_proxied
        # The name in the certificate is that of the origin, also where the address is a replica's.
        self._server_name = origin.host if origin.scheme == "https" else None

    async def send(self, request: OutboundRequest, replica: Address) -> InboundResponse:
        """Send a request. Raises `NotSentError`, `ConnectionLostError`, and `ValueError` if it cannot be sent as it is.

        Through a proxy, the request goes to the name of the base URL, whatever `replica` is.
        """
        check_request(request)
        if self._session.closed:
            raise NotSentError("the client is closed")
        origin, body = self._origin, request.body
        host, port = (origin.host, origin.port) if self._is_proxied else replica
        path, _, query = request.target.partition("?")
        adds_headers = body is not None or request.method in WITH_CONTENT or "user-agent" not in request.headers
        headers = {**DEFAULT_HEADERS, **request.headers, "host": origin.authority}
        response = await self._session.request(
            request.method,
            URL.build(scheme=origin.scheme, host=host, port=port, path=path, query_string=query, encoded=True),
            # The only one that aiohttp itself has to know.
            headers={"expect": request.headers["expect"]} if "expect" in request.headers else None,
            skip_auto_headers=ADDED_HEADERS if adds_headers else None,
            data=BytesIO(body) if body is not None and len(body) > LARGE_BODY_BYTES else body,
            allow_redirects=False,
            server_hostname=self._server_name,
            middlewares=(SendOnce(headers),),
        )
        received = AiohttpResponse(response)
        if response.status == HTTPStatus.SWITCHING_PROTOCOLS:
            received.close()
            raise ConnectionLostError("the server switched to a protocol that was not asked for")
        return received


class AiohttpResponse:
    """A response whose header section has arrived."""

    __slots__ = ("_connection", "_response", "headers", "status")

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response
        self.status: int = response.status
        self.headers: Mapping[str, str] = ResponseHeaders(response.headers)
        # Of a body that ends with its connection, because aiohttp takes a reset for such an end.
        self._connection: ResponseHandler | None = None
        fields = response.headers
        if response.connection is not None and not (CONTENT_LENGTH in fields or TRANSFER_ENCODING in fields):
            self._connection = response.connection.protocol

    @property
    def http_version(self) -> str:
        """`1.0` or `1.1`."""
        version = self._response.version
        return "1.1" if version is None else f"{version.major}.{version.minor}"

    async def read(self, limit: int) -> bytes:
        """The whole body. It is decoded in parts, so that a small body that becomes a large one stops at `limit`."""
        content = self._response.content
        try:
            body = await content.readany()
            if not content.at_eof():
                parts, size = [body], len(body)
                while size <= limit and not content.at_eof():
                    parts.append(await content.readany())
                    size += len(parts[-1])
                body = b"".join(parts)
            self._check_end()
        except FAILURES as error:
            self.close()
            raise ConnectionLostError(describe(error)) from error
        except BaseException:
            self.close()
            raise
        if len(body) > limit:
            self.close()
            raise ResponseTooLargeError(f"the body is longer than {limit} bytes")
        return body

    async def chunks(self) -> AsyncIterator[bytes]:
        """The parts of the body as they arrive. A reader that is slow slows the sender down."""
        try:
            async for chunk in self._response.content.iter_any():
                yield chunk
            self._check_end()
        except FAILURES as error:
            raise ConnectionLostError(describe(error)) from error
        finally:
            self.close()

    def _check_end(self) -> None:
        error = None if self._connection is None else self._connection.exception()
        if isinstance(error, OSError):
            raise error

    def close(self) -> None:
        """Close the connection, unless the body is complete: it has been given back then."""
        connection = self._response.connection
        if connection is not None and connection.transport is not None:
            connection.transport.abort()
        self._response.close()


class ResponseHeaders(Mapping[str, str]):
    """The header section of a response. Names are case-insensitive; fields of the same name are joined by commas."""

    __slots__ = ("_fields",)

    def __init__(self, fields: "CIMultiDictProxy[str]") -> None:
        self._fields = fields

    def __getitem__(self, name: str) -> str:
        values = self._fields.getall(name)
        value = values[0] if len(values) == 1 else ", ".join(values)
        # Bytes that are no UTF-8 are surrogates in aiohttp, which no log and no JSON document can hold.
        return value if value.isascii() else value.encode("utf-8", "surrogateescape").decode("utf-8", "replace")

    def __iter__(self) -> Iterator[str]:
        return iter({name.lower(): None for name in self._fields})

    def __len__(self) -> int:
        return len({name.lower() for name in self._fields})

    def __contains__(self, name: object) -> bool:
        return name in self._fields

    def get(self, name: str, default: object = None, /) -> object:  # type: ignore[override]
        """The value of a field. Not by an exception, which most responses would raise for most names."""
        return self[name] if name in self._fields else default


class TrackedRequest(aiohttp.ClientRequest):
    """A request that knows the connection that it was sent over."""

    transport: asyncio.Transport | None = None

    async def send(self, conn: "Connection") -> aiohttp.ClientResponse:
        """Send the request, unless the connection has received what nobody has asked for.

        Such bytes arrive after a complete response. aiohttp would take them for the response to this request.
        """
        if conn.protocol is None or conn.protocol.should_close:
            raise NotSentError("the connection has received a response without a request")
        self.transport = conn.transport
        return await super().send(conn)


class SendOnce:
    """A middleware of aiohttp for one request: adds its headers, raises the errors of the transport, closes at once.

    aiohttp merges headers one by one, twice, which takes 9 µs; here they are added together.

    aiohttp sends idempotent requests again when a connection that it has kept is lost, and has no option against that.
    It does so for its own errors alone, not for ours.
    """

    __slots__ = ("_headers",)

    def __init__(self, headers: Mapping[str, str]) -> None:
        self._headers = headers

    async def __call__(
        self, request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType, /
    ) -> aiohttp.ClientResponse:
        """Send `request`."""
        request.headers.update(self._headers)
        transport = None
        try:
            return await handler(request)
        except FAILURES as error:
            transport = getattr(request, "transport", None)
            raise (NotSentError if transport is None else ConnectionLostError)(describe(error)) from error
        except BaseException:
            transport = getattr(request, "transport", None)
            raise
        finally:
            # aiohttp has closed the connection, but that waits for a peer that does not take the rest of the request.
            if transport is not None:
                transport.abort()


def describe(error: Exception) -> str:
    """The cause of an error, without the URL and its query, which have no place in logs."""
    match error:
        case aiohttp.ConnectionTimeoutError():
            return "no connection in time"
        case aiohttp.ClientConnectorError():
            return f"no connection: {error.os_error}"
        case aiohttp.ClientHttpProxyError():
            return f"the proxy responded with {error.status}"
        case aiohttp.ClientResponseError():
            return f"malformed response: {first_line(error.message)}"
        case aiohttp.ServerDisconnectedError() | aiohttp.EofStream():
            return "the server closed the connection"
        case aiohttp.ClientPayloadError():
            return f"the body is incomplete or malformed: {first_line(error)}"
        case OSError(errno=int(), strerror=str()):
            return f"connection lost: {error.strerror}"
        case _:
            return type(error).__name__


def first_line(text: object) -> str:
    """Without the bytes of the response, which follow in some errors."""
    return str(text).partition("\n")[0]
