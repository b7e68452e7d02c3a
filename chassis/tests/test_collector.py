"""The connection to a collector: kept, encrypted, through proxies."""

import asyncio
import ssl
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from http.client import HTTPException
from pathlib import Path

import pytest

from chassis.telemetry.collector import CollectorConnection

from .support.certificates import certificate
from .support.collector import to_collector
from .support.scripted import Connection, once, responding, scripted

Connect = Callable[..., CollectorConnection]

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"


async def post_once(connection: CollectorConnection) -> tuple[int, str]:
    """Close the connection as well: uvloop waits for it, where it has TLS."""
    try:
        return await post(connection)
    finally:
        connection.close()


async def post(connection: CollectorConnection, body: bytes = b"") -> tuple[int, str]:
    return await asyncio.to_thread(connection.post, body, {"content-type": b"application/x-protobuf"})


@pytest.fixture
def connect() -> Iterator[Connect]:
    """Makes connections, and closes them at the end."""
    with ExitStack() as stack:

        def make(url: str, ca_file: Path | None = None) -> CollectorConnection:
            connection = to_collector(url, ca_file)
            stack.callback(connection.close)
            return connection

        yield make


@pytest.fixture(autouse=True)
def without_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


async def test_connection_is_kept(connect: Connect) -> None:
    heads: list[bytes] = []
    async with scripted(responding(OK, heads)) as server:
        connection = connect(f"http://127.0.0.1:{server.address.port}/v1/traces?tenant=\N{SNOWMAN}")
        assert [await post(connection) for _ in range(3)] == [(200, "")] * 3
        connection.close()
        assert server.connections == 1
    assert heads[0].startswith(b"POST /v1/traces?tenant=%E2%98%83 HTTP/1.1\r\n")
    assert f"\r\nHost: 127.0.0.1:{server.address.port}\r\n".encode() in heads[0]


async def test_connection_that_the_collector_has_closed_is_opened_again(connect: Connect) -> None:
    async with scripted(once(OK)) as server:
        connection = connect(f"http://127.0.0.1:{server.address.port}")
        assert [await post(connection) for _ in range(3)] == [(200, "")] * 3
        assert server.connections == 3


async def test_collector_that_only_closes_connections_is_a_failure(connect: Connect) -> None:
    async def close(connection: Connection) -> None:
        await connection.request()

    async with scripted(close) as server:
        with pytest.raises((OSError, HTTPException)):
            await post_once(connect(f"http://127.0.0.1:{server.address.port}"))


async def test_status_and_retry_after_are_returned(connect: Connect) -> None:
    async with scripted(once(b"HTTP/1.1 503 Busy\r\nretry-after: 7\r\ncontent-length: 0\r\n\r\n")) as server:
        assert await post_once(connect(f"http://127.0.0.1:{server.address.port}")) == (503, "7")


async def test_rest_of_a_long_response_is_not_read(connect: Connect) -> None:
    async with scripted(once(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n", b"x" * 100_000)) as server:
        connection = connect(f"http://127.0.0.1:{server.address.port}")
        assert [await post(connection) for _ in range(2)] == [(200, "")] * 2


async def test_credentials_of_the_url_are_sent(connect: Connect) -> None:
    heads: list[bytes] = []
    async with scripted(responding(OK, heads)) as server:
        await post_once(connect(f"http://ada:a%20b@127.0.0.1:{server.address.port}"))
    assert b"\r\nauthorization: Basic YWRhOmEgYg==\r\n" in heads[0]


async def test_proxy_gets_the_whole_url_and_its_credentials(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    heads: list[bytes] = []
    async with scripted(responding(OK, heads)) as server:
        monkeypatch.setenv("HTTP_PROXY", f"http://ada:secret@127.0.0.1:{server.address.port}")
        assert await post_once(connect("http://collector.invalid:4318/v1/traces")) == (200, "")
    assert heads[0].startswith(b"POST http://collector.invalid:4318/v1/traces HTTP/1.1\r\n")
    assert b"\r\nHost: collector.invalid:4318\r\n" in heads[0]
    assert b"\r\nproxy-authorization: Basic YWRhOnNlY3JldA==\r\n" in heads[0]


async def test_no_proxy_names_hosts_without_one(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    async with scripted(responding(OK)) as server:
        assert await post_once(connect(f"http://127.0.0.1:{server.address.port}")) == (200, "")


@pytest.fixture
def tls(tmp_path: Path) -> tuple[ssl.SSLContext, Path]:
    """The context of a server, and its certificate."""
    trusted, key = certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(trusted, key)
    return context, trusted


async def test_trusted_certificate_is_accepted(connect: Connect, tls: tuple[ssl.SSLContext, Path]) -> None:
    context, trusted = tls
    async with scripted(once(OK), context) as server:
        assert await post_once(connect(f"https://localhost:{server.address.port}", trusted)) == (200, "")


async def test_other_certificates_are_rejected(connect: Connect, tls: tuple[ssl.SSLContext, Path]) -> None:
    async with scripted(responding(OK), tls[0]) as server:
        with pytest.raises(ssl.SSLCertVerificationError):
            await post_once(connect(f"https://localhost:{server.address.port}"))


async def test_tls_goes_through_a_tunnel_of_the_proxy(
    connect: Connect, tls: tuple[ssl.SSLContext, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    context, trusted = tls
    heads: list[bytes] = []

    async def tunnel(connection: Connection) -> None:
        heads.append(await connection.request())
        await connection.send(b"HTTP/1.1 200 Connected\r\n\r\n")
        await connection.writer.start_tls(context)
        heads.append(await connection.request())
        await connection.send(OK)

    async with scripted(tunnel) as server:
        monkeypatch.setenv("HTTPS_PROXY", f"http://ada:secret@127.0.0.1:{server.address.port}")
        assert await post_once(connect("https://localhost:4318/v1/traces", trusted)) == (200, "")
    assert heads[0].startswith(b"CONNECT localhost:4318 HTTP/1.")
    assert b"proxy-authorization: Basic YWRhOnNlY3JldA==\r\n" in heads[0]
    assert heads[1].startswith(b"POST /v1/traces HTTP/1.1\r\n")
    assert b"secret" not in heads[1]


@pytest.mark.parametrize("proxy", ["socks5://127.0.0.1:1", "https://127.0.0.1:1"])
def test_proxy_that_is_not_supported_is_an_error(connect: Connect, proxy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", proxy)
    with pytest.raises(ValueError, match="is not supported"):
        connect("https://collector.invalid")
