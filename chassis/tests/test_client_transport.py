"""Requests to replicas: what is sent, what becomes of connections, and the error for each way in which they fail."""

import asyncio
import gzip
import os
import socket
import ssl
import subprocess
import sys
import tracemalloc
import zlib
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from hypercorn.asyncio import serve as serve_http2
from hypercorn.config import Config

from chassis.client import ClientSettings
from chassis.client.aiohttp_transport import open_transport as open_aiohttp
from chassis.client.httpx_transport import open_transport as open_httpx
from chassis.client.origin import Origin
from chassis.client.tls import tls_context
from chassis.client.transport import (
    Address,
    ConnectionLostError,
    NotSentError,
    OutboundRequest,
    ResponseTooLargeError,
    Transport,
)

from .support.certificates import certificate
from .support.scripted import OK, Connection, ScriptedServer, once, responding, scripted

Open = Callable[[ClientSettings], AbstractAsyncContextManager[Transport]]
GET = OutboundRequest("GET", "/", {})
LIMIT = 1_000_000


@pytest.fixture(params=[open_aiohttp, open_httpx], ids=["aiohttp", "httpx"])
def opener(request: pytest.FixtureRequest) -> Open:
    """Each of the transports."""
    chosen: Open = request.param
    return chosen


def settings_of(**options: Any) -> ClientSettings:
    given: dict[str, Any] = {"base_url": "http://catalogue", "connect_timeout_seconds": 2}
    return ClientSettings(**given | options)


@asynccontextmanager
async def using(opener: Open, server: ScriptedServer, **options: Any) -> AsyncIterator["Sender"]:
    async with opener(settings_of(**options)) as transport:
        yield Sender(transport, server.address)


class Sender:
    """Sends requests to one replica, and reads the responses."""

    def __init__(self, transport: Transport, address: Address) -> None:
        self.transport = transport
        self.address = address

    async def body(self, request: OutboundRequest = GET, limit: int = LIMIT) -> bytes:
        async with asyncio.timeout(20):
            response = await self.transport.send(request, self.address)
            return await response.read(limit)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.005)


def fields_of(head: bytes) -> dict[str, str]:
    lines = head.decode().rstrip("\r\n").split("\r\n")[1:]
    return {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}


# What is sent


async def test_request_goes_to_the_replica_in_the_name_of_the_base_url(opener: Open) -> None:
    heads = list[bytes]()
    async with (
        scripted(responding(heads=heads)) as server,
        using(opener, server, base_url="http://catalogue:8000/api") as sender,
    ):
        await sender.body(OutboundRequest("GET", "/api/a%2Fb/../c?q='%20x", {"user-agent": "orders/1.2"}))
    assert heads[0].startswith(b"GET /api/a%2Fb/../c?q='%20x HTTP/1.1\r\n")
    assert fields_of(heads[0])["host"] == "catalogue:8000"
    assert fields_of(heads[0])["user-agent"] == "orders/1.2"


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
async def test_headers_that_nobody_asked_for_are_not_sent(opener: Open, method: str) -> None:
    heads = list[bytes]()
    async with scripted(responding(heads=heads)) as server, using(opener, server) as sender:
        await sender.body(OutboundRequest(method, "/", {"x-own": "1"}))
    assert set(fields_of(heads[0])) - {"host", "x-own", "accept", "accept-encoding", "content-length"} == set()


@pytest.mark.parametrize("size", [3, 3_000_000])
async def test_body_arrives_whole(opener: Open, size: int) -> None:
    bodies = list[bytes]()

    async def script(connection: Connection) -> None:
        length = int(fields_of(await connection.request())["content-length"])
        bodies.append(await connection.reader.readexactly(length))
        await connection.send(OK)

    async with scripted(script) as server, using(opener, server) as sender:
        assert await sender.body(OutboundRequest("POST", "/", {}, b"x" * size)) == b"ok"
    assert bodies == [b"x" * size]


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (OutboundRequest("GET", "/", {"x-a": "1\r\nx-b: 2"}), "the value of the header 'x-a'"),
        (OutboundRequest("GET", "/", {"x-a": "1\n"}), "the value of the header 'x-a'"),
        (OutboundRequest("GET", "/", {"x-a": "caf\xe9"}), "the value of the header 'x-a'"),
        (OutboundRequest("GET", "/", {"x-a": "\u20ac"}), "the value of the header 'x-a'"),
        (OutboundRequest("GET", "/", {"x-a\r\nx-b": "2"}), "the header name"),
        (OutboundRequest("GET", "/", {"": "2"}), "the header name"),
        (OutboundRequest("GET", "/ HTTP/1.1\r\nx-b: 2\r\n\r\n", {}), "the target"),
        (OutboundRequest("GET", "/a b", {}), "the target"),
        (OutboundRequest("GET", "/a#b", {}), "the target"),
        (OutboundRequest("GET", "elsewhere", {}), "the target"),
        (OutboundRequest("GET /a HTTP/1.1\r\n\r\nGET", "/", {}), "the method"),
        (OutboundRequest("POST", "/", {"content-length": "1"}, b"abc"), "the header 'content-length'"),
        (OutboundRequest("POST", "/", {"transfer-encoding": "chunked"}, b"abc"), "the header 'transfer-encoding'"),
    ],
)
async def test_values_that_would_split_a_request_are_rejected_before_anything_is_sent(
    opener: Open, request_: OutboundRequest, words: str
) -> None:
    async with scripted(responding()) as server, using(opener, server) as sender:
        with pytest.raises(ValueError, match=words):
            await sender.body(request_)
        assert server.connections == 0


async def test_redirects_and_cookies_are_left_to_the_caller(opener: Open) -> None:
    heads = list[bytes]()
    moved = b"HTTP/1.1 302 Found\r\nlocation: /b\r\nset-cookie: a=b; path=/\r\ncontent-length: 0\r\n\r\n"
    async with scripted(responding(moved, heads)) as server, using(opener, server) as sender:
        for _ in range(2):
            response = await sender.transport.send(GET, server.address)
            assert (response.status, response.headers["location"]) == (302, "/b")
            await response.read(LIMIT)
    assert [head.split(b" ")[1] for head in heads] == [b"/", b"/"]
    assert all("cookie" not in fields_of(head) for head in heads)


async def test_body_waits_for_100_continue() -> None:
    events = list[bytes]()

    async def script(connection: Connection) -> None:
        await connection.request()
        with suppress(TimeoutError):
            async with asyncio.timeout(0.1):
                events.append(await connection.reader.read(5))
        await connection.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        events.append(await connection.reader.readexactly(5))
        await connection.send(OK)

    async with scripted(script) as server, using(open_aiohttp, server) as sender:
        assert await sender.body(OutboundRequest("POST", "/", {"expect": "100-continue"}, b"hello")) == b"ok"
    assert events == [b"hello"]


async def test_rejected_expectation_sends_no_body_and_closes_the_connection() -> None:
    rest = list[bytes]()

    async def script(connection: Connection) -> None:
        await connection.request()
        await connection.send(b"HTTP/1.1 417 Expectation Failed\r\ncontent-length: 0\r\n\r\n")
        rest.append(await connection.reader.read())

    async with scripted(script) as server, using(open_aiohttp, server) as sender:
        response = await sender.transport.send(
            OutboundRequest("POST", "/", {"expect": "100-continue"}, b"hello"), server.address
        )
        assert response.status == 417
        assert await response.read(LIMIT) == b""
        await until(lambda: server.closed == 1)
    assert rest == [b""]


# What is received


async def test_headers_are_case_insensitive_and_repeated_fields_are_joined(opener: Open) -> None:
    head = b"HTTP/1.1 200 OK\r\nX-A: 1\r\nx-a: 2\r\nContent-Length: 0\r\n\r\n"
    async with scripted(responding(head)) as server, using(opener, server) as sender:
        response = await sender.transport.send(GET, server.address)
        await response.read(LIMIT)
    assert response.headers["x-a"] == response.headers["X-A"] == "1, 2"
    assert response.headers.get("X-B") is None
    assert "CONTENT-LENGTH" in response.headers
    assert dict(response.headers) == {"x-a": "1, 2", "content-length": "0"}
    assert response.http_version == "1.1"


async def test_headers_that_are_no_utf8_are_text_all_the_same() -> None:
    head = b"HTTP/1.1 200 OK\r\nx-a: \xff\r\ncontent-length: 0\r\n\r\n"
    async with scripted(responding(head)) as server, using(open_aiohttp, server) as sender:
        response = await sender.transport.send(GET, server.address)
        await response.read(LIMIT)
    assert response.headers["x-a"].encode() == "\ufffd".encode()


@pytest.mark.parametrize(
    "response",
    [
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\no\r\n1;x=y\r\nk\r\n0\r\nx-t: 1\r\n\r\n",
        b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n" + OK,
        b"HTTP/1.1 200 OK\r\n\r\nok",
        b"HTTP/1.0 200 OK\r\n\r\nok",
    ],
    ids=["chunked", "interim", "until the end", "1.0"],
)
async def test_body_is_read_to_its_end(opener: Open, response: bytes) -> None:
    async with scripted(once(response)) as server, using(opener, server) as sender:
        assert await sender.body() == b"ok"


@pytest.mark.parametrize("method_status", [("HEAD", 200), ("GET", 204), ("GET", 304)])
async def test_responses_without_a_body_give_the_connection_back(opener: Open, method_status: tuple[str, int]) -> None:
    method, status = method_status
    length = b"" if status == 204 else b"content-length: 100\r\n"
    async with (
        scripted(responding(b"HTTP/1.1 %d x\r\n%b\r\n" % (status, length))) as server,
        using(opener, server) as sender,
    ):
        for _ in range(2):
            assert await sender.body(OutboundRequest(method, "/", {})) == b""
        assert server.connections == 1


async def test_parts_of_a_body_arrive_as_they_are_sent(opener: Open) -> None:
    may_go_on = asyncio.Event()

    async def script(connection: Connection) -> None:
        await connection.request()
        await connection.send(b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\n", b"one")
        await may_go_on.wait()
        await connection.send(b"two")
        await connection.request()

    async with scripted(script) as server, using(opener, server) as sender:
        response = await sender.transport.send(GET, server.address)
        parts = response.chunks()
        assert await anext(parts) == b"one"
        may_go_on.set()
        assert [part async for part in parts] == [b"two"]


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
async def test_coded_body_is_decoded(coding: str) -> None:
    body = (gzip.compress if coding == "gzip" else zlib.compress)(b"ok" * 100)
    head = f"HTTP/1.1 200 OK\r\ncontent-encoding: {coding}\r\ncontent-length: {len(body)}\r\n\r\n"
    async with scripted(responding(head.encode() + body)) as server, using(open_aiohttp, server) as sender:
        assert await sender.body() == b"ok" * 100


async def test_limit_counts_decoded_bytes_and_bounds_the_memory() -> None:
    compress = zlib.compressobj(1, wbits=31)
    bomb = b"".join(compress.compress(bytes(1_000_000)) for _ in range(60)) + compress.flush()
    head = b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: %d\r\n\r\n" % len(bomb)
    async with scripted(responding(head + bomb)) as server, using(open_aiohttp, server) as sender:
        tracemalloc.start()
        try:
            with pytest.raises(ResponseTooLargeError, match="1000000"):
                await sender.body()
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        await until(lambda: server.closed == 1)
    assert peak < 10_000_000


async def test_body_of_the_limit_is_read_and_a_longer_one_closes_the_connection(opener: Open) -> None:
    async with scripted(responding()) as server, using(opener, server) as sender:
        assert await sender.body(limit=2) == b"ok"
        with pytest.raises(ResponseTooLargeError):
            await sender.body(limit=1)


# How requests fail


async def test_refused_connection_sent_nothing(opener: Open) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        address = Address(*closed.getsockname())
    async with opener(settings_of()) as transport:
        with pytest.raises(NotSentError, match="no connection"):
            await transport.send(GET, address)


async def test_name_without_an_address_sent_nothing(opener: Open) -> None:
    async with opener(settings_of()) as transport:
        with pytest.raises(NotSentError, match="no connection"):
            await transport.send(GET, Address("nothing.invalid", 80))


async def test_connection_that_is_not_accepted_sent_nothing(opener: Open) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as hanging:
        address = Address(*hanging.getsockname())
        waiting = list[socket.socket]()
        for _ in range(3):  # the accept queue, and what the kernel lets through beyond it
            waiting.append(socket.socket())
            waiting[-1].setblocking(False)
            waiting[-1].connect_ex(address)
        async with opener(settings_of(connect_timeout_seconds=0.2)) as transport:
            before = open_sockets()
            with pytest.raises(NotSentError):
                await transport.send(GET, address)
            await until(lambda: open_sockets() <= before)
        for one in waiting:
            one.close()


async def reset_after_the_request(connection: Connection) -> None:
    await connection.request()
    connection.reset()


async def reset_in_a_body_without_length(connection: Connection) -> None:
    await connection.request()
    await connection.send(b"HTTP/1.1 200 OK\r\n\r\nhalf")
    await asyncio.sleep(0.05)  # else the reset overtakes it
    connection.reset()


HEAD = b"HTTP/1.1 200 OK\r\n"
CHUNKED = HEAD + b"transfer-encoding: chunked\r\n\r\n"
BROKEN = {
    "closed": once(),
    "reset": reset_after_the_request,
    "half a status line": once(b"HTTP/1.1 2"),
    "half a header section": once(HEAD + b"x-a: 1\r\n"),
    "half a body": once(HEAD + b"content-length: 10\r\n\r\nhalf"),
    "half a chunk": once(CHUNKED + b"a\r\nhalf"),
    "no last chunk": once(CHUNKED + b"4\r\nhalf\r\n"),
    "reset body": reset_in_a_body_without_length,
    "no chunk": once(CHUNKED + b"zz\r\nhalf\r\n"),
    "garbage": once(b"220 mail.example ESMTP\r\n\r\n"),
    "two lengths": once(HEAD + b"content-length: 2\r\ncontent-length: 3\r\n\r\nok!"),
}
BROKEN_FOR_AIOHTTP = {
    "length and chunks": once(HEAD + b"content-length: 2\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"),
    "large field": once(HEAD + b"x-a: " + b"a" * 9000 + b"\r\ncontent-length: 0\r\n\r\n"),
    "many fields": once(HEAD + b"x-a: 1\r\n" * 200 + b"content-length: 0\r\n\r\n"),
    "many trailers": once(CHUNKED + b"0\r\n" + b"x-a: 1\r\n" * 200 + b"\r\n"),
    "no gzip": once(HEAD + b"content-encoding: gzip\r\ncontent-length: 3\r\n\r\nabc"),
    "other protocol": once(b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n"),
}


@pytest.mark.parametrize("script", BROKEN.values(), ids=BROKEN)
async def test_broken_response_is_a_lost_connection(opener: Open, script: Any) -> None:
    if opener is open_httpx and script is reset_in_a_body_without_length:
        script = BROKEN["half a body"]
    async with scripted(script) as server, using(opener, server) as sender:
        with pytest.raises(ConnectionLostError) as raised:
            await sender.body(OutboundRequest("GET", "/?token=secret", {}))
        await until(lambda: server.closed == 1)
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize("script", BROKEN_FOR_AIOHTTP.values(), ids=BROKEN_FOR_AIOHTTP)
async def test_response_beyond_the_bounds_is_a_lost_connection(script: Any) -> None:
    async with scripted(script) as server, using(open_aiohttp, server) as sender:
        with pytest.raises(ConnectionLostError):
            await sender.body()
        await until(lambda: server.closed == 1)


async def test_header_section_without_an_end_is_not_kept() -> None:
    async def script(connection: Connection) -> None:
        await connection.request()
        await connection.send(HEAD, *[b"x-a: " + b"a" * 100 + b"\r\n"] * 100_000)

    async with scripted(script) as server, using(open_aiohttp, server) as sender:
        with pytest.raises(ConnectionLostError, match="malformed response"):
            await sender.body()


async def test_request_on_a_kept_connection_that_is_lost_is_not_repeated(opener: Open) -> None:
    heads = list[bytes]()

    async def script(connection: Connection) -> None:
        heads.append(await connection.request())
        await connection.send(OK)
        heads.append(await connection.request())

    async with scripted(script) as server, using(opener, server) as sender:
        assert await sender.body() == b"ok"
        with pytest.raises(ConnectionLostError):
            await sender.body()
        assert server.connections == 1
    assert len(heads) == 2


async def test_response_that_nobody_asked_for_is_not_that_of_the_next_request() -> None:
    sent = asyncio.Event()

    async def script(connection: Connection) -> None:
        await connection.request()
        await connection.send(OK)
        await asyncio.sleep(0.05)  # arrives after the connection was given back
        await connection.send(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil")
        sent.set()
        await responding()(connection)

    async with scripted(script) as server, using(open_aiohttp, server) as sender:
        assert await sender.body() == b"ok"
        await sent.wait()
        await asyncio.sleep(0.05)
        with pytest.raises(NotSentError, match="without a request"):
            await sender.body()
        assert await sender.body() == b"ok"


# What becomes of connections


async def test_connection_is_used_again_once_the_body_is_read(opener: Open) -> None:
    async with scripted(responding()) as server, using(opener, server) as sender:
        for _ in range(3):
            assert await sender.body() == b"ok"
        assert server.connections == 1


async def test_connection_that_the_server_closes_is_not_used_again(opener: Open) -> None:
    async def script(connection: Connection) -> None:
        await connection.request()
        await connection.send(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok")
        await connection.ended()

    async with scripted(script) as server, using(opener, server) as sender:
        assert [await sender.body(), await sender.body()] == [b"ok", b"ok"]
        assert server.connections == 2


async def test_closing_an_unread_response_closes_its_connection(opener: Open) -> None:
    async def script(connection: Connection) -> None:
        await connection.request()
        await connection.send(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n", bytes(1000))
        await connection.ended()

    async with scripted(script) as server, using(opener, server) as sender:
        response = await sender.transport.send(GET, server.address)
        response.close()
        response.close()
        await until(lambda: server.closed == 1)


async def test_requests_never_wait_for_each_other(opener: Open) -> None:
    together = asyncio.Barrier(150)

    async def script(connection: Connection) -> None:
        await connection.request()
        await together.wait()
        await connection.send(OK)

    async with scripted(script) as server, using(opener, server, connect_timeout_seconds=20) as sender:
        bodies = await asyncio.gather(*(sender.body() for _ in range(150)))
    assert bodies == [b"ok"] * 150


async def test_idle_connection_is_closed() -> None:
    async with scripted(responding()) as server, using(open_aiohttp, server, idle_seconds=0.05) as sender:
        await sender.body()
        await until(lambda: server.closed == 1)


async def test_each_replica_has_its_own_connections(opener: Open) -> None:
    async with scripted(responding()) as first, scripted(responding()) as second, using(opener, first) as sender:
        for address in (first.address, second.address, first.address):
            await (await sender.transport.send(GET, address)).read(LIMIT)
        assert (first.connections, second.connections) == (1, 1)


@pytest.mark.parametrize("script", [Connection.ended, once(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf")])
async def test_cancelled_call_closes_its_connection(opener: Open, script: Any) -> None:
    async def staying(connection: Connection) -> None:
        await script(connection)
        await connection.ended()

    async with scripted(staying) as server, using(opener, server) as sender:
        call = asyncio.create_task(sender.body())
        await until(lambda: server.connections == 1)
        await asyncio.sleep(0.05)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await until(lambda: server.closed == 1)


async def test_cancelled_call_leaves_no_socket_behind_that_waits_for_a_peer_to_take_its_body() -> None:
    body = bytes(30_000_000)
    with socket.create_server(("127.0.0.1", 0)) as hanging:
        async with open_aiohttp(settings_of()) as transport:
            before = open_sockets()
            sending = transport.send(OutboundRequest("POST", "/", {}, body), Address(*hanging.getsockname()))
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(sending, 0.3)
            await until(lambda: open_sockets() <= before)
        connection, _ = hanging.accept()
        with connection:
            connection.settimeout(10)
            assert await asyncio.to_thread(received_from, connection) < len(body)


def received_from(connection: socket.socket) -> int:
    received = 0
    with suppress(ConnectionError):
        while part := connection.recv(65_536):
            received += len(part)
    return received


async def test_cancelled_connect_leaves_no_socket(opener: Open) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as hanging:
        address = Address(*hanging.getsockname())
        waiting = [socket.create_connection(address), socket.socket(), socket.socket()]
        for one in waiting[1:]:
            one.setblocking(False)
            one.connect_ex(address)
        async with opener(settings_of(connect_timeout_seconds=20)) as transport:
            before = open_sockets()
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(transport.send(GET, address), 0.1)
            await until(lambda: open_sockets() <= before)
        for one in waiting:
            one.close()


def open_sockets() -> int:
    """The number of sockets of this process, on Linux."""
    count = 0
    for entry in Path("/proc/self/fd").glob("*"):
        with suppress(OSError):
            count += os.readlink(entry).startswith("socket:")
    return count


async def test_closed_transport_sends_nothing() -> None:
    async with scripted(responding()) as server:
        async with using(open_aiohttp, server) as sender:
            await sender.body()
        with pytest.raises(NotSentError, match="closed"):
            await sender.body()
        await until(lambda: server.closed == 1)


# TLS


class Tls:
    """A server's certificate for `catalogue.test`, and the names that clients ask for."""

    def __init__(self, folder: Path) -> None:
        self.ca_file, key = certificate(folder, "catalogue.test")
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(self.ca_file, key)
        self.names = list[str | None]()
        self.context.sni_callback = lambda _, name, __: self.names.append(name)


@pytest.fixture
def tls(tmp_path: Path) -> Iterator[Tls]:
    yield Tls(tmp_path)
    tls_context.cache_clear()


async def test_name_of_the_certificate_is_that_of_the_base_url(opener: Open, tls: Tls) -> None:
    heads = list[bytes]()
    options = {"base_url": "https://catalogue.test", "ca_file": str(tls.ca_file)}
    async with scripted(responding(heads=heads), tls.context) as server, using(opener, server, **options) as sender:
        assert [await sender.body(), await sender.body()] == [b"ok", b"ok"]
        assert server.connections == 1
    assert tls.names == ["catalogue.test"]
    assert fields_of(heads[0])["host"] == "catalogue.test"


@pytest.mark.parametrize(
    ("base_url", "trusts"),
    [("https://other.test", True), ("https://catalogue.test", False), ("https://127.0.0.1", True)],
)
async def test_wrong_certificate_gets_no_request(opener: Open, tls: Tls, base_url: str, trusts: bool) -> None:
    ca_file = str(tls.ca_file) if trusts else None
    async with (
        scripted(responding(), tls.context) as server,
        using(opener, server, base_url=base_url, ca_file=ca_file) as sender,
    ):
        with pytest.raises(NotSentError, match="certificate"):
            await sender.body()


async def test_server_without_tls_gets_no_request(opener: Open) -> None:
    received = list[bytes]()

    async def script(connection: Connection) -> None:
        received.append(await connection.reader.read(1000))
        await connection.send(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n")

    async with scripted(script) as server, using(opener, server, base_url="https://catalogue.test") as sender:
        with pytest.raises(NotSentError):
            await sender.body()
    assert received[0].startswith(b"\x16\x03")


async def test_cancelled_call_over_tls_closes_its_connection_at_once(opener: Open, tls: Tls) -> None:
    options = {"base_url": "https://catalogue.test", "ca_file": str(tls.ca_file)}
    arrived = asyncio.Event()

    async def script(connection: Connection) -> None:
        await connection.request()
        arrived.set()
        await connection.ended()

    async with scripted(script, tls.context) as server, using(opener, server, **options) as sender:
        call = asyncio.create_task(sender.body())
        await arrived.wait()
        call.cancel()
        await asyncio.wait([call])
        await until(lambda: server.closed == 1)


async def test_clients_with_the_same_ca_file_share_one_context_and_plain_http_needs_none(tls: Tls) -> None:
    tls_context.cache_clear()
    async with open_aiohttp(settings_of()), open_httpx(settings_of()):
        assert tls_context.cache_info().currsize == 0
    secure = settings_of(base_url="https://catalogue.test", ca_file=str(tls.ca_file))
    async with open_aiohttp(secure), open_aiohttp(secure):
        assert tls_context.cache_info().currsize == 1


async def test_ca_file_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "empty.pem").write_text("")
    for name, words in (
        ("missing.pem", "missing.pem' does not exist"),
        ("empty.pem", "empty.pem' has no certificates"),
    ):
        settings = settings_of(base_url="https://catalogue.test", ca_file=str(tmp_path / name))
        with pytest.raises(OSError, match=words):
            async with open_aiohttp(settings):
                pass


# Proxies


async def test_http_goes_through_the_proxy_with_the_url_of_the_base_url(
    opener: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    heads = list[bytes]()
    async with scripted(responding(heads=heads)) as proxy:
        monkeypatch.setenv("http_proxy", f"http://user:word@127.0.0.1:{proxy.address.port}")
        async with opener(settings_of(trust_env=True)) as transport:
            response = await transport.send(OutboundRequest("GET", "/a?b=c", {}), Address("127.0.0.1", 1))
            assert await response.read(LIMIT) == b"ok"
    assert heads[0].startswith((b"GET http://catalogue/a?b=c HTTP/1.1\r\n", b"GET http://catalogue:80/a?b=c HTTP/1.1"))
    assert fields_of(heads[0])["host"] == "catalogue"
    assert fields_of(heads[0])["proxy-authorization"] == "Basic dXNlcjp3b3Jk"


async def test_https_goes_through_a_tunnel_of_the_proxy(
    opener: Open, tls: Tls, monkeypatch: pytest.MonkeyPatch
) -> None:
    heads = list[bytes]()

    async def script(connection: Connection) -> None:
        heads.append(await connection.request())
        await connection.send(b"HTTP/1.1 200 OK\r\n\r\n")
        await connection.writer.start_tls(tls.context)
        heads.append(await connection.request())
        await connection.send(OK)

    async with scripted(script) as proxy:
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{proxy.address.port}")
        settings = settings_of(base_url="https://catalogue.test", ca_file=str(tls.ca_file), trust_env=True)
        async with opener(settings) as transport:
            response = await transport.send(GET, Address("127.0.0.1", 1))
            assert await response.read(LIMIT) == b"ok"
    assert heads[0].startswith(b"CONNECT catalogue.test:443 HTTP/1.1\r\n")
    assert heads[1].startswith(b"GET / HTTP/1.1\r\n")
    assert tls.names == ["catalogue.test"]


async def test_proxy_that_refuses_sent_nothing(opener: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    refused = b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n"
    async with scripted(once(refused)) as proxy:
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{proxy.address.port}")
        async with opener(settings_of(base_url="https://catalogue.test", trust_env=True)) as transport:
            with pytest.raises(NotSentError, match="403"):
                await transport.send(GET, Address("127.0.0.1", 1))


async def test_proxy_is_used_only_where_the_environment_is_trusted(
    opener: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    async with scripted(responding()) as server, using(opener, server) as sender:
        assert await sender.body() == b"ok"
    monkeypatch.setenv("no_proxy", "catalogue")
    async with scripted(responding()) as server, using(opener, server, trust_env=True) as sender:
        assert await sender.body() == b"ok"


def test_proxies_of_other_kinds_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("all_proxy", "socks5://127.0.0.1:1080")
    with pytest.raises(ValueError, match="socks5"):
        Origin.of("http://catalogue").proxy()


@pytest.mark.parametrize(
    ("base_url", "authority", "port"),
    [
        ("http://catalogue", "catalogue", 80),
        ("https://catalogue:443/api", "catalogue", 443),
        ("http://catalogue:8000", "catalogue:8000", 8000),
        ("http://[fd00::7]:8000", "[fd00::7]:8000", 8000),
        ("https://b\u00fccher.example", "xn--bcher-kva.example", 443),
    ],
)
def test_authority_of_a_base_url(base_url: str, authority: str, port: int) -> None:
    origin = Origin.of(base_url)
    assert (origin.authority, origin.port) == (authority, port)


# HTTP/2 and packages


async def test_calls_share_one_connection_of_http2(tls: Tls) -> None:
    scopes = list[dict[str, Any]]()
    together = asyncio.Barrier(3)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            scopes.append(scope)
            await together.wait()
            await send({"type": "http.response.start", "status": 200, "headers": [(b"x-a", b"1")]})
            await send({"type": "http.response.body", "body": b"ok"})

    with socket.create_server(("127.0.0.1", 0)) as listening:
        address = Address(*listening.getsockname())
        config = Config()
        config.bind = [f"fd://{os.dup(listening.fileno())}"]
        config.certfile, config.keyfile = str(tls.ca_file), str(tls.ca_file.with_suffix(".key"))
        end = asyncio.Event()
        serving = asyncio.create_task(serve_http2(app, config, shutdown_trigger=end.wait))
        options = {"base_url": "https://catalogue.test", "ca_file": str(tls.ca_file), "http2": True}
        async with open_httpx(settings_of(**options)) as transport:
            sender = Sender(transport, address)
            bodies = await asyncio.gather(*(sender.body(OutboundRequest("GET", "/a%2Fb?c", {})) for _ in range(3)))
        end.set()
        await serving
    assert bodies == [b"ok"] * 3
    assert {scope["http_version"] for scope in scopes} == {"2"}
    assert len({scope["client"] for scope in scopes}) == 1
    assert {(scope["raw_path"], scope["query_string"]) for scope in scopes} == {(b"/a%2Fb", b"c")}


OPENS_HTTP2 = """
import asyncio
from chassis.client import ClientSettings
from chassis.client.httpx_transport import open_transport
asyncio.run(open_transport(ClientSettings(base_url="https://a", http2=True)).__aenter__())
"""


@pytest.mark.parametrize(
    ("package", "code", "sentence"),
    [
        ("aiohttp", "import chassis.client.aiohttp_transport", "depend on asgi-chassis[client] in pyproject.toml"),
        (
            "h2",
            OPENS_HTTP2,
            "depend on httpx[http2] in pyproject.toml",
        ),
    ],
)
def test_missing_package_is_one_sentence(package: str, code: str, sentence: str) -> None:
    hide = f"import sys\nsys.modules[{package!r}] = None\nimport chassis.client\n"
    done = subprocess.run([sys.executable, "-c", hide + code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].endswith(f"needs {package}, which is not installed; {sentence}")
