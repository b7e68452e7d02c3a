"""The guarantees of ASGI to an application, on a port of its own."""

import asyncio
import itertools
import socket
from collections.abc import Awaitable, Callable

import pytest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from chassis.http.protocol import MAX_PIPELINED
from chassis.http.request_reader import PIECE_BYTES
from chassis.request_info import REQUEST_INFO, RequestInfo

from .support.listener import listening
from .support.service import exchange, observed, until

GET = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"
SHORTEST = b"GET / HTTP/1.1\r\nhost:x\r\n\r\n"
LAST = b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"


def responding(*messages: Message) -> ASGIApp:
    """An application that sends these messages."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        for message in messages:
            await send(message)

    return app


async def test_scope_says_what_the_server_supports() -> None:
    scopes: list[Scope] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        scopes.append(scope)
        await responding({"type": "http.response.start", "status": 204}, {"type": "http.response.body"})(
            scope, receive, send
        )

    async with listening(app) as listener:
        await exchange(listener.port, b"GET /a%20b?c HTTP/1.1\r\nHost: x\r\nX: y\r\nconnection: close\r\n\r\n")
    (scope,) = scopes
    assert scope["asgi"] == {"version": "3.0", "spec_version": "2.4"}
    assert (scope["type"], scope["method"], scope["http_version"], scope["scheme"]) == ("http", "GET", "1.1", "http")
    assert (scope["path"], scope["raw_path"], scope["query_string"]) == ("/a b", b"/a%20b", b"c")
    assert scope["headers"] == [(b"host", b"x"), (b"x", b"y"), (b"connection", b"close")]
    assert scope["server"] == ("127.0.0.1", listener.port)
    assert scope["client"][0] == "127.0.0.1"


async def test_fields_of_interest_are_noted_while_they_are_read() -> None:
    infos: list[RequestInfo] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        infos.append(scope[REQUEST_INFO])
        await responding({"type": "http.response.start", "status": 204}, {"type": "http.response.body"})(
            scope, receive, send
        )

    async with listening(app) as listener:
        sent = b"POST / HTTP/1.1\r\nHost: x\r\nUser-Agent: test\r\nX-Request-ID: mine\r\nContent-Length: 2\r\n\r\nok"
        await exchange(listener.port, sent + LAST)
    first, second = infos
    assert (first.host, first.user_agent, first.request_id, first.content_length) == (b"x", b"test", "mine", 2)
    assert first.has_body
    assert (second.host, second.user_agent, second.request_id, second.has_body) == (b"x", b"", "", False)
    assert first.read_at is not None
    assert second.read_at is not None
    assert first.read_at <= second.read_at


@pytest.mark.parametrize("length", [b"x", b"-1", b"+1", b"1_0", b"0x1", b"", b"1" * 5000, "\u0661".encode()])
async def test_malformed_content_length_is_400_without_a_traceback(length: bytes) -> None:
    with observed() as seen:
        async with listening(responding()) as listener:
            response = await exchange(
                listener.port, b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: %b\r\n\r\nhello" % length
            )
        assert response.startswith(b"HTTP/1.1 400 ")
        assert seen.lines == []


async def test_messages_may_leave_out_what_has_a_default() -> None:
    async with listening(
        responding({"type": "http.response.start", "status": 200}, {"type": "http.response.body"})
    ) as listener:
        response = await exchange(listener.port, LAST)
    assert response.startswith(b"HTTP/1.1 200 OK\r\ndate: ")
    assert response.endswith(b"\r\n\r\n0\r\n\r\n")


async def test_http_1_0_gets_no_chunks() -> None:
    app = responding(
        {"type": "http.response.start", "status": 200},
        {"type": "http.response.body", "body": b"one,", "more_body": True},
        {"type": "http.response.body", "body": b"two"},
    )
    async with listening(app) as listener:
        response = await exchange(listener.port, b"GET / HTTP/1.0\r\n\r\n")
    assert response.endswith(b"connection: close\r\n\r\none,two")
    assert b"chunked" not in response


async def test_status_304_may_have_the_length_of_what_it_stands_for() -> None:
    app = responding(
        {"type": "http.response.start", "status": 304, "headers": [[b"Content-Length", b"10"]]},
        {"type": "http.response.body"},
    )
    async with listening(app) as listener:
        response = await exchange(listener.port, GET + LAST)
    assert response.count(b"HTTP/1.1 304 ") == 2


async def without_client(work: Callable[[Receive, Send], Awaitable[None]]) -> list[BaseException | str]:
    """How an application ends that works when its client has left."""
    outcome: list[BaseException | str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        try:
            await work(receive, send)
        except OSError as error:
            outcome.append(error)
            raise
        outcome.append("ended")

    with observed() as seen:
        async with listening(app) as listener:
            _, writer = await asyncio.open_connection("127.0.0.1", listener.port)
            writer.write(GET)
            await until(lambda: listener.state.tasks)
            writer.close()
            await until(lambda: outcome)
        assert seen.lines == []  # a client may leave, so that is no error
    return outcome


async def test_sending_to_a_client_that_has_gone_raises_an_os_error() -> None:
    async def send_start(_receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200})

    (error,) = await without_client(send_start)
    assert isinstance(error, OSError)


async def test_disconnect_is_received_again() -> None:
    async def receive_again(receive: Receive, _send: Send) -> None:
        for _ in range(3):
            assert (await receive())["type"] == "http.disconnect"

    assert await without_client(receive_again) == ["ended"]


@pytest.mark.parametrize("body", [b"x" * 1000, b""])
async def test_endless_stream_ends_with_its_client_and_lets_others_run(body: bytes) -> None:
    outcome: list[BaseException] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/other":
            await send({"type": "http.response.start", "status": 204})
            await send({"type": "http.response.body"})
            return
        try:
            await send({"type": "http.response.start", "status": 200})
            while True:
                await send({"type": "http.response.body", "body": body, "more_body": True})
        except (OSError, asyncio.CancelledError) as error:
            outcome.append(error)
            raise

    async with listening(app) as listener:
        _, writer = await asyncio.open_connection("127.0.0.1", listener.port)
        writer.write(GET)
        await until(lambda: listener.state.tasks)
        other = b"GET /other HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
        assert (await exchange(listener.port, other)).startswith(b"HTTP/1.1 204 ")
        writer.close()
        await until(lambda: outcome)


async def test_pipelined_requests_are_bounded_while_the_application_waits_for_the_client() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    async with listening(app) as listener:
        _, writer = await asyncio.open_connection("127.0.0.1", listener.port)
        for _ in itertools.repeat(None, 20_000):
            writer.write(SHORTEST * 10)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(writer.drain(), 0.5)  # the server reads no more
        (connection,) = listener.state.connections
        pipeline = connection.pipeline  # type: ignore[attr-defined]
        assert MAX_PIPELINED <= len(pipeline) < MAX_PIPELINED + PIECE_BYTES // len(SHORTEST)  # and what one piece holds
        writer.close()


async def test_pipelined_requests_are_bounded_while_they_get_their_responses() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.sleep(0.001)  # longer than a segment of requests takes to arrive
        await send({"type": "http.response.start", "status": 204})
        await send({"type": "http.response.body"})

    async def send_without_end(writer: asyncio.StreamWriter) -> None:
        while True:
            writer.write((SHORTEST * 10) * 1000)
            await writer.drain()

    async with listening(app) as listener:
        reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
        sending = asyncio.create_task(send_without_end(writer))
        for _ in range(200):
            await reader.readuntil(b"\r\n\r\n")
            (connection,) = listener.state.connections
            pipeline = connection.pipeline  # type: ignore[attr-defined]
            assert len(pipeline) < MAX_PIPELINED + PIECE_BYTES // len(SHORTEST)  # and what one piece holds
        sending.cancel()
        writer.close()


async def test_drain_serves_the_pipelined_requests_and_closes_after_the_last() -> None:
    begun = asyncio.Event()
    released = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        begun.set()
        await released.wait()
        await send({"type": "http.response.start", "status": 204})
        await send({"type": "http.response.body"})

    async with listening(app) as listener:
        received = asyncio.create_task(exchange(listener.port, GET * 3))
        await begun.wait()
        listener.drain()
        released.set()
        response = await received
    assert response.count(b"HTTP/1.1 204 ") == 3
    assert response.count(b"connection: close") == 1
    assert response.endswith(b"connection: close\r\n\r\n")


async def test_client_that_still_sends_reads_its_response_during_the_shutdown() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 413, "headers": [(b"connection", b"close")]})
        await send({"type": "http.response.body"})

    async with listening(app) as listener:
        reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
        writer.write(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 10000000\r\n\r\n")
        assert (await reader.readuntil(b"\r\n")) == b"HTTP/1.1 413 Content Too Large\r\n"
        listener.stop_accepting()
        for _ in range(10):
            writer.write(b"x" * 100_000)
            await writer.drain()
            await asyncio.sleep(0.01)
        assert b"connection: close" in await reader.read()
        writer.close()


@pytest.mark.parametrize("is_accepted", [False, True])
async def test_request_that_was_sent_before_the_port_is_closed_is_served(is_accepted: bool) -> None:
    respond = responding({"type": "http.response.start", "status": 204}, {"type": "http.response.body"})
    async with listening(respond) as listener:
        clients = [socket.create_connection(("127.0.0.1", listener.port)) for _ in range(8)]
        if is_accepted:
            await until(lambda: len(listener.state.connections) == len(clients))
        for client in clients:
            client.sendall(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        listener.stop_accepting()  # before the event loop has seen the connections, or their requests
        await listener.close(5)
        assert [client.recv(12) for client in clients] == [b"HTTP/1.1 204"] * len(clients)
        for client in clients:
            client.close()


async def test_date_is_kept_current() -> None:
    async with listening(responding()) as listener:
        first = listener.state.date_line
        assert first.startswith(b"date: ")
        await until(lambda: listener.state.date_line != first)
