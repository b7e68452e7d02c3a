"""`ClientTransport`: libraries that are made for httpx, such as generated clients, call by way of a `Client`."""

import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import TYPE_CHECKING, Any, Protocol, Unpack
from urllib.parse import parse_qsl, urlsplit

import httpx

from .errors import BadResponseError, DependencyError, DependencyTimeoutError, DependencyUnavailableError
from .response import UnexpectedStatusError

if TYPE_CHECKING:
    from .streamed import StreamedResponse
    from .verbs import CallOptions

# Redirects and errors of the caller are responses to httpx. The others are failures of the dependency.
EXPECTED = frozenset(range(300, 500)) - {429}
# The transport of the client sets these itself. `host` would be that of the base URL anyway.
OWN_HEADERS = frozenset({"accept-encoding", "connection", "content-length", "host", "transfer-encoding"})
# Of a body before it was decoded.
CODED = frozenset({"content-encoding", "content-length", "transfer-encoding"})
HTTPX_AGENT = "python-httpx/"


class HttpxTimeoutError(DependencyTimeoutError, httpx.ReadTimeout):
    """`DependencyTimeoutError`, for code that expects the errors of httpx."""


class HttpxUnavailableError(DependencyUnavailableError, httpx.ConnectError):
    """`DependencyUnavailableError`, for code that expects the errors of httpx."""


class HttpxBadResponseError(BadResponseError, httpx.RemoteProtocolError):
    """`BadResponseError`, for code that expects the errors of httpx."""


class Streams(Protocol):
    """The part of a `Client` that is used."""

    def stream(
        self, method: str, route: str, **options: Unpack["CallOptions"]
    ) -> "AbstractAsyncContextManager[StreamedResponse]":
        """Make a call whose response is read in parts."""
        ...


def connect(client: Streams, base_url: str, **options: Any) -> httpx.AsyncClient:
    """An httpx client on top of `client`; `options` are those of `httpx.AsyncClient`."""
    return httpx.AsyncClient(transport=ClientTransport(client, base_url), base_url=base_url, **options)


class ClientTransport(httpx.AsyncBaseTransport):
    """A transport of httpx whose requests are calls of `client`: balanced, retried, bounded and observed as others.

    Requests outside of the base URL raise `httpx.UnsupportedProtocol`. All statuses are responses, as httpx has it.
    Failures are errors of httpx and `DependencyError` alike: what is not caught becomes 502, 503 or 504.
    """

    def __init__(self, client: Streams, base_url: str) -> None:
        url = urlsplit(base_url)
        self._client = client
        self._origin = httpx.URL(f"{url.scheme}://{url.netloc}")
        self._prefix = url.path.rstrip("/")

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Make a call."""
        path, _, query = request.url.raw_path.decode("ascii").partition("?")
        if _origin(request.url) != _origin(self._origin) or not f"{path}/".startswith(f"{self._prefix}/"):
            raise httpx.UnsupportedProtocol("the URL is not below the base URL of the client", request=request)
        content = await request.aread()
        headers = {name: value for name, value in request.headers.items() if name not in OWN_HEADERS}
        if headers.get("user-agent", "").startswith(HTTPX_AGENT):
            del headers["user-agent"]
        # The query is no part of the route, which logs show.
        options: CallOptions = {
            "params": parse_qsl(query, keep_blank_values=True),
            "headers": headers,
            "expect": EXPECTED,
        }
        if content:
            options["content"] = content
        route = path.removeprefix(self._prefix).replace("{", "%7B").replace("}", "%7D")
        call = self._client.stream(request.method, route, **options)
        async with AsyncExitStack() as stack:
            try:
                streamed = await stack.enter_async_context(call)
            except UnexpectedStatusError as error:
                response = error.response
                return httpx.Response(
                    response.status, headers=_decoded(response.headers), content=response.body, request=request
                )
            except DependencyError as error:
                raise _as_httpx(error, request) from error
            body = CallStream(streamed, stack.pop_all(), request)
        return httpx.Response(streamed.status, headers=_decoded(streamed.headers), stream=body, request=request)


class CallStream(httpx.AsyncByteStream):
    """The body of a response, as it arrives. The call ends when it is closed."""

    def __init__(self, streamed: "StreamedResponse", call: AsyncExitStack, request: httpx.Request) -> None:
        self._streamed = streamed
        self._call = call
        self._request = request

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """The parts of the body."""
        try:
            async for part in self._streamed.chunks():
                yield part
        except DependencyError as error:
            await self._call.__aexit__(*sys.exc_info())
            raise _as_httpx(error, self._request) from error

    async def aclose(self) -> None:
        """End the call."""
        await self._call.aclose()


def _origin(url: httpx.URL) -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port  # httpx leaves the default port out


def _decoded(headers: Mapping[str, str]) -> dict[str, str]:
    if "content-encoding" not in headers:
        return dict(headers)
    return {name: value for name, value in headers.items() if name not in CODED}


def _as_httpx(error: DependencyError, request: httpx.Request) -> DependencyError:
    kind: type[HttpxTimeoutError | HttpxUnavailableError | HttpxBadResponseError] = HttpxBadResponseError
    if isinstance(error, DependencyTimeoutError):
        kind = HttpxTimeoutError
    elif isinstance(error, DependencyUnavailableError):
        kind = HttpxUnavailableError
    same = kind(error.dependency, error.reason, retry_after=error.retry_after)
    same.request = request
    return same
