"""A plugin for Starlette's own tests: their test client speaks over TCP to a server of ours, or to uvicorn."""

import asyncio
import os
import socket
import threading
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from http.client import HTTPException, HTTPResponse
from typing import Any, Self

import anyio
import httpx2
import pytest
import starlette.testclient
from anyio.from_thread import BlockingPortal, start_blocking_portal
from starlette.testclient import TestClient, WebSocketDenialResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocketDisconnect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from peer_servers import serving

SERVER = os.environ["PEER_SERVER"]
SECONDS = 3.0
PORTS = {"http": 80, "ws": 80, "https": 443, "wss": 443}


class Call:
    """One call of a test's application by the server."""

    def __init__(self, client: "WireClient", url: httpx2.URL) -> None:
        self.client = client
        self.url = url
        self.error: BaseException | None = None
        self.debug: dict[str, Any] | None = None
        self.closed_with: Message | None = None
        self.began = False
        self.ended = threading.Event()

    async def run(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Call the application with the facts of Starlette's test client in its scope."""
        client = self.client
        self.began = True
        for name in ("app", "app_root_path", "router", "route", "endpoint"):  # of the app that it is mounted in
            scope.pop(name, None)
        scope |= {
            "scheme": self.url.scheme,
            "server": [self.url.raw_host.decode("ascii"), self.url.port or PORTS[self.url.scheme]],
            "client": client.address,
            "root_path": client.root_path,
            "state": scope["state"] | client.app_state,
        }
        if scope["type"] == "http":
            scope["extensions"] = scope.get("extensions", {}) | {"http.response.debug": {}}

        async def noted_send(message: Message) -> None:
            if message["type"] == "http.response.debug":
                self.debug = message["info"]
                return
            if message["type"] == "websocket.close":
                self.closed_with = message
            await send(message)

        try:
            await client.app(scope, receive, noted_send)
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            self.error = error
            raise
        finally:
            self.ended.set()

    def end(self) -> None:
        """Wait for the application's end, and raise what it raised."""
        assert not self.began or self.ended.wait(SECONDS), "the application goes on"
        if self.error is not None and self.client.raise_server_exceptions:
            raise self.error


class Wire:
    """The server, in a thread of its own, for all tests."""

    def __init__(self) -> None:
        self.call: Call | None = None
        self.port = 0

    async def app(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass each request on to the application of the test that sent it."""
        if scope["type"] == "lifespan":
            return
        call, self.call = self.call, None
        assert call is not None, "a request that no test has sent"
        await call.run(scope, receive, send)

    @contextmanager
    def started(self) -> Iterator[None]:
        with start_blocking_portal("asyncio", {"use_uvloop": True}) as self.portal:
            with self.portal.wrap_async_context_manager(serving(SERVER, self.app)) as self.port:
                yield


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
            if self._call.began:
                self._call.ended.wait(SECONDS)  # this client leaves only then
        except (HTTPException, OSError):
            self._call.end()  # which usually says why
            raise

    def close(self) -> None:
        self._response.close()
        self._connection.close()
        self._call.end()


class WireTransport(httpx2.BaseTransport):
    """Sends requests to the server's port, whatever host their URL names."""

    def __init__(self, client: "WireClient") -> None:
        self._client = client

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send a request as it is, also what a careful client would not send."""
        WIRE.call = call = Call(self._client, request.url)
        if call.url.scheme in {"ws", "wss"}:
            raise starlette.testclient._Upgrade(WireSession(call, request))  # type: ignore[arg-type]
        lines = [b"%b %b HTTP/1.1" % (request.method.encode(), request.url.raw_path)]
        lines += [b"%b: %b" % field for field in request.headers.raw]
        chunked = "transfer-encoding" in request.headers
        connection = socket.create_connection(("127.0.0.1", WIRE.port), timeout=SECONDS)
        connection.sendall(b"\r\n".join((*lines, b"", b"")))
        try:
            for piece in request.stream:  # type: ignore[union-attr]
                if piece:
                    connection.sendall(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
            if chunked:
                connection.sendall(b"0\r\n\r\n")
        except (BrokenPipeError, ConnectionResetError):
            pass  # a response may come before the whole request was sent
        response = HTTPResponse(connection, method=request.method)
        try:
            response.begin()
        except (HTTPException, OSError):
            connection.close()
            call.end()
            raise
        stream = Stream(response, call, connection)
        if response.status == 500 and call.ended.wait(0.2) and call.error is not None and call.client.raise_server_exceptions:
            stream.close()
        answer = httpx2.Response(response.status, headers=response.getheaders(), stream=stream, request=request)
        if call.debug is not None:
            answer.extensions["http.response.debug"] = call.debug
            for name in ("template", "context"):
                if name in call.debug:
                    setattr(answer, name, call.debug[name])
        return answer


class WireSession:
    """Starlette's session of a WebSocket, by a client of `websockets`."""

    def __init__(self, call: Call, request: httpx2.Request) -> None:
        self._call = call
        self._request = request
        self.accepted_subprotocol: str | None = None
        self.extra_headers: list[tuple[bytes, bytes]] | None = None

    def __enter__(self) -> Self:
        self._stack = ExitStack()
        request = self._request
        own = {"host", "connection", "upgrade", "sec-websocket-key", "sec-websocket-version", "sec-websocket-protocol", "sec-websocket-extensions", "user-agent"}
        protocols = request.headers.get("sec-websocket-protocol")
        target = request.url.raw_path.decode()
        try:
            self._socket: ClientConnection = self._stack.enter_context(connect(
                f"ws://{request.url.netloc.decode()}{target}",
                sock=socket.create_connection(("127.0.0.1", WIRE.port), timeout=SECONDS),
                subprotocols=None if protocols is None else [one.strip() for one in protocols.split(",")],  # type: ignore[misc]
                additional_headers=[(n, v) for n, v in request.headers.multi_items() if n not in own],
                user_agent_header=request.headers.get("user-agent"),
                compression=None,
                proxy=None,
                open_timeout=SECONDS,
            ))
        except InvalidStatus as error:
            self._call.end()
            if self._call.closed_with is not None:
                assert error.response.status_code == 403
                raise WebSocketDisconnect(
                    self._call.closed_with.get("code", 1000), self._call.closed_with.get("reason")
                ) from None
            response = error.response
            headers = [(n, v) for n, v in response.headers.raw_items()]
            raise WebSocketDenialResponse(
                status_code=response.status_code, headers=headers, content=bytes(response.body or b"")
            ) from None
        except Exception:
            self._call.end()
            raise
        self.accepted_subprotocol = self._socket.subprotocol
        assert self._socket.response is not None
        self.extra_headers = [(n.lower().encode(), v.encode()) for n, v in self._socket.response.headers.raw_items() if n.lower() not in {"upgrade", "connection", "sec-websocket-accept", "date", "server"}]
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()
        self._call.end()

    def receive(self) -> Message:
        try:
            data = self._socket.recv(timeout=SECONDS)
        except ConnectionClosed as closed:
            if self._call.ended.wait(0.5) and self._call.error is not None:
                self._call.end()
            frame = closed.rcvd
            return {"type": "websocket.close", "code": frame.code if frame else 1006, "reason": frame.reason if frame else ""}
        return {"type": "websocket.send", "text" if isinstance(data, str) else "bytes": data}

    def send(self, message: Message) -> None:
        if message["type"] == "websocket.disconnect":
            self._socket.close(message.get("code", 1000), message.get("reason") or "")
            return
        data = message.get("text")
        self._socket.send(message["bytes"] if data is None else data)

    def close(self, code: int = 1000, reason: str | None = None) -> None:
        self.send({"type": "websocket.disconnect", "code": code, "reason": reason})

    _raise_on_close = starlette.testclient.WebSocketTestSession._raise_on_close
    send_text = starlette.testclient.WebSocketTestSession.send_text
    send_bytes = starlette.testclient.WebSocketTestSession.send_bytes
    send_json = starlette.testclient.WebSocketTestSession.send_json
    receive_text = starlette.testclient.WebSocketTestSession.receive_text
    receive_bytes = starlette.testclient.WebSocketTestSession.receive_bytes
    receive_json = starlette.testclient.WebSocketTestSession.receive_json


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


@pytest.fixture(scope="session", autouse=True)
def wire() -> Iterator[None]:
    with WIRE.started():
        yield


# Lifespans run in the loop of the server, as the requests do.
@contextmanager
def shared_portal(**_: object) -> Iterator[BlockingPortal]:
    yield WIRE.portal


# Before the tests' conftest.py is imported.
anyio.from_thread.start_blocking_portal = shared_portal  # type: ignore[assignment]
starlette.testclient.TestClient = WireClient  # type: ignore[misc]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Select the tests that make a client, on asyncio."""
    chosen, others = [], []
    for item in items:
        names = getattr(item, "fixturenames", ())
        params = getattr(getattr(item, "callspec", None), "params", {})
        is_chosen = "test_client_factory" in names and "trio" not in str(params.get("anyio_backend"))
        (chosen if is_chosen else others).append(item)
    config.hook.pytest_deselected(items=others)
    items[:] = chosen
