"""HTTP/1.1 on the wire: framing, headers, and many requests on one connection."""

import asyncio
import gc
from collections.abc import AsyncIterator

import pytest
from starlette.routing import Mount
from starlette.types import Message, Receive, Scope, Send
from structlog.typing import EventDict

from chassis.cache import MAX_ENTRIES
from chassis.http.protocol import HttpProtocol
from chassis.http.response_head import field_lines, field_names

from .support.service import Service, exchange, serve, until


class Raw:
    """An ASGI application that sends what a test gives it."""

    def __init__(self) -> None:
        self.status = 200
        self.headers: list[tuple[bytes, bytes]] = []
        self.chunks = [b"one", b"", b"two"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status, "headers": self.headers})
        for chunk in self.chunks:
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body"})


@pytest.fixture
def raw() -> Raw:
    return Raw()


@pytest.fixture
async def service(raw: Raw) -> AsyncIterator[Service]:
    async with serve(Mount("/raw", raw)) as service:
        yield service


CLOSE = b" HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"


async def test_body_without_a_length_is_chunked(service: Service) -> None:
    head, _, body = (await exchange(service.server.port, b"GET /raw/" + CLOSE)).partition(b"\r\n\r\n")
    assert b"transfer-encoding: chunked" in head
    assert body == b"3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n"


async def test_declared_chunks_are_not_declared_twice(raw: Raw, service: Service) -> None:
    raw.headers = [(b"Transfer-Encoding", b"chunked")]
    head, _, body = (await exchange(service.server.port, b"GET /raw/" + CLOSE)).partition(b"\r\n\r\n")
    assert head.count(b"transfer-encoding") == 1
    assert body.endswith(b"0\r\n\r\n")


async def test_head_has_the_length_and_no_body(raw: Raw, service: Service) -> None:
    raw.headers = [(b"content-length", b"6")]
    head, _, body = (await exchange(service.server.port, b"HEAD /raw/" + CLOSE)).partition(b"\r\n\r\n")
    assert b"content-length: 6" in head
    assert body == b""


async def test_application_may_close_the_connection(raw: Raw, service: Service) -> None:
    raw.headers = [(b"connection", b"Close")]
    response = await exchange(service.server.port, b"GET /raw/ HTTP/1.1\r\nhost: x\r\n\r\n")
    assert response.lower().count(b"connection: close") == 1


async def test_application_may_send_the_same_message_for_each_request() -> None:
    start: Message = {"type": "http.response.start", "status": 204, "headers": []}

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start)
        await send({"type": "http.response.body"})

    async with serve(Mount("/same", app)) as service:
        responses = [await service.client.get("/same/") for _ in range(2)]
    assert [len(response.headers.get_list("x-request-id")) for response in responses] == [1, 1]
    assert start["headers"] == []


async def test_client_gets_a_response_when_the_error_cannot_be_logged() -> None:
    def fail_for_errors(logger: object, method: str, event: EventDict) -> EventDict:
        if method == "error":
            raise ValueError("no line")
        return event

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise RuntimeError("internal detail")

    async with serve(Mount("/fails", app), logs={"processors": [fail_for_errors]}) as service:
        assert (await service.client.get("/fails/")).status_code == 500


async def test_status_without_a_reason_phrase_is_sent(raw: Raw, service: Service) -> None:
    raw.status = 299
    assert (await exchange(service.server.port, b"GET /raw/" + CLOSE)).startswith(b"HTTP/1.1 299 \r\n")


async def test_http_1_0_connection_is_closed_after_the_response(raw: Raw, service: Service) -> None:
    raw.headers = [(b"content-length", b"6")]
    response = await exchange(service.server.port, b"GET /raw/ HTTP/1.0\r\n\r\n")
    assert response.endswith(b"onetwo")
    assert b"connection: close" in response


@pytest.mark.parametrize("length", [b"5", b"7"])
async def test_wrong_length_closes_the_connection(raw: Raw, service: Service, length: bytes) -> None:
    raw.headers = [(b"content-length", length)]
    response = await exchange(service.server.port, b"GET /raw/ HTTP/1.1\r\nhost: x\r\n\r\n")
    assert b"HTTP/1.1 500" not in response.partition(b"\r\n\r\n")[2]  # no second response in the first one's body


@pytest.mark.parametrize(
    "field",
    [
        (b"x-bad", b"a\r\nset-cookie: b"),
        (b"x-bad", b"a\nb"),
        (b"x-bad", b"\x00"),
        (b"x\r\n", b"a"),
        (b"x y", b"a"),
        (b"x:", b"a"),
        (b"", b"a"),
    ],
)
async def test_header_that_would_break_the_message_is_500(
    raw: Raw, service: Service, field: tuple[bytes, bytes]
) -> None:
    raw.headers = [field]
    response = await exchange(service.server.port, b"GET /raw/" + CLOSE)
    assert response.startswith(b"HTTP/1.1 500 ")
    assert b"set-cookie" not in response
    assert field not in field_lines


async def test_cache_of_header_lines_is_bounded(raw: Raw, service: Service) -> None:
    raw.headers = [(b"X-Number-%d" % number, b"%d" % number) for number in range(3 * MAX_ENTRIES)]
    response = await exchange(service.server.port, b"GET /raw/" + CLOSE)
    for number in range(3 * MAX_ENTRIES):
        assert b"\r\nx-number-%d: %d\r\n" % (number, number) in response
    assert len(field_lines) <= MAX_ENTRIES
    assert len(field_names) <= MAX_ENTRIES


async def test_headers_that_always_differ_are_not_cached(raw: Raw, service: Service) -> None:
    raw.headers = [(b"Set-Cookie", b"session=1")]
    assert b"\r\nset-cookie: session=1\r\n" in await exchange(service.server.port, b"GET /raw/" + CLOSE)
    assert (b"Set-Cookie", b"session=1") not in field_lines


async def test_idle_connection_is_closed_after_keep_alive_seconds(raw: Raw) -> None:
    raw.headers = [(b"content-length", b"6")]
    async with serve(Mount("/raw", raw), keep_alive_seconds=1) as service:
        reader, writer = await asyncio.open_connection("127.0.0.1", service.server.port)
        for _ in range(3):  # requests put it off
            writer.write(b"GET /raw/ HTTP/1.1\r\nhost: x\r\n\r\n")
            assert (await reader.readuntil(b"onetwo")).startswith(b"HTTP/1.1 200")
        assert await asyncio.wait_for(reader.read(), 5) == b""
        writer.close()


@pytest.mark.parametrize("request_line", [b"GET / HTTP/1.x", b"GET\t/ HTTP/1.1"])
async def test_malformed_request_is_a_problem(service: Service, request_line: bytes) -> None:
    head, _, body = (await exchange(service.server.port, request_line + b"\r\nhost: x\r\n\r\n")).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ")
    assert b"content-type: application/problem+json" in head
    assert b'"status":400' in body


async def test_slow_reader_gets_everything(raw: Raw, service: Service) -> None:
    raw.chunks = [b"x" * 1_000_000] * 20
    reader, writer = await asyncio.open_connection("127.0.0.1", service.server.port, limit=1000)
    writer.write(b"GET /raw/" + CLOSE)
    await reader.readuntil(b"\r\n\r\n")
    active = service.app.telemetry.observer.active
    assert await until(lambda: len(active) == 1)  # the application waits for the reader
    received = 0
    while part := await reader.read(65536):
        received += part.count(b"x")
    assert received == 20_000_000
    writer.close()


class Waiting:
    """An ASGI application that receives until the client has gone."""

    def __init__(self) -> None:
        self.messages: list[Message] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        while not self.messages or self.messages[-1]["type"] != "http.disconnect":
            self.messages.append(await receive())


async def test_disconnect_comes_after_the_body_and_once_the_client_has_disconnected() -> None:
    waiting = Waiting()
    async with serve(Mount("/wait", waiting)) as service:
        _, writer = await asyncio.open_connection("127.0.0.1", service.server.port)
        writer.write(b"POST /wait/ HTTP/1.1\r\nhost: x\r\ncontent-length: 6\r\n\r\nabc")
        assert await until(lambda: len(waiting.messages) == 1)
        writer.write(b"def")
        assert await until(lambda: len(waiting.messages) == 2)
        writer.close()
        assert await until(lambda: len(waiting.messages) == 3)
    assert waiting.messages == [
        {"type": "http.request", "body": b"abc", "more_body": True},
        {"type": "http.request", "body": b"def", "more_body": False},
        {"type": "http.disconnect"},
    ]


async def test_request_in_absolute_form_is_routed_by_its_path(service: Service) -> None:
    response = await exchange(service.server.port, b"GET http://x/raw/?q=1#part" + CLOSE)
    assert response.startswith(b"HTTP/1.1 200 ")


async def test_fragment_is_no_part_of_the_path(service: Service) -> None:
    await exchange(service.server.port, b"GET /raw/a#b?c" + CLOSE)
    assert (await service.access_line())["path"] == "/raw/a"


class Failing:
    """An ASGI application that returns without a response."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        return


async def test_application_that_never_responds_is_500() -> None:
    async with serve(Mount("/none", Failing())) as service:
        head, _, body = (await exchange(service.server.port, b"GET /none/" + CLOSE)).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 500 ")
    assert b'"status":500' in body


async def test_closed_connection_leaves_nothing_to_the_garbage_collector(raw: Raw, service: Service) -> None:
    def connections() -> list[HttpProtocol]:
        return [one for one in gc.get_objects() if isinstance(one, HttpProtocol)]

    gc.collect()
    gc.disable()
    try:
        before = connections()  # of other tests
        await exchange(service.server.port, b"GET /raw/" + CLOSE)
        await until(lambda: len(connections()) == len(before))
    finally:
        gc.enable()
