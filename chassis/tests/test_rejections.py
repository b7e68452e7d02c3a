"""Requests that are rejected before they reach a handler: too large, too slow, or malformed."""

import asyncio
import gc
import re
import socket
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Mount
from starlette.types import Message, Receive, Scope, Send

from chassis import Handler, Problem, Route
from chassis.http.errors import ClientDisconnectedError
from chassis.http.protocol import HttpProtocol
from chassis.http.rejection import rejection_scope
from chassis.request_info import RequestInfo

from .support.service import Service, connect, exchange, serve, until

SHORT: dict[str, Any] = {"max_target_bytes": 1000, "max_head_bytes": 2000, "head_seconds": 0.3, "body_seconds": 0.3}


class Sink(Handler):
    """Reads the body, or not, and responds with its size and the names of the headers."""

    async def get(self, request: Request) -> list[str]:
        return list(request.headers)

    async def post(self, request: Request) -> dict[str, int | list[str]]:
        size = len(await request.body())
        return {"bytes": size, "fields": list(request.headers)}

    async def put(self) -> str:
        return "not read"

    async def patch(self, request: Request) -> Response:
        async def stream() -> AsyncIterator[bytes]:
            yield b"begun,"
            async for part in request.stream():
                yield part

        return StreamingResponse(stream())


class Large(Handler):
    """More than any buffer holds."""

    async def get(self) -> Response:
        async def stream() -> AsyncIterator[bytes]:
            for _ in range(1000):
                yield b"x" * 100_000

        return StreamingResponse(stream())

    async def post(self) -> Response:
        return Response(b"x" * 50_000_000)


@pytest.fixture(scope="module")
async def running() -> AsyncIterator[Service]:
    async with serve(Route("/sink", Sink()), Route("/large", Large()), keep_alive_seconds=1, **SHORT) as service:
        yield service


@pytest.fixture
async def service(running: Service) -> Service:
    return await running.fresh()


@asynccontextmanager
async def connected(service: Service) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection on which nothing has been sent."""
    reader, writer = await asyncio.open_connection("127.0.0.1", service.server.port)
    try:
        async with asyncio.timeout(10.0):
            yield reader, writer
    finally:
        writer.close()


def statuses(response: bytes) -> list[int]:
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d+) ", response)]


def open_connections(service: Service) -> int:
    """The number of connections that the service holds."""
    server = service.server.port
    rows = [line.split() for line in Path("/proc/self/net/tcp").read_text().splitlines()[1:]]
    return sum(row[1].endswith(f":{server:04X}") and row[3] != "0A" and row[9] != "0" for row in rows)


HEAD = b"GET /sink HTTP/1.1\r\nhost: x\r\n"


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"GET /sink?" + b"x" * 1000 + b" HTTP/1.1\r\nhost: x\r\n\r\n", 414),
        (b"GET /sink?" + b"x" * 1000, 414),
        (HEAD + b"x: " + b"y" * 2000 + b"\r\n\r\n", 431),
        (HEAD + b"x: " + b"y" * 2000, 431),
        (HEAD + b"x: y\r\n" * 400 + b"\r\n", 431),
        (HEAD + b"x: y\r\n" * 400, 431),
        (b"X" * 10_000, 400),
    ],
)
@pytest.mark.parametrize("segments", [1, 20])
async def test_head_that_is_too_large_is_rejected_complete_or_not(
    service: Service, sent: bytes, status: int, segments: int
) -> None:
    async with connected(service) as (reader, writer):
        size = -(-len(sent) // segments)
        for start in range(0, len(sent), size):
            writer.write(sent[start : start + size])
            await writer.drain()
            await asyncio.sleep(0.002)
        response = await reader.read()
    assert statuses(response) == [status]
    assert b"content-type: application/problem+json" in response
    assert b"connection: close" in response
    assert b"x-content-type-options" in response


async def test_head_within_the_limit_may_arrive_in_pieces(service: Service) -> None:
    sent = HEAD + b"x: " + b"y" * 1900 + b"\r\nconnection: close\r\n\r\n"
    async with connected(service) as (reader, writer):
        for start in range(0, len(sent), 100):
            writer.write(sent[start : start + 100])
            await asyncio.sleep(0.001)
        assert statuses(await reader.read()) == [200]


async def test_head_behind_a_large_body_is_not_counted_with_it(service: Service) -> None:
    body = b"POST /sink HTTP/1.1\r\nhost: x\r\ncontent-length: 50000\r\n\r\n" + b"x" * 50_000
    async with connected(service) as (reader, writer):
        writer.write(body + HEAD)
        await reader.readuntil(b"}")
        writer.write(b"connection: close\r\n\r\n")
        assert statuses(await reader.read()) == [200]


@pytest.mark.parametrize("sent", [b"", b"\r\n", b"GE", b"GET /sink?secret HTTP/1.1\r\nhost:"])
async def test_head_that_does_not_arrive_is_408(service: Service, sent: bytes) -> None:
    response = await exchange(service.server.port, sent)
    assert statuses(response) == [408]
    line = await service.access_line()
    assert (line["status"], line["path"]) == (408, "/sink" if b"/" in sent else "")
    assert line["request_id"].encode() in response


async def test_head_that_arrives_too_slowly_is_408(service: Service) -> None:
    async with connected(service) as (reader, writer):
        received = asyncio.create_task(reader.read())
        writer.write(b"GET /")
        while not received.done():
            writer.write(b"x")
            await asyncio.sleep(0.02)
        assert statuses(received.result()) == [408]


@pytest.mark.parametrize(("sent", "path"), [(b"GET /", "/"), (b"\r\n", "")])
async def test_later_head_that_does_not_arrive_is_408(service: Service, sent: bytes, path: str) -> None:
    async with connected(service) as (reader, writer):
        writer.write(HEAD + b"\r\n")
        await reader.readuntil(b"]")
        writer.write(sent)
        assert statuses(await reader.read()) == [408]
    assert (await service.access_lines(2))[-1]["path"] == path


async def test_later_head_that_began_before_the_response_is_408(service: Service) -> None:
    response = await exchange(service.server.port, HEAD + b"\r\nGET /")
    assert statuses(response) == [200, 408]


async def test_idle_connection_is_closed_without_a_response(service: Service) -> None:
    response = await exchange(service.server.port, HEAD + b"\r\n")
    assert statuses(response) == [200]
    assert len(await service.access_lines()) == 1


POST = b"POST /sink HTTP/1.1\r\nhost: x\r\n"


@pytest.mark.parametrize(
    "sent",
    [b"content-length: 10\r\n\r\nabc", b"transfer-encoding: chunked\r\n\r\n5\r\nabc", b"content-length: 1\r\n\r\n"],
)
async def test_body_that_does_not_arrive_is_408(service: Service, sent: bytes) -> None:
    response = await exchange(service.server.port, POST + sent)
    assert statuses(response) == [408]
    assert b"connection: close" in response
    assert (await service.access_line())["route"] == "/sink"


async def test_body_that_arrives_too_slowly_is_408(service: Service) -> None:
    async with connected(service) as (reader, writer):
        writer.write(POST + b"content-length: 10000\r\n\r\n")
        received = asyncio.create_task(reader.read())
        while not received.done():
            writer.write(b"x")
            await asyncio.sleep(0.02)
        assert statuses(received.result()) == [408]


async def test_body_at_the_lowest_pace_has_no_time_limit(service: Service) -> None:
    async with connected(service) as (reader, writer):
        writer.write(POST + b"connection: close\r\ncontent-length: 9000\r\n\r\n")
        for _ in range(30):  # twice as long as the time, at many times the pace
            writer.write(b"x" * 300)
            await asyncio.sleep(0.025)
        assert b'"bytes":9000' in await reader.read()


async def test_response_that_has_begun_is_aborted_when_the_body_does_not_arrive(service: Service) -> None:
    response = await exchange(service.server.port, b"PATCH /sink HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\nabc")
    assert b"begun," in response
    assert statuses(response) == [200]
    assert not response.endswith(b"0\r\n\r\n")


async def test_unread_body_has_the_same_time_limit(service: Service) -> None:
    response = await exchange(service.server.port, b"PUT /sink HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\nabc")
    assert statuses(response) == [200]


async def test_unread_body_is_followed_by_the_next_request(service: Service) -> None:
    async with connected(service) as (reader, writer):
        writer.write(b"PUT /sink HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\nabc")
        await reader.readuntil(b'"not read"')
        writer.write(b"defghij" + HEAD + b"\r\n")
        assert statuses(await reader.read()) == [200]


async def test_client_that_was_not_asked_for_its_body_is_disconnected(service: Service) -> None:
    """It may send the body or the next request, and the server cannot tell one from the other."""
    response = await exchange(
        service.server.port,
        b"PUT /sink HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 64\r\n\r\n" + HEAD + b"\r\n",
    )
    assert statuses(response) == [200]
    assert b"connection: close" in response


async def test_expectation_of_http_1_0_is_ignored(service: Service) -> None:
    response = await exchange(
        service.server.port, b"POST /sink HTTP/1.0\r\nexpect: 100-continue\r\ncontent-length: 64\r\n\r\n"
    )
    assert statuses(response) == [408]


async def test_malformed_chunk_is_400_of_the_request_that_it_belongs_to(service: Service) -> None:
    response = await exchange(service.server.port, POST + b"transfer-encoding: chunked\r\n\r\n1\r\nx\r\nno\r\n")
    assert statuses(response) == [400]
    assert (await service.access_line())["route"] == "/sink"


async def test_body_of_nothing_but_framing_is_400(service: Service) -> None:
    async with connected(service) as (reader, writer):
        writer.write(POST + b"transfer-encoding: chunked\r\n\r\n1\r\nx\r\n")
        await asyncio.sleep(0.05)
        writer.write(b"1;" + b"x" * 20_000)
        assert statuses(await reader.read()) == [400]


async def test_chunks_of_one_byte_are_accepted(service: Service) -> None:
    async with connected(service) as (reader, writer):
        writer.write(POST + b"connection: close\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n")
        await asyncio.sleep(0.05)
        writer.write(b"1\r\nx\r\n" * 10_000 + b"0\r\n\r\n")
        assert b'"bytes":10001' in await reader.read()


async def test_trailer_does_not_become_a_header(service: Service) -> None:
    response = await exchange(
        service.server.port, POST + b"transfer-encoding: chunked\r\n\r\n1\r\nx\r\n0\r\nx-user: admin\r\n\r\n"
    )
    assert statuses(response) == [200]
    assert b"x-user" not in response


async def test_rejection_waits_for_the_responses_before_it(service: Service) -> None:
    response = await exchange(
        service.server.port, HEAD + b"\r\n" + HEAD + b"\r\n" + b"nonsense\r\n\r\n" + HEAD + b"\r\n"
    )
    assert statuses(response) == [200, 200, 400]


async def test_nothing_is_served_after_the_last_request(service: Service) -> None:
    response = await exchange(service.server.port, HEAD + b"connection: close\r\n\r\n" + HEAD + b"\r\n")
    assert statuses(response) == [200]


async def test_rejections_are_counted(service: Service) -> None:
    labels = {"http_route": "unmatched", "http_response_status_code": "400", "http_request_method": "_OTHER"}
    before = await service.sample("http_server_request_duration_seconds_count", **labels)
    await exchange(service.server.port, b"nonsense\r\n\r\n")
    assert await service.sample("http_server_request_duration_seconds_count", **labels) == before + 1


async def test_access_line_of_a_rejection_has_what_is_known_of_the_request(service: Service) -> None:
    response = await exchange(
        service.server.port, b"DELETE /secret?key=1 HTTP/1.1\r\nx-request-id: mine\r\nhost: x\r\nx y: z\r\n\r\n"
    )
    line = await service.access_line()
    assert (line["method"], line["path"], line["request_id"]) == ("DELETE", "/secret", "mine")
    assert b"x-request-id: mine" in response


@pytest.mark.parametrize(
    "upgrade",
    [b"connection: upgrade\r\nupgrade: h2c\r\n", b"connection: upgrade, http2-settings\r\nupgrade: h2c\r\n"],
)
async def test_ignored_upgrade_keeps_its_body(service: Service, upgrade: bytes) -> None:
    """httptools skips the body; the part that arrives later would become a request of its own."""
    body = b"DELETE /sink HTTP/1.1\r\nhost: x\r\n\r\n"
    async with connected(service) as (reader, writer):
        writer.write(POST + upgrade + b"content-length: %d\r\n\r\n" % len(body))
        await asyncio.sleep(0.05)
        writer.write(body + HEAD + b"connection: close\r\n\r\n")
        response = await reader.read()
    assert statuses(response) == [200, 200]
    assert b'"bytes":%d' % len(body) in response
    assert b'"upgrade"' not in response


async def test_malformed_request_after_an_ignored_upgrade_is_400(service: Service) -> None:
    upgrade = b"GET /sink HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n"
    for malformed, detail in (
        (b"nonsense\r\n\r\n", b"Malformed HTTP/1.1 request."),
        (b"GET / HTTP/1.1\r\n\r\n", b"The Host header is missing; HTTP/1.1 requires one."),
    ):
        response = await exchange(service.server.port, upgrade + malformed)
        assert statuses(response) == [200, 400]
        assert detail in response
    await service.access_lines(4)
    assert {line["event"] for line in service.seen.lines} == {"request"}


async def test_response_arrives_although_the_client_still_sends(service: Service) -> None:
    """Closing at once would make the kernel reset the connection and discard the response."""
    async with connected(service) as (reader, writer):
        writer.write(POST + b"content-length: 99999999\r\n\r\n")
        for _ in range(100):
            writer.write(b"x" * 65_536)
            await asyncio.sleep(0)
        assert statuses(await reader.read()) == [413]


async def test_client_that_still_sends_is_disconnected_after_a_while(service: Service) -> None:
    async with connected(service) as (_, writer):
        writer.write(POST + b"content-length: 99999999\r\n\r\n")
        while not writer.is_closing():  # connected() has a time for it
            writer.write(b"x")
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_client_that_does_not_read_the_response_is_disconnected(service: Service, method: str) -> None:
    with socket.create_connection(("127.0.0.1", service.server.port)) as client:
        client.sendall(b"%b /large HTTP/1.1\r\nhost: x\r\n\r\n" % method.encode())
        await until(lambda: open_connections(service) == 1)
        await until(lambda: open_connections(service) == 0)
    assert (await service.access_line())["path"] == "/large"


class Unsent:
    """An ASGI application that ends while the server still holds a little of its response."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # Its own connection, the only one that is received.
        connection = next(one for one in gc.get_objects() if isinstance(one, HttpProtocol) and one.responding)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while not connection.transport.get_write_buffer_size():
            await send({"type": "http.response.body", "body": b"x" * 8192, "more_body": True})
        await send({"type": "http.response.body", "more_body": False})


@pytest.mark.parametrize("field", [b"", b"connection: close\r\n"])
async def test_client_that_does_not_read_the_rest_is_disconnected(field: bytes) -> None:
    async with serve(Mount("/unsent", Unsent()), keep_alive_seconds=1, **SHORT) as service:
        with socket.create_connection(("127.0.0.1", service.server.port)) as client:
            client.sendall(b"GET /unsent/ HTTP/1.1\r\nhost: x\r\n%b\r\n" % field)
            assert (await service.access_line())["status"] == 200
            await until(lambda: open_connections(service) == 0)


async def test_client_that_does_not_read_an_aborted_response_is_disconnected() -> None:
    """Not even when so little is left that nothing waits for the client."""

    class Aborted(Unsent):
        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            async def send_all_but_the_end(message: Message) -> None:
                if not message.get("more_body", True):
                    raise RuntimeError("broken")
                await send(message)

            await super().__call__(scope, receive, send_all_but_the_end)

    async with serve(Mount("/aborted", Aborted()), **SHORT) as service:
        with socket.create_connection(("127.0.0.1", service.server.port)) as client:
            client.sendall(b"GET /aborted/ HTTP/1.1\r\nhost: x\r\n\r\n")
            assert (await service.access_line())["error"] == "RuntimeError"
            await until(lambda: open_connections(service) == 0)


async def test_many_bodies_on_a_connection_do_not_count_as_a_head(service: Service) -> None:
    async with connected(service) as (reader, writer):
        for _ in range(5):
            writer.write(POST + b"content-length: 4000\r\n\r\n" + b"x" * 1000)
            await asyncio.sleep(0.02)
            writer.write(b"x" * 3000)
            assert statuses(await reader.readuntil(b"}")) == [200]


async def test_connection_over_the_limit_is_503() -> None:
    async with serve(Route("/sink", Sink()), max_connections=3) as service:
        async with connected(service) as first, connected(service), connected(service):
            response = await exchange(service.server.port, b"")
            assert statuses(response) == [503]
            assert b"retry-after: 1" in response
            reader, writer = first  # a client that is connected stays connected
            writer.write(HEAD + b"\r\n")
            assert (await reader.readuntil(b"]")).startswith(b"HTTP/1.1 200")
        await until(lambda: open_connections(service) == 0)
        assert statuses(await exchange(service.server.port, HEAD + b"connection: close\r\n\r\n")) == [200]


async def test_admin_port_counts_its_own_connections() -> None:
    async with serve(Route("/sink", Sink()), max_connections=1, admin_port=0) as service, connected(service):
        assert statuses(await exchange(service.server.port, b"")) == [503]
        async with connect(service.server.admin_port or 0) as admin:
            assert (await admin.get("/healthz")).status_code == 200


class Recording:
    """An ASGI application that records the messages it receives."""

    def __init__(self) -> None:
        self.messages: list[tuple[str, Message]] = []
        self.begun: list[str] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.begun.append(scope["path"])
        await receive()
        self.messages.append((scope["path"], await receive()))


async def test_running_request_receives_the_disconnect() -> None:
    """Also while other requests wait behind it; those never begin."""
    recording = Recording()
    async with serve(Mount("/recording", recording)) as service:
        async with connected(service) as (_, writer):
            for number in range(3):
                writer.write(b"GET /recording/%d HTTP/1.1\r\nhost: x\r\n\r\n" % number)
            await until(lambda: recording.begun)
            await asyncio.sleep(0.05)
        await until(lambda: recording.messages)
    assert recording.messages == [("/recording/0", {"type": "http.disconnect"})]
    assert recording.begun == ["/recording/0"]


class Nested(Handler):
    """Accepts any JSON."""

    async def post(self, body: Any) -> str:
        return "taken"


@pytest.mark.parametrize(("depth", "status"), [(100, 200), (1000, 400), (100_000, 400)])
@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}")])
async def test_depth_of_json_is_bounded(depth: int, status: int, opening: str, closing: str) -> None:
    async with serve(Route("/nested", Nested()), max_body_bytes=1_000_000) as service:
        text = opening * depth + "1" + closing * depth
        response = await service.client.post("/nested", content=text, headers={"content-type": "application/json"})
    assert response.status_code == status


async def test_client_that_has_gone_before_its_rejection_is_no_failure() -> None:
    async def receive() -> Message:
        return {"type": "http.disconnect"}

    def send(_message: Message) -> Awaitable[None]:
        raise ClientDisconnectedError

    scope = rejection_scope(
        Problem(400, "Malformed."),
        method=b"GET",
        target=b"/",
        headers=[],
        info=RequestInfo(),
        client=("192.0.2.1", 1),
        server=None,
    )
    async with serve(Route("/sink", Sink())) as service:
        with pytest.raises(ClientDisconnectedError):
            await service.app.rejections(scope, receive, send)
        line = await service.access_line()
        assert (line["status"], line["level"], line.get("error")) == (499, "info", None)
        assert service.seen.events("unhandled exception") == []
