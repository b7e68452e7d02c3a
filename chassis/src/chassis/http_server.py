"""Handlers of the standard library's `http.server` as routes: their classes run unchanged, in a thread."""

import asyncio
import io
from collections.abc import Awaitable, Callable
from concurrent.futures import CancelledError, Future
from functools import partial
from http.server import BaseHTTPRequestHandler
from types import SimpleNamespace
from typing import Any, BinaryIO, TypeVar, cast
from urllib.parse import quote

import httptools
import structlog
from starlette.requests import ClientDisconnect
from starlette.routing import Mount
from starlette.types import Message, Receive, Scope, Send
from structlog.typing import FilteringBoundLogger

from .threads import threads_of

log: FilteringBoundLogger = structlog.get_logger()

Result = TypeVar("Result")

# The connection and the framing belong to our server, so these fields are not forwarded (RFC 9110, section 7.6.1).
OF_THE_CONNECTION = frozenset({b"connection", b"keep-alive", b"proxy-connection", b"te", b"trailer", b"upgrade"})
FRAMING = b"transfer-encoding"
OF_THE_REQUEST = frozenset({FRAMING, b"connection", b"keep-alive", b"proxy-connection"})
NO_BODY = frozenset({204, 304})


class HttpServerRoute(Mount):
    """Runs a `BaseHTTPRequestHandler` class, unchanged, for `path` and everything below it.

        app.add_routes(HttpServerRoute("/legacy", TheirHandler))
        app.add_routes(HttpServerRoute("/files", partial(SimpleHTTPRequestHandler, directory="/srv/files")))

    Each request gets its own instance, in one of the threads of `def` handlers (`APP_THREADS`). Limits, access lines,
    metrics, traces, deadlines and graceful shutdown work as for every route.

    `rfile` streams the body, and `wfile` streams the response; neither is held in memory. When the client disconnects,
    the deadline passes or the service stops, they raise `ConnectionResetError` or `BrokenPipeError`. One instance
    handles one request with any `protocol_version`, because the connection belongs to our server. A class that
    overrides `handle` must not send `Connection: keep-alive`. `CGIHTTPRequestHandler` does not work, because it passes
    its socket to a process.

    `self.path` is the path below the route, and the route's path is prepended to a `Location` that begins with `/`.
    With `full_path`, `self.path` is the whole path, and `Location` is unchanged. `self.server` is `server`, or an
    object with `server_address`, `server_name` and `server_port`. Errors go to the service's log, and the access line
    replaces the class's own line for each request, unless the class overrides its log methods.
    """

    def __init__(
        self,
        path: str,
        handler: Callable[..., BaseHTTPRequestHandler],
        *,
        server: object = None,
        full_path: bool = False,
        name: str | None = None,
    ) -> None:
        super().__init__(path, HttpServerApp(handler, server=server, full_path=full_path), name=name)


class HttpServerApp:
    """An ASGI application that runs a class of `http.server`; see `HttpServerRoute`."""

    def __init__(
        self, handler: Callable[..., BaseHTTPRequestHandler], *, server: object = None, full_path: bool = False
    ) -> None:
        self._handler = for_one_request(handler)
        self._server = server
        self._full_path = full_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1000})
            return
        root = "" if self._full_path else scope.get("root_path", "")
        request_socket = RequestSocket(scope, receive, send, root)
        client = tuple(scope.get("client") or ("", 0))
        server = self._server or server_of(scope)
        try:
            await threads_of(scope).run(partial(self._handler, request_socket, client, server))
            await request_socket.end()
        except OSError as error:
            if request_socket.client_has_gone:
                raise ClientDisconnect from error
            raise
        finally:
            request_socket.close()


class RequestSocket:
    """One request and its response, as the socket that a class of `http.server` expects.

    Its methods are called in the thread of the handler, except `end` and `close`.
    """

    def __init__(self, scope: Scope, receive: Receive, send: Send, root: str) -> None:
        self._loop = asyncio.get_running_loop()
        self._receive = receive
        self._send = send
        self._scope = scope
        self._response = ResponseReader(root, is_head=scope["method"] == "HEAD")
        self._unread = request_head(scope, root)
        self._has_more = True
        self._is_closed = False
        self.client_has_gone: bool = False
        self._pending: Future[Any] | None = None

    # The methods of a socket that `socketserver.StreamRequestHandler` uses.

    def makefile(self, mode: str = "r", buffering: int = -1, **_: object) -> BinaryIO:
        """A file to read the request from, or to write the response to."""
        if "w" in mode:
            raw: io.RawIOBase = Output(self)
            return cast("BinaryIO", io.BufferedWriter(raw, buffering if buffering > 0 else io.DEFAULT_BUFFER_SIZE))
        return cast("BinaryIO", io.BufferedReader(Input(self), buffering if buffering > 0 else io.DEFAULT_BUFFER_SIZE))

    def sendall(self, data: bytes | memoryview) -> None:
        """Send a part of the response. Returns when the transport has accepted it."""
        for message in self._response.read(bytes(data)):
            self._call(partial(self._send, message))

    def settimeout(self, seconds: float | None) -> None:
        """Ignored: the timeouts of our server apply."""

    def setsockopt(self, *_: object) -> None:
        """Ignored: the socket belongs to our server."""

    def shutdown(self, how: int) -> None:
        """Ignored: the connection belongs to our server."""

    def getsockname(self) -> tuple[str, int]:
        """The address of the server."""
        host, port = self._scope.get("server") or ("", 0)
        return host, port or 0

    def getpeername(self) -> tuple[str, int]:
        """The address of the client."""
        host, port = self._scope.get("client") or ("", 0)
        return host, port

    def read_chunk(self) -> bytes:
        """The next part of the request; empty at its end. Raises `ConnectionResetError` when the client disconnects."""
        while not self._unread and self._has_more:
            message: Message = self._call(self._receive)
            if message["type"] == "http.disconnect":
                self.client_has_gone = True
                raise ConnectionResetError("the client has disconnected")
            self._unread = message.get("body", b"")
            self._has_more = message.get("more_body", False)
        chunk, self._unread = self._unread, b""
        return chunk

    def unread(self, rest: bytes) -> None:
        """Return bytes to the front of the request, because the caller's buffer was full."""
        self._unread = rest

    def _call(self, work: Callable[[], Awaitable[Result]]) -> Result:
        """Run `work` on the event loop, and wait for its result."""
        if self._is_closed:
            raise BrokenPipeError("the request has ended")
        self._pending = pending = asyncio.run_coroutine_threadsafe(_awaited(work), self._loop)
        if self._is_closed:  # meanwhile
            pending.cancel()
        try:
            return pending.result()
        except CancelledError:
            raise ConnectionResetError("the request has ended") from None
        except OSError as error:
            self.client_has_gone = True
            raise BrokenPipeError("the client has disconnected") from error

    # On the event loop.

    async def end(self) -> None:
        """Complete the response after the handler has returned."""
        for message in self._response.end():
            await self._send(message)

    def close(self) -> None:
        """Make later reads and writes of the handler raise an exception."""
        self._is_closed = True
        pending = self._pending
        if pending is not None:
            pending.cancel()


class Input(io.RawIOBase):
    """The request as a file."""

    def __init__(self, request_socket: RequestSocket) -> None:
        self._socket = request_socket

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        chunk = self._socket.read_chunk()
        size = min(len(chunk), len(buffer))
        buffer[:size] = chunk[:size]
        self._socket.unread(chunk[size:])
        return size


class Output(io.RawIOBase):
    """The response as a file."""

    def __init__(self, request_socket: RequestSocket) -> None:
        self._socket = request_socket

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        content = bytes(data)
        self._socket.sendall(content)
        return len(content)


class ResponseReader:
    """Parses the bytes of a response with httptools, as a client does, and makes ASGI messages of them.

    Interim responses (RFC 9110, section 15.2) are dropped, because our server sends `100 Continue` itself.
    """

    def __init__(self, root: str, *, is_head: bool) -> None:
        self._root = quote(root).encode("ascii")
        self._is_head = is_head
        self._parser = httptools.HttpResponseParser(self)
        self._headers: list[tuple[bytes, bytes]] = []
        self._messages: list[Message] = []
        self._has_started = False
        self._is_chunked = False
        self._is_complete = False

    def read(self, data: bytes) -> list[Message]:
        """The messages for the next bytes. Raises `ValueError` for an invalid response."""
        if not self._is_complete:  # bytes after the end of the response are dropped
            try:
                self._parser.feed_data(data)
            except httptools.HttpParserUpgrade:
                self._is_complete = True
            except httptools.HttpParserError as error:
                if not self._is_complete:
                    raise ValueError(f"the handler wrote an invalid HTTP response: {data[:100]!r}") from error
        messages, self._messages = self._messages, []
        return messages

    def end(self) -> list[Message]:
        """The last message. Raises `ValueError` if the handler wrote no response, or an incomplete one."""
        if not self._has_started:
            raise ValueError("the handler wrote no response; call send_response() and end_headers()")
        if self._is_chunked and not self._is_complete:  # our server checks a Content-Length itself
            raise ValueError("the handler did not write the last chunk (b'0\\r\\n\\r\\n') of its chunked response")
        return [{"type": "http.response.body", "body": b""}]

    # httptools' callbacks.

    def on_header(self, name: bytes, value: bytes) -> None:
        lower = name.lower()
        if lower == FRAMING:
            self._is_chunked = True
        if lower in OF_THE_CONNECTION or lower == FRAMING:
            return
        if self._root and lower == b"location" and value.startswith(b"/") and not value.startswith(b"//"):
            value = self._root + value
        self._headers.append((lower, value))

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        headers, self._headers = self._headers, []
        if status < 200:
            return
        self._has_started = True
        self._messages.append({"type": "http.response.start", "status": status, "headers": headers})
        if self._is_head or status in NO_BODY:  # these responses have no content, even if a field declares some
            self._is_complete = True

    def on_body(self, body: bytes) -> None:
        if not self._is_complete:
            self._messages.append({"type": "http.response.body", "body": body, "more_body": True})

    def on_message_complete(self) -> None:
        self._is_complete = self._has_started


def request_head(scope: Scope, root: str) -> bytes:
    """The request line and the header section, for the class to parse."""
    raw: bytes = scope.get("raw_path") or quote(scope["path"]).encode("ascii")
    prefix = quote(root).encode("ascii")
    if not raw.startswith(prefix):  # the client encoded the prefix differently
        raw = prefix + quote(scope["path"].removeprefix(root)).encode("ascii")
    target = raw.removeprefix(prefix)
    if not target.startswith(b"/"):
        target = b"/" + target
    if scope.get("query_string"):
        target += b"?" + scope["query_string"]
    version = b"1.0" if scope.get("http_version") == "1.0" else b"1.1"
    lines = [b"%b %b HTTP/%b" % (scope["method"].encode("latin-1"), target, version)]
    # The body is decoded already. Without a length, it ends at the end of the file.
    lines += [b"%b: %b" % field for field in scope["headers"] if field[0] not in OF_THE_REQUEST]
    # Otherwise the class would parse the rest of an unread body as its next request.
    lines.append(b"connection: close")
    return b"\r\n".join(lines) + b"\r\n\r\n"


def server_of(scope: Scope) -> SimpleNamespace:
    """An object with the attributes that handler classes read from their server."""
    host, port = scope.get("server") or ("", 0)
    return SimpleNamespace(server_address=(host, port or 0), server_name=host, server_port=port or 0)


def for_one_request(handler: Callable[..., BaseHTTPRequestHandler]) -> Callable[..., BaseHTTPRequestHandler]:
    """A subclass of `handler` that ends after one request, and logs to the service's log unless it overrides that."""
    if isinstance(handler, partial):
        return partial(for_one_request(handler.func), *handler.args, **handler.keywords)
    if not (isinstance(handler, type) and issubclass(handler, BaseHTTPRequestHandler)):
        return cast("Callable[..., BaseHTTPRequestHandler]", handler)

    def handle(self: BaseHTTPRequestHandler) -> None:
        """Handle one request. The rest of its body is never parsed as another request."""
        self.close_connection = True
        self.handle_one_request()

    def log_message(self: BaseHTTPRequestHandler, format: str, *args: object) -> None:  # noqa: A002 - the name in BaseHTTPRequestHandler
        log.info("http.server handler", message=format % args, handler=handler.__qualname__)

    def log_error(self: BaseHTTPRequestHandler, format: str, *args: object) -> None:  # noqa: A002 - the name in BaseHTTPRequestHandler
        log.warning("http.server handler", message=format % args, handler=handler.__qualname__)

    def log_request(self: BaseHTTPRequestHandler, code: object = "-", size: object = "-") -> None:
        """Nothing: the access line has the same facts."""

    overrides: dict[str, Any] = {}
    if handler.handle is BaseHTTPRequestHandler.handle:
        overrides["handle"] = handle
    if handler.log_message is BaseHTTPRequestHandler.log_message:
        overrides["log_message"] = log_message
        if handler.log_error is BaseHTTPRequestHandler.log_error:
            overrides["log_error"] = log_error
        if handler.log_request is BaseHTTPRequestHandler.log_request:
            overrides["log_request"] = log_request
    names = {"__module__": handler.__module__, "__qualname__": handler.__qualname__, "__doc__": handler.__doc__}
    return cast("type[BaseHTTPRequestHandler]", type(handler.__name__, (handler,), overrides | names))


async def _awaited(work: Callable[[], Awaitable[Result]]) -> Result:
    return await work()
