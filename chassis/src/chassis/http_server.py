"""Handlers of the standard library's `http.server` as routes: their classes run as they are, in a thread."""

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

# Fields about the connection, which belongs to our server (RFC 9110, section 7.6.1), and about framing.
OF_THE_CONNECTION = frozenset({b"connection", b"keep-alive", b"proxy-connection", b"te", b"trailer", b"upgrade"})
FRAMING = b"transfer-encoding"
OF_THE_REQUEST = frozenset({FRAMING, b"connection", b"keep-alive", b"proxy-connection"})
NO_BODY = frozenset({204, 304})


class HttpServerRoute(Mount):
    """Runs a `BaseHTTPRequestHandler` class, unchanged, for `path` and everything below it.

        app.add_routes(HttpServerRoute("/legacy", TheirHandler))
        app.add_routes(HttpServerRoute("/files", partial(SimpleHTTPRequestHandler, directory="/srv/files")))

    Each request gets an instance of its own, in one of the threads of `def` handlers (`APP_THREADS`). Limits, access
    lines, metrics, traces, deadlines and the graceful shutdown are those of every route.

    `rfile` has the body as it arrives, and `wfile` sends what is written, both without keeping it in memory. When the
    client leaves, the deadline passes or the service stops, they raise `ConnectionResetError` or `BrokenPipeError`. The
    connection belongs to our server: one instance handles one request, whatever its `protocol_version`. A class with a
    `handle` of its own must not send `Connection: keep-alive` by itself. `CGIHTTPRequestHandler` does not work: it
    hands its socket to a process.

    `self.path` is the path below the route, as if the class had a server of its own, and a `Location` that begins with
    `/` gets the route's path in front. With `full_path` it is the whole path, and `Location` is left alone.
    `self.server` is `server`, or an object with `server_address`, `server_name` and `server_port`. Where the class has
    no logging of its own, its errors go to the log, and the access line takes the place of its line for each request.
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
        exchange = Exchange(scope, receive, send, root)
        client = tuple(scope.get("client") or ("", 0))
        server = self._server or server_of(scope)
        try:
            await threads_of(scope).run(partial(self._handler, exchange, client, server))
            await exchange.end()
        except OSError as error:
            if exchange.client_has_gone:
                raise ClientDisconnect from error
            raise
        finally:
            exchange.close()


class Exchange:
    """One request and its response, as the socket that a class of `http.server` expects.

    Its methods are called in the thread of the handler, unless they say otherwise.
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
        self._waits: Future[Any] | None = None

    # What `socketserver.StreamRequestHandler` uses of a socket.

    def makefile(self, mode: str = "r", buffering: int = -1, **_: object) -> BinaryIO:
        """A file to read the request from, or to write the response to."""
        if "w" in mode:
            raw: io.RawIOBase = Output(self)
            return cast("BinaryIO", io.BufferedWriter(raw, buffering if buffering > 0 else io.DEFAULT_BUFFER_SIZE))
        return cast("BinaryIO", io.BufferedReader(Input(self), buffering if buffering > 0 else io.DEFAULT_BUFFER_SIZE))

    def sendall(self, data: bytes | memoryview) -> None:
        """Send a part of the response; returns when the transport has taken it."""
        for message in self._response.read(bytes(data)):
            self._call(partial(self._send, message))

    def settimeout(self, seconds: float | None) -> None:
        """The limits of our server count, not those of the class."""

    def setsockopt(self, *_: object) -> None:
        """The socket belongs to our server."""

    def shutdown(self, how: int) -> None:
        """The connection belongs to our server."""

    def getsockname(self) -> tuple[str, int]:
        """The address of the server."""
        host, port = self._scope.get("server") or ("", 0)
        return host, port or 0

    def getpeername(self) -> tuple[str, int]:
        """The address of the client."""
        host, port = self._scope.get("client") or ("", 0)
        return host, port

    def read_piece(self) -> bytes:
        """The next part of the request; empty at its end."""
        while not self._unread and self._has_more:
            message: Message = self._call(self._receive)
            if message["type"] == "http.disconnect":
                self.client_has_gone = True
                raise ConnectionResetError("the client has disconnected")
            self._unread = message.get("body", b"")
            self._has_more = message.get("more_body", False)
        piece, self._unread = self._unread, b""
        return piece

    def give_back(self, rest: bytes) -> None:
        """What was more than asked for."""
        self._unread = rest

    def _call(self, work: Callable[[], Awaitable[Result]]) -> Result:
        """Let the event loop do `work`, and wait for it."""
        if self._is_closed:
            raise BrokenPipeError("the request has ended")
        self._waits = waits = asyncio.run_coroutine_threadsafe(_done(work), self._loop)
        if self._is_closed:  # since then
            waits.cancel()
        try:
            return waits.result()
        except CancelledError:
            raise ConnectionResetError("the request has ended") from None
        except OSError as error:
            self.client_has_gone = True
            raise BrokenPipeError("the client has disconnected") from error

    # On the event loop.

    async def end(self) -> None:
        """Complete the response, when the handler has returned."""
        for message in self._response.end():
            await self._send(message)

    def close(self) -> None:
        """From now on, a handler that still reads or writes gets an exception."""
        self._is_closed = True
        waits = self._waits
        if waits is not None:
            waits.cancel()


class Input(io.RawIOBase):
    """The request as a file."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        piece = self._exchange.read_piece()
        size = min(len(piece), len(buffer))
        buffer[:size] = piece[:size]
        self._exchange.give_back(piece[size:])
        return size


class Output(io.RawIOBase):
    """The response as a file."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        content = bytes(data)
        self._exchange.sendall(content)
        return len(content)


class ResponseReader:
    """Turns the bytes of a response into ASGI messages: httptools reads them as a client does.

    Interim responses (RFC 9110, section 15.2) are left out: our server sends `100 Continue` itself.
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
        """The messages for the next bytes. Raises `ValueError` for what is no response."""
        if not self._is_complete:  # what follows has no place on the connection of one request
            try:
                self._parser.feed_data(data)
            except httptools.HttpParserUpgrade:
                self._is_complete = True
            except httptools.HttpParserError as error:
                if not self._is_complete:
                    raise ValueError(f"The handler has written what is no HTTP response: {data[:100]!r}") from error
        messages, self._messages = self._messages, []
        return messages

    def end(self) -> list[Message]:
        """The last message. Raises `ValueError` for a handler that has written no response, or a part of one."""
        if not self._has_started:
            raise ValueError("The handler has written no response.")
        if self._is_chunked and not self._is_complete:  # a length that is not met is an error of our server
            raise ValueError("The handler has not written the last chunk of its response.")
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
        if self._is_head or status in NO_BODY:  # content is not sent, whatever the fields say
            self._is_complete = True

    def on_body(self, body: bytes) -> None:
        if not self._is_complete:
            self._messages.append({"type": "http.response.body", "body": body, "more_body": True})

    def on_message_complete(self) -> None:
        self._is_complete = self._has_started


def request_head(scope: Scope, root: str) -> bytes:
    """The request line and the header section, as the class reads them."""
    raw: bytes = scope.get("raw_path") or quote(scope["path"]).encode("ascii")
    prefix = quote(root).encode("ascii")
    if not raw.startswith(prefix):  # the client has encoded the prefix in another way
        raw = prefix + quote(scope["path"].removeprefix(root)).encode("ascii")
    target = raw.removeprefix(prefix)
    if not target.startswith(b"/"):
        target = b"/" + target
    if scope.get("query_string"):
        target += b"?" + scope["query_string"]
    version = b"1.0" if scope.get("http_version") == "1.0" else b"1.1"
    lines = [b"%b %b HTTP/%b" % (scope["method"].encode("latin-1"), target, version)]
    # The body comes decoded, and without a length it ends with the file.
    lines += [b"%b: %b" % field for field in scope["headers"] if field[0] not in OF_THE_REQUEST]
    # Or the class would read the rest of a body that it has left unread as its next request.
    lines.append(b"connection: close")
    return b"\r\n".join(lines) + b"\r\n\r\n"


def server_of(scope: Scope) -> SimpleNamespace:
    """What classes use of their server."""
    host, port = scope.get("server") or ("", 0)
    return SimpleNamespace(server_address=(host, port or 0), server_name=host, server_port=port or 0)


def for_one_request(handler: Callable[..., BaseHTTPRequestHandler]) -> Callable[..., BaseHTTPRequestHandler]:
    """`handler`, which ends after one request, and writes to the service's log where it has no logging of its own."""
    if isinstance(handler, partial):
        return partial(for_one_request(handler.func), *handler.args, **handler.keywords)
    if not (isinstance(handler, type) and issubclass(handler, BaseHTTPRequestHandler)):
        return cast("Callable[..., BaseHTTPRequestHandler]", handler)

    def handle(self: BaseHTTPRequestHandler) -> None:
        """One request: what is left of its body is not another one, whatever `close_connection` says."""
        self.close_connection = True
        self.handle_one_request()

    def log_message(self: BaseHTTPRequestHandler, format: str, *args: object) -> None:  # noqa: A002 - as there
        log.info("http.server handler", message=format % args, handler=handler.__qualname__)

    def log_error(self: BaseHTTPRequestHandler, format: str, *args: object) -> None:  # noqa: A002 - as there
        log.warning("http.server handler", message=format % args, handler=handler.__qualname__)

    def log_request(self: BaseHTTPRequestHandler, code: object = "-", size: object = "-") -> None:
        """The access line says it."""

    ours: dict[str, Any] = {}
    if handler.handle is BaseHTTPRequestHandler.handle:
        ours["handle"] = handle
    if handler.log_message is BaseHTTPRequestHandler.log_message:
        ours["log_message"] = log_message
        if handler.log_error is BaseHTTPRequestHandler.log_error:
            ours["log_error"] = log_error
        if handler.log_request is BaseHTTPRequestHandler.log_request:
            ours["log_request"] = log_request
    names = {"__module__": handler.__module__, "__qualname__": handler.__qualname__, "__doc__": handler.__doc__}
    return cast("type[BaseHTTPRequestHandler]", type(handler.__name__, (handler,), ours | names))


async def _done(work: Callable[[], Awaitable[Result]]) -> Result:
    return await work()
