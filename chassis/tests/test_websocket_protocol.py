"""WebSockets on the wire: handshake, messages, keepalive, limits and the closing handshake (RFC 6455)."""

import asyncio
import struct
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from chassis.http.listener import Listener

from .support.listener import limits_of, listening
from .support.service import exchange, observed, serve, until

Work = Callable[[Receive, Send], Awaitable[None]]
HANDSHAKE = (
    b"GET /chat HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n"
    b"sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-version: 13\r\n%b\r\n"
)
TEXT, BINARY, CONTINUATION, CLOSE, PING, PONG = 1, 2, 0, 8, 9, 10


def accepting(work: Work | None = None, **accept: Any) -> ASGIApp:
    """An application that accepts, and then does `work`."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert (await receive())["type"] == "websocket.connect"
        await send({"type": "websocket.accept", **accept})
        if work is not None:
            await work(receive, send)

    return app


async def echo(receive: Receive, send: Send) -> None:
    """Send back every message."""
    while (message := await receive())["type"] != "websocket.disconnect":
        await send({**message, "type": "websocket.send"})


def dial(listener: Listener, **options: Any) -> connect:
    options = {"proxy": None, "max_size": None, "ping_interval": None} | options
    return connect(f"ws://127.0.0.1:{listener.port}/chat", **options)


def frame(opcode: int, data: bytes, *, fin: bool = True) -> bytes:
    """A frame of a client, masked with zeros."""
    return struct.pack("!BBHI", opcode | fin << 7, 0x80 | 126, len(data), 0) + data


class Raw:
    """A client that sends any bytes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def open(cls, listener: Listener) -> "Raw":
        """A client whose handshake is complete."""
        raw = cls(*await asyncio.open_connection("127.0.0.1", listener.port))
        raw.writer.write(HANDSHAKE % b"")
        response = await raw.reader.readuntil(b"\r\n\r\n")
        assert response.startswith(b"HTTP/1.1 101 ")
        return raw

    async def frame(self) -> tuple[int, bytes]:
        """Opcode and data of the next frame."""
        first, size = await self.reader.readexactly(2)
        if size == 126:
            (size,) = struct.unpack("!H", await self.reader.readexactly(2))
        return first & 15, await self.reader.readexactly(size)

    async def close_code(self) -> int:
        """The code of the next frame, which closes."""
        opcode, data = await self.frame()
        assert opcode == CLOSE
        (code,) = struct.unpack("!H", data[:2])
        assert isinstance(code, int)
        return code


async def close_code(connection: ClientConnection) -> tuple[int, str]:
    """How the server closes."""
    with pytest.raises(ConnectionClosed) as caught:
        await connection.recv()
    assert caught.value.rcvd is not None
    return caught.value.rcvd.code, caught.value.rcvd.reason


async def test_scope_of_a_websocket() -> None:
    scopes: list[Scope] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        scopes.append(scope)
        await accepting()(scope, receive, send)

    async with listening(app, accepts_websockets=True) as listener, dial(listener, subprotocols=["one", "two"]):
        pass
    (scope,) = scopes
    assert (scope["type"], scope["scheme"], scope["path"]) == ("websocket", "ws", "/chat")
    assert scope["subprotocols"] == ["one", "two"]
    assert scope["extensions"] == {"websocket.http.response": {}}
    assert "method" not in scope


async def test_application_chooses_a_subprotocol_and_adds_headers() -> None:
    app = accepting(echo, subprotocol="two", headers=[[b"X-Name", b"value"], (b"set-cookie", b"a=1")])
    async with (
        listening(app, accepts_websockets=True) as listener,
        dial(listener, subprotocols=["one", "two"]) as connection,
    ):
        assert connection.subprotocol == "two"
        assert connection.response is not None
        assert connection.response.headers["x-name"] == "value"
        assert connection.response.headers["set-cookie"] == "a=1"


@pytest.mark.parametrize("compression", ["deflate", None])
@pytest.mark.parametrize("message", ["", "héllo", b"", b"\x00\xff", "x" * 1_000_000, b"x" * 70_000])
async def test_messages_are_echoed(message: str | bytes, compression: str | None) -> None:
    async with (
        listening(accepting(echo), accepts_websockets=True) as listener,
        dial(listener, compression=compression) as connection,
    ):
        for _ in range(3):
            await connection.send(message)
            assert await connection.recv() == message


async def test_compression_is_negotiated() -> None:
    async with listening(accepting(echo), accepts_websockets=True) as listener, dial(listener) as connection:
        assert connection.response is not None
        assert "permessage-deflate" in connection.response.headers["sec-websocket-extensions"]


async def test_fragments_are_one_message() -> None:
    async with listening(accepting(echo), accepts_websockets=True) as listener, dial(listener) as connection:
        await connection.send(["a", "", "b", "c"])
        assert await connection.recv() == "abc"


async def test_ping_gets_a_pong_between_fragments() -> None:
    async with listening(accepting(echo), accepts_websockets=True) as listener:
        client = await Raw.open(listener)
        client.writer.write(frame(TEXT, b"a", fin=False) + frame(PING, b"1") + frame(CONTINUATION, b"b"))
        assert await client.frame() == (PONG, b"1")
        assert await client.frame() == (TEXT, b"ab")
        client.writer.close()


async def test_messages_with_the_handshake_are_read_after_it() -> None:
    async with listening(accepting(echo), accepts_websockets=True) as listener:
        client = Raw(*await asyncio.open_connection("127.0.0.1", listener.port))
        client.writer.write(HANDSHAKE % b"" + frame(TEXT, b"early"))
        await client.reader.readuntil(b"\r\n\r\n")
        assert await client.frame() == (TEXT, b"early")
        client.writer.close()


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (frame(TEXT, b"\xff"), 1007),
        (frame(CONTINUATION, b"a"), 1002),
        (frame(3, b"a"), 1002),
        (b"\x81\x01a", 1002),  # not masked
        (struct.pack("!BBQI", 0x82, 0x80 | 127, 1 << 40, 0), 1009),
    ],
)
async def test_client_that_breaks_the_protocol_gets_the_close_code(sent: bytes, code: int) -> None:
    received: list[Message] = []

    async def work(receive: Receive, send: Send) -> None:
        received.append(await receive())

    async with listening(accepting(work), accepts_websockets=True) as listener:
        client = await Raw.open(listener)
        client.writer.write(sent)
        assert await client.close_code() == code
        assert await client.reader.read() == b""
        client.writer.close()
        await until(lambda: received)
    assert (received[0]["type"], received[0]["code"]) == ("websocket.disconnect", code)


async def test_message_over_the_limit_is_1009_although_the_client_still_sends() -> None:
    async with (
        listening(accepting(echo), accepts_websockets=True) as listener,
        dial(listener, compression=None) as connection,
    ):
        sending = asyncio.create_task(connection.send(b"x" * 17_000_000))
        assert (await close_code(connection))[0] == 1009
        await asyncio.wait([sending])
        sending.exception()


@pytest.mark.parametrize(
    ("field", "value"),
    [(b"sec-websocket-version: 13", b"sec-websocket-version: 7"), (b"key: dGhlIHNhbXBsZSBub25jZQ==", b"key: short")],
)
async def test_invalid_handshake_is_a_problem_with_an_access_line(field: bytes, value: bytes) -> None:
    from starlette.routing import WebSocketRoute

    async with serve(WebSocketRoute("/chat", accepting())) as service:
        response = await exchange(service.server.port, (HANDSHAKE % b"").replace(field, value))
        line = await service.access_line()
    assert response.startswith(b"HTTP/1.1 400 ")
    assert b"application/problem+json" in response
    assert b"sec-websocket-version: 13" in response
    assert (line["method"], line["path"], line["status"]) == ("GET", "/chat", 400)


async def test_handshake_may_have_large_headers() -> None:
    limits = limits_of(max_head_bytes=64_000)
    async with (
        listening(accepting(echo), accepts_websockets=True, limits=limits) as listener,
        dial(listener, additional_headers={"cookie": "x" * 20_000}) as connection,
    ):
        await connection.send("hello")
        assert await connection.recv() == "hello"


async def test_application_may_respond_with_http_instead() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"X-Why", b"because"), (b"content-type", b"text/plain")]
        await send({"type": "websocket.http.response.start", "status": 401, "headers": headers})
        await send({"type": "websocket.http.response.body", "body": b"not ", "more_body": True})
        await send({"type": "websocket.http.response.body", "body": b"you"})
        assert await receive() == {"type": "websocket.connect"}
        assert (await receive())["type"] == "websocket.disconnect"

    with observed() as seen:
        async with listening(app, accepts_websockets=True) as listener:
            with pytest.raises(InvalidStatus) as caught:
                await dial(listener)
        assert seen.lines == []
    response = caught.value.response
    assert (response.status_code, response.body, response.headers["x-why"]) == (401, b"not you", "because")


@pytest.mark.parametrize(
    ("message", "status"), [({"type": "websocket.close"}, 403), (None, 500), ({"type": "websocket.send"}, 500)]
)
async def test_handshake_that_is_not_accepted_is_a_problem(message: Message | None, status: int) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if message is not None:
            await send(message)

    with observed() as seen:
        async with listening(app, accepts_websockets=True) as listener:
            response = await exchange(listener.port, HANDSHAKE % b"")
        assert len(seen.lines) == (status == 500)
    assert response.startswith(b"HTTP/1.1 %d " % status)
    assert b"application/problem+json" in response


@pytest.mark.parametrize(
    ("code", "reason", "received"),
    [(None, None, (1000, "")), (4000, "why", (4000, "why")), (1000, "é" * 100, (1000, "é" * 61))],
)
async def test_application_closes_with_a_code_and_a_reason(
    code: int | None, reason: str | None, received: tuple[int, str]
) -> None:
    after: list[Message] = []

    async def work(receive: Receive, send: Send) -> None:
        closing = {"type": "websocket.close", "code": code, "reason": reason}
        await send({name: value for name, value in closing.items() if value is not None})
        after.append(await receive())

    async with listening(accepting(work), accepts_websockets=True) as listener:
        async with dial(listener) as connection:
            assert await close_code(connection) == received
        await until(lambda: not listener.state.connections)
    assert after[0]["type"] == "websocket.disconnect"


async def test_sending_after_the_own_close_is_an_error() -> None:
    async def work(receive: Receive, send: Send) -> None:
        await send({"type": "websocket.close"})
        with pytest.raises(RuntimeError, match="after the WebSocket was closed"):
            await send({"type": "websocket.send", "text": "too late"})

    with observed() as seen:
        async with listening(accepting(work), accepts_websockets=True) as listener, dial(listener) as connection:
            await close_code(connection)
        assert seen.lines == []


@pytest.mark.parametrize("code", [1005, 999])
async def test_invalid_code_is_an_error_and_closes_with_1011(code: int) -> None:
    async def work(receive: Receive, send: Send) -> None:
        await send({"type": "websocket.close", "code": code})

    with observed() as seen:
        async with listening(accepting(work), accepts_websockets=True) as listener, dial(listener) as connection:
            assert (await close_code(connection))[0] == 1011
        assert len(seen.lines) == 1


async def test_application_that_returns_closes_with_1000() -> None:
    async with listening(accepting(), accepts_websockets=True) as listener, dial(listener) as connection:
        assert (await close_code(connection))[0] == 1000


async def test_application_that_fails_closes_with_1011() -> None:
    async def work(receive: Receive, send: Send) -> None:
        raise ValueError("internal detail")

    with observed() as seen:
        async with listening(accepting(work), accepts_websockets=True) as listener, dial(listener) as connection:
            assert await close_code(connection) == (1011, "")
        (line,) = seen.lines
    assert "internal detail" in line["exception"]


@pytest.mark.parametrize("closes", [True, False])
async def test_sending_to_a_client_that_has_gone_raises_an_os_error(closes: bool) -> None:
    outcome: list[object] = []

    async def work(receive: Receive, send: Send) -> None:
        outcome.append(await receive())
        try:
            await send({"type": "websocket.send", "text": "too late"})
        except OSError as error:
            outcome.append(error)
            raise

    with observed() as seen:
        async with listening(accepting(work), accepts_websockets=True) as listener:
            client = await Raw.open(listener)
            if closes:
                client.writer.write(frame(CLOSE, struct.pack("!H", 4001) + b"bye"))
                assert await client.close_code() == 4001
            client.writer.close()
            await until(lambda: len(outcome) == 2)
        assert seen.lines == []
    code, reason = (4001, "bye") if closes else (1006, "")
    assert outcome[0] == {"type": "websocket.disconnect", "code": code, "reason": reason}
    assert isinstance(outcome[1], OSError)


@pytest.mark.parametrize("closes", [True, False])
async def test_closing_after_the_client_has_closed_is_no_error(closes: bool) -> None:
    """The application cannot know how fast its client is."""
    received: list[Message] = []
    ended = asyncio.Event()

    async def work(receive: Receive, send: Send) -> None:
        received.append(await receive())
        await until(lambda: len(listener.state.connections) == 0)
        await send({"type": "websocket.close", "code": 1003})
        with pytest.raises(RuntimeError, match="after the WebSocket was closed"):
            await send({"type": "websocket.close", "code": 1003})
        ended.set()

    with observed() as seen:
        async with listening(accepting(work), accepts_websockets=True) as listener:
            client = await Raw.open(listener)
            client.writer.write(frame(TEXT, b"unexpected"))
            if closes:
                client.writer.write(frame(CLOSE, struct.pack("!H", 1000)))
            client.writer.close()
            async with asyncio.timeout(5.0):
                await ended.wait()
        assert seen.lines == []
    assert received == [{"type": "websocket.receive", "text": "unexpected"}]


async def test_client_is_not_read_faster_than_the_application_reads() -> None:
    released = asyncio.Event()
    received: list[Message] = []

    async def work(receive: Receive, send: Send) -> None:
        await released.wait()
        while (message := await receive())["type"] != "websocket.disconnect":
            received.append(message)

    async with listening(accepting(work), accepts_websockets=True) as listener:
        client = await Raw.open(listener)
        sent = 0
        blocked = False
        while not blocked:
            client.writer.write(frame(BINARY, b"x" * 50_000))
            sent += 1
            _, waiting = await asyncio.wait([asyncio.create_task(client.writer.drain())], timeout=0.5)
            blocked = bool(waiting)
        released.set()
        await until(lambda: len(received) == sent)
        client.writer.close()


async def test_application_does_not_send_faster_than_the_client_reads() -> None:
    sent = 0

    async def work(receive: Receive, send: Send) -> None:
        nonlocal sent
        while True:
            await send({"type": "websocket.send", "bytes": b"x" * 100_000})
            sent += 1

    async with listening(accepting(work), accepts_websockets=True) as listener:
        client = await Raw.open(listener)
        await until(lambda: sent > 5)
        while True:
            before = sent
            await asyncio.sleep(0.2)
            if sent == before:
                break
        assert sent < 1000  # what the kernel holds
        await client.reader.readexactly(10_000_000)
        await until(lambda: sent > before)
        client.writer.close()


async def test_endless_stream_ends_with_its_client() -> None:
    outcome: list[OSError] = []

    async def work(receive: Receive, send: Send) -> None:
        try:
            while True:
                await send({"type": "websocket.send", "text": "x"})
        except OSError as error:
            outcome.append(error)

    async with listening(accepting(work), accepts_websockets=True) as listener:
        client = await Raw.open(listener)
        client.writer.close()
        await until(lambda: outcome)


async def test_client_that_does_not_reply_to_pings_is_disconnected() -> None:
    received: list[Message] = []

    async def work(receive: Receive, send: Send) -> None:
        received.append(await receive())

    async with listening(accepting(work), accepts_websockets=True, ping_seconds=0.1) as listener:
        client = await Raw.open(listener)
        assert await client.frame() == (PING, b"1")
        client.writer.write(frame(PONG, b"1"))
        assert await client.frame() == (PING, b"2")
        client.writer.write(frame(PONG, b"not this one"))
        assert await client.close_code() == 1011
        client.writer.close()
        await until(lambda: received)
    assert (received[0]["type"], received[0]["code"]) == ("websocket.disconnect", 1006)


async def test_pings_keep_a_silent_websocket_open() -> None:
    async with (
        listening(accepting(echo), accepts_websockets=True, ping_seconds=0.05) as listener,
        dial(listener) as connection,
    ):
        await asyncio.sleep(0.4)
        await connection.send("hello")
        assert await connection.recv() == "hello"


async def test_slow_application_is_not_taken_for_a_client_without_pongs() -> None:
    async def work(receive: Receive, send: Send) -> None:
        await receive()
        await asyncio.sleep(0.4)  # while the pongs wait behind the second message
        await echo(receive, send)

    async with (
        listening(accepting(work), accepts_websockets=True, ping_seconds=0.05) as listener,
        dial(listener) as connection,
    ):
        for message in ("one", "two", "three"):
            await connection.send(message)
        assert [await connection.recv(), await connection.recv()] == ["two", "three"]


async def test_shutdown_completes_the_closing_handshake_with_1012() -> None:
    received: list[Message] = []

    async def work(receive: Receive, send: Send) -> None:
        received.append(await receive())

    async with listening(accepting(work), accepts_websockets=True) as listener, dial(listener) as connection:
        closing = asyncio.create_task(listener.close(5.0))
        assert (await close_code(connection))[0] == 1012
        async with asyncio.timeout(2):
            await closing
    assert received == [{"type": "websocket.disconnect", "code": 1012, "reason": ""}]


async def test_shutdown_before_the_handshake_is_503() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        assert (await receive())["type"] == "websocket.disconnect"

    async with listening(app, accepts_websockets=True) as listener:
        responding = asyncio.create_task(exchange(listener.port, HANDSHAKE % b""))
        await until(lambda: listener.state.tasks)
        await listener.close(5.0)
        assert (await responding).startswith(b"HTTP/1.1 503 ")


async def test_websocket_counts_as_a_connection() -> None:
    limits = limits_of(max_connections=1)
    async with listening(accepting(echo), accepts_websockets=True, limits=limits) as listener:
        async with dial(listener):
            assert (await exchange(listener.port, b"")).startswith(b"HTTP/1.1 503 ")
        await until(lambda: not listener.state.connections)


async def test_websocket_cannot_overtake_a_request() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.sleep(0.05)
        await send({"type": "http.response.start", "status": 204})
        await send({"type": "http.response.body"})

    async with listening(app, accepts_websockets=True) as listener:
        response = await exchange(listener.port, b"GET / HTTP/1.1\r\nhost: x\r\n\r\n" + HANDSHAKE % b"")
    assert response.startswith(b"HTTP/1.1 204 ")
    assert b"HTTP/1.1 400 " in response


async def test_fields_of_the_handshake_are_the_servers_and_others_come_once() -> None:
    headers = [
        (b"Date", b"Tue, 24 Nov 2026 00:00:00 GMT"),
        (b"Upgrade", b"h2c"),
        (b"Connection", b"close"),
        (b"Sec-WebSocket-Accept", b"x"),
        (b"Sec-WebSocket-Protocol", b"one"),
    ]
    app = accepting(echo, subprotocol="two", headers=headers)
    async with (
        listening(app, accepts_websockets=True) as listener,
        dial(listener, subprotocols=["one", "two"]) as connection,
    ):
        assert connection.subprotocol == "two"
        response = connection.response
        assert response is not None
        assert response.headers.get_all("date") == ["Tue, 24 Nov 2026 00:00:00 GMT"]
        assert response.headers.get_all("sec-websocket-protocol") == ["two"]
        assert len(response.headers.get_all("connection")) == 1
        assert len(response.headers.get_all("upgrade")) == 1


async def test_websocket_that_the_shutdown_cancels_has_no_traceback() -> None:
    async def never_listens(_receive: Receive, _send: Send) -> None:
        await asyncio.Event().wait()

    with observed() as seen:
        async with listening(accepting(never_listens), accepts_websockets=True) as listener:
            connection = await dial(listener)
            await until(lambda: listener.state.tasks)
        await connection.close()
        assert [line["event"] for line in seen.lines] == ["requests cancelled at shutdown"]
