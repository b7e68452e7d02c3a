"""A plugin for Starlette's own tests: their test client speaks over TCP to the server in `PEER_SERVER`.

Each test puts its application behind a client. Here one server, in a thread of its own, serves all of them: it passes
a request on to the application of the client that sent it. An exception that the application raises is raised in the
client again, as Starlette's test client does.
"""

import asyncio
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from http.client import HTTPException, HTTPResponse
from typing import Any, Self

import anyio
import httpx2
import pytest
import starlette.testclient
from anyio.from_thread import BlockingPortal, start_blocking_portal
from starlette.testclient import TestClient, WebSocketDenialResponse, WebSocketTestSession
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocketDisconnect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from peer_servers import serving

SERVER = os.environ["PEER_SERVER"]
SECONDS = 5.0
FAILURE_SECONDS = 0.2  # after a 500 or a close, for the application to end, which says why
PORTS = {"http": 80, "ws": 80, "https": 443, "wss": 443}
OF_THE_APP_AROUND = ("app", "app_root_path", "router", "route", "endpoint")  # that the tests' application is mounted in
OF_THE_HANDSHAKE = {
    *("connection", "host", "upgrade", "user-agent"),
    *("sec-websocket-extensions", "sec-websocket-key", "sec-websocket-protocol", "sec-websocket-version"),
}
OF_THE_ANSWER = {"connection", "date", "sec-websocket-accept", "sec-websocket-protocol", "server", "upgrade"}


class Call:
    """One call of a test's application by the server."""

    def __init__(self, client: "WireClient", url: httpx2.URL) -> None:
        self.client = client
        self.url = url
        self.error: BaseException | None = None
        self.debug: dict[str, Any] = {}
        self.closed_with: Message | None = None
        self.began = False
        self.ended = threading.Event()

    async def run(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Call the application, with what Starlette's test client would have put into its scope."""
        self.began = True
        client, url = self.client, self.url
        for name in OF_THE_APP_AROUND:
            scope.pop(name, None)
        scope |= {
            "scheme": url.scheme,
            "client": client.address,
            "server": [url.raw_host.decode("ascii"), url.port or PORTS[url.scheme]],
            "root_path": client.root_path,
            "state": scope["state"] | client.app_state,
        }
        if scope["type"] == "http":
            scope["extensions"] = scope.get("extensions", {}) | {"http.response.debug": {}}

        async def note_and_send(message: Message) -> None:
            if message["type"] == "http.response.debug":
                self.debug = message["info"]
                return
            if message["type"] == "websocket.close":
                self.closed_with = message
            await send(message)

        try:
            await client.app(scope, receive, note_and_send)
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            self.error = error
            raise
        finally:
            self.ended.set()

    def wait(self) -> None:
        """Wait for the application's end."""
        assert not self.began or self.ended.wait(SECONDS), "the application goes on"

    def end(self) -> None:
        """Wait for the application's end, and raise what it raised."""
        self.wait()
        if self.error is not None and self.client.raise_server_exceptions:
            raise self.error

    def end_if_failed(self) -> None:
        """Raise what the application raised, if it ends soon."""
        if self.ended.wait(FAILURE_SECONDS):
            self.end()


class Wire:
    """The server, for all tests."""

    portal: BlockingPortal

    def __init__(self) -> None:
        self.call: Call | None = None
        self.port = 0

    async def app(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass each request on to the application of the test that sent it."""
        call, self.call = self.call, None
        assert call is not None, "a request that no test has sent"
        await call.run(scope, receive, send)

    @contextmanager
    def started(self) -> Iterator[None]:
        """Run the server in a thread of its own."""
        with (
            start_blocking_portal("asyncio", {"use_uvloop": True}) as self.portal,
            self.portal.wrap_async_context_manager(serving(SERVER, self.app)) as self.port,
        ):
            yield

    def connect(self) -> socket.socket:
        """Open a connection."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=SECONDS)


WIRE = Wire()


class Stream(httpx2.SyncByteStream):
    """The content of a response; closing it waits for the application."""

    def __init__(self, response: HTTPResponse, call: Call, connection: socket.socket) -> None:
        self._response = response
        self._call = call
        self._connection = connection

    def __iter__(self) -> Iterator[bytes]:
        try:
            while piece := self._response.read1(65_536):
                yield piece
            self._call.wait()  # so that it does not see a client that leaves, as it does not in Starlette's client
        except (HTTPException, OSError):
            self._call.end()  # which usually says why
            raise

    def close(self) -> None:
        """Leave."""
        self._response.close()
        self._connection.close()
        self._call.end()


class WireTransport(httpx2.BaseTransport):
    """Sends requests to the server's port, whatever host their URL names, as they are: also invalid ones."""

    def __init__(self, client: "WireClient") -> None:
        self._client = client

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send a request, and return the response with its content still to be read."""
        WIRE.call = call = Call(self._client, request.url)
        if request.url.scheme in {"ws", "wss"}:
            raise starlette.testclient._Upgrade(WireSession(call, request))
        connection = WIRE.connect()
        _send(request, connection)
        response = HTTPResponse(connection, method=request.method)
        stream = Stream(response, call, connection)
        try:
            response.begin()
            if response.status == 500:
                call.end_if_failed()
        except BaseException:
            stream.close()
            raise
        received = httpx2.Response(response.status, headers=response.getheaders(), stream=stream, request=request)
        if call.debug:
            received.extensions["http.response.debug"] = call.debug
            for name in {"template", "context"} & call.debug.keys():
                setattr(received, name, call.debug[name])
        return received


def _send(request: httpx2.Request, connection: socket.socket) -> None:
    lines = [b"%b %b HTTP/1.1" % (request.method.encode(), request.url.raw_path)]
    lines += [b"%b: %b" % field for field in request.headers.raw]
    chunked = "transfer-encoding" in request.headers
    assert isinstance(request.stream, httpx2.SyncByteStream)
    with suppress(BrokenPipeError, ConnectionResetError):  # a response may come before the whole request was sent
        connection.sendall(b"\r\n".join((*lines, b"", b"")))
        for piece in request.stream:
            if piece:
                connection.sendall(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
        if chunked:
            connection.sendall(b"0\r\n\r\n")


class WireSession(WebSocketTestSession):
    """Starlette's session of a WebSocket, by the client of `websockets`."""

    def __init__(self, call: Call, request: httpx2.Request) -> None:
        self._call = call
        self._request = request
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        """Open the WebSocket; raise as Starlette's session does when the server rejects it."""
        try:
            self._socket = self._connect()
        except InvalidStatus as error:
            self._call.end()
            response, closed_with = error.response, self._call.closed_with
            if closed_with is None or response.status_code != 403:
                raise WebSocketDenialResponse(
                    status_code=response.status_code,
                    headers=list(response.headers.raw_items()),
                    content=bytes(response.body or b""),
                ) from None
            raise WebSocketDisconnect(closed_with.get("code", 1000), closed_with.get("reason")) from None
        except Exception:
            self._call.end()
            raise
        response = self._socket.response
        assert response is not None
        self.accepted_subprotocol = self._socket.subprotocol  # type: ignore[assignment]
        self.extra_headers = [  # type: ignore[assignment]
            (name.encode(), value.encode())
            for name, value in response.headers.raw_items()
            if name.lower() not in OF_THE_ANSWER
        ]
        return self

    def _connect(self) -> ClientConnection:
        request = self._request
        subprotocols: Any = request.headers.get("sec-websocket-protocol")
        socket = connect(
            f"ws://{request.url.netloc.decode()}{request.url.raw_path.decode()}",
            sock=WIRE.connect(),
            subprotocols=subprotocols and [token.strip() for token in subprotocols.split(",")],
            additional_headers=[
                field for field in request.headers.multi_items() if field[0].lower() not in OF_THE_HANDSHAKE
            ],
            user_agent_header=request.headers.get("user-agent"),
            compression=None,
            proxy=None,
            open_timeout=SECONDS,
        )
        return self._stack.enter_context(socket)

    def __exit__(self, *_: object) -> None:
        """Close with 1000."""
        self._stack.close()
        self._call.end()

    def receive(self) -> Message:
        """Return the next message, as the application would have sent it."""
        try:
            data = self._socket.recv(timeout=SECONDS)
        except ConnectionClosed as closed:
            self._call.end_if_failed()
            code, reason = (closed.rcvd.code, closed.rcvd.reason) if closed.rcvd else (1006, "")
            return {"type": "websocket.close", "code": code, "reason": reason}
        return {"type": "websocket.send", "text" if isinstance(data, str) else "bytes": data}

    def send(self, message: Message) -> None:
        """Send what the application would have received."""
        if message["type"] == "websocket.disconnect":
            self._socket.close(message.get("code", 1000), message.get("reason") or "")
        else:
            text = message.get("text")
            self._socket.send(message["bytes"] if text is None else text)


class WireClient(TestClient):
    """Starlette's test client, whose requests go through the server."""

    def __init__(
        self,
        app: ASGIApp,
        base_url: str = "http://testserver",
        raise_server_exceptions: bool = True,
        root_path: str = "",
        *args: Any,
        client: tuple[str, int] = ("testclient", 50000),
        **kwargs: Any,
    ) -> None:
        super().__init__(app, base_url, raise_server_exceptions, root_path, *args, client=client, **kwargs)
        self.raise_server_exceptions = raise_server_exceptions
        self.root_path = root_path
        self.address = client
        self._transport = WireTransport(self)


@contextmanager
def shared_portal(**_: object) -> Iterator[BlockingPortal]:
    """Lifespans run in the event loop of the server, as the requests do."""
    yield WIRE.portal


# Before the tests' conftest.py is imported.
anyio.from_thread.start_blocking_portal = shared_portal
starlette.testclient.TestClient = WireClient  # type: ignore[misc]


@pytest.fixture(scope="session", autouse=True)
def wire() -> Iterator[None]:
    """The server, for all tests."""
    with WIRE.started():
        yield


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Select the tests that make a client, on asyncio."""
    others = [item for item in items if not _makes_a_client(item)]
    config.hook.pytest_deselected(items=others)
    items[:] = [item for item in items if _makes_a_client(item)]


def _makes_a_client(item: pytest.Item) -> bool:
    parameters = item.callspec.params if isinstance(item, pytest.Function) and hasattr(item, "callspec") else {}
    return "test_client_factory" in getattr(item, "fixturenames", ()) and "trio" not in str(
        parameters.get("anyio_backend")
    )
