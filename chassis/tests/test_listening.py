"""Addresses to listen on: IPv6 and IPv4, names, Unix sockets; and how clients on them are called."""

import asyncio
import errno
import socket
import stat
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.requests import Request

from chassis import ChassisSettings, Handler, Route, Server, load_settings
from chassis.http.addresses import plain_host
from chassis.http.binding import address_of, bind_tcp, bind_unix
from chassis.http.errors import ListenError
from chassis.http.forwarded import ForwardedMiddleware
from chassis.testing import serve as serve_for_tests

from .support.application import make_app
from .support.process import PROGRAM, run
from .support.service import NO_TLS, Service, exchange, observed, serve, until

needs_ipv6 = pytest.mark.skipif(not socket.has_ipv6, reason="this machine has no IPv6")


class Seen(Handler):
    """Tells what the application knows of its client."""

    async def get(self, request: Request) -> list[object]:
        return [list(request.scope["client"] or ()), request.url.scheme]


SEEN = Route("/seen", Seen())


@pytest.fixture
def sockets() -> Iterator[Path]:
    """A folder with a short path, because that of a Unix socket has at most 107 bytes."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


@asynccontextmanager
async def serve_unix(path: Path, *routes: Route, **app: Any) -> AsyncIterator[tuple[Service, httpx.AsyncClient]]:
    """A service on a Unix socket, and a client of it."""
    with observed() as seen:
        made = make_app(seen.telemetry, *routes, unix_socket=str(path), **app)
        server = Server(made)
        serving = asyncio.create_task(server.serve())
        await until(lambda: serving.done() or seen.events("ready"))
        if serving.done():
            await serving
        transport = httpx.AsyncHTTPTransport(uds=str(path), verify=NO_TLS)
        try:
            async with httpx.AsyncClient(base_url="http://service", transport=transport, verify=NO_TLS) as client:
                yield Service(made, server, client, seen), client
        finally:
            server.stop()
            await serving


# IPv6 and IPv4.


@needs_ipv6
@pytest.mark.parametrize("host", ["::", "[::]", "0.0.0.0,::", "127.0.0.1, [::1]", "localhost,127.0.0.1,::1"])
async def test_host_may_be_both_families_on_both_ports(host: str) -> None:
    async with serve(SEEN, host=host, admin_port=0) as service:
        for address in ("127.0.0.1", "[::1]"):
            response = await service.client.get(f"http://{address}:{service.server.port}/seen")
            assert response.json()[0][0] == address.strip("[]")
            admin = await service.client.get(f"http://{address}:{service.server.admin_port}/readyz")
            assert admin.status_code == 200
        assert [line["client"] for line in await service.access_lines(2)] == ["127.0.0.1", "::1"]


def test_default_is_every_address() -> None:
    assert ChassisSettings.from_values().host == "::"


@needs_ipv6
async def test_ipv6_alone_is_not_ipv4() -> None:
    async with serve(host="::1") as service:
        with pytest.raises(httpx.ConnectError):
            await service.client.get(f"http://127.0.0.1:{service.server.port}/readyz")


def without_ipv6(family: int, kind: int) -> socket.socket:
    """A socket on a machine whose kernel has no IPv6."""
    if family == socket.AF_INET6:
        raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")
    return socket.socket(family, kind)


@pytest.mark.parametrize("host", ["::", "0.0.0.0,::", "localhost,127.0.0.1,::1"])
def test_without_ipv6_only_ipv4_is_listened_on(host: str) -> None:
    (sock,) = bind_tcp(host, 0, without_ipv6)
    with sock:
        assert sock.family == socket.AF_INET


def test_ipv6_address_without_ipv6_is_an_error() -> None:
    with pytest.raises(ListenError, match=r"\[::1\]:8000: Address family not supported"):
        bind_tcp("::1", 8000, without_ipv6)


@pytest.mark.parametrize(
    ("host", "message"),
    [
        ("no.such.host.invalid", "no.such.host.invalid: "),
        ("192.0.2.1", r"192\.0\.2\.1:0: Cannot assign"),
        ("[::1", r"\[::1: "),
        ("127.0.0.1,192.0.2.1", r"192\.0\.2\.1:"),
        ("x" * 300, "x: "),
        ("a..b", "a..b: "),
    ],
)
def test_address_that_cannot_be_listened_on_is_one_line(host: str, message: str) -> None:
    with pytest.raises(ListenError, match=message) as caught:
        bind_tcp(host, 0)
    assert "\n" not in str(caught.value)


@needs_ipv6
def test_scope_of_a_link_local_address_is_used() -> None:
    with pytest.raises(ListenError, match=r"fe80::1%lo.*Cannot assign"):
        bind_tcp("fe80::1%lo", 0)


def test_address_is_bound_once() -> None:
    (sock,) = bind_tcp("127.0.0.1,127.0.0.1", 0)
    sock.close()


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("::", "http://127.0.0.1:"),
        ("0.0.0.0", "http://127.0.0.1:"),  # noqa: S104 - every address is what is tested
        ("::1", "http://[::1]:"),
    ],
)
def test_address_that_is_shown_works_from_this_machine(host: str, url: str) -> None:
    for sock in bind_tcp(host, 0):
        with sock:
            assert address_of(sock) == f"{url}{sock.getsockname()[1]}"


@needs_ipv6
async def test_line_shows_addresses_of_both_ports() -> None:
    async with serve(host="127.0.0.1,::1", admin_port=0) as service:
        (line,) = service.seen.events("listening")
        for url in line["addresses"]:
            assert (await service.client.get(f"{url}/docs")).status_code in (200, 404)
        assert len(line["addresses"]) == 4


# Names of clients.


def test_ipv4_client_of_a_socket_for_both_has_its_own_form() -> None:
    assert plain_host("::ffff:192.0.2.1") == "192.0.2.1"
    assert plain_host("::ffff:1") == "::ffff:1"
    assert plain_host("2001:db8::1") == "2001:db8::1"


async def client_behind(peer: str, proxies: tuple[str, ...], **headers: str) -> object:
    """The client that an application sees behind `peer`."""
    seen = []

    async def app(scope: dict[str, object], _receive: object, _send: object) -> None:
        seen.append((scope["client"], scope["scheme"]))

    pairs = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    scope = {"type": "http", "client": (peer, 1) if peer else None, "scheme": "http", "headers": pairs}
    await ForwardedMiddleware(app, proxies)(scope, None, None)  # type: ignore[arg-type]
    return seen[0]


@pytest.mark.parametrize(
    ("proxies", "forwarded", "client"),
    [
        ("10.0.0.0/8", "192.0.2.7", "192.0.2.7"),
        ("10.0.0.0/8", "6.6.6.6, 192.0.2.7, 10.0.0.2", "192.0.2.7"),
        ("10.0.0.0/8", "6.6.6.6, ::ffff:192.0.2.7, ::ffff:10.0.0.2", "192.0.2.7"),
        ("::ffff:10.0.0.0/104", "192.0.2.7", "192.0.2.7"),
        ("10.0.0.0/8", "192.0.2.7:4711", "192.0.2.7"),
        ("10.0.0.0/8,2001:db8::/32", "[2001:db9::1]:4711, 2001:db8::2", "2001:db9::1"),
        ("10.0.0.0/8", "10.0.0.3, 10.0.0.2", "10.0.0.3"),
        ("10.0.0.0/8", "6.6.6.6, unknown, 10.0.0.2", "10.0.0.2"),
        ("10.0.0.0/8", "unknown", "10.0.0.1"),
        ("10.0.0.0/8", "", "10.0.0.1"),
        ("10.0.0.1", "192.0.2.7", "192.0.2.7"),
        ("10.0.0.9", "192.0.2.7", "10.0.0.1"),
        ("*", "192.0.2.7, 192.0.2.8", "192.0.2.7"),
    ],
)
async def test_client_is_the_last_address_that_is_no_trusted_proxy(proxies: str, forwarded: str, client: str) -> None:
    found = await client_behind("10.0.0.1", tuple(proxies.split(",")), x_forwarded_for=forwarded)
    assert found[0][0] == client  # type: ignore[index]


@pytest.mark.parametrize(("proto", "scheme"), [("https", "https"), ("HTTPS", "https"), ("gopher", "http")])
async def test_scheme_is_that_of_the_proxy(proto: str, scheme: str) -> None:
    assert await client_behind("10.0.0.1", ("*",), x_forwarded_proto=proto) == (("10.0.0.1", 1), scheme)


@needs_ipv6
async def test_ipv4_proxy_is_trusted_on_a_socket_for_both() -> None:
    async with serve(SEEN, host="::", trusted_proxies="127.0.0.0/8") as service:
        response = await service.client.get("/seen", headers={"x-forwarded-for": "192.0.2.7"})
        assert response.json()[0][0] == "192.0.2.7"
        assert (await service.access_line())["client"] == "192.0.2.7"


@pytest.mark.parametrize(("prefix", "url"), [("/shop", "/shop"), ("/a/b/", "/a/b"), ("//evil", None), ("/a b", None)])
async def test_prefix_of_a_trusted_proxy_is_in_the_document_of_the_api(prefix: str, url: str | None) -> None:
    async with serve(SEEN, trusted_proxies="127.0.0.1") as service:
        headers = {"x-forwarded-prefix": prefix}
        assert (await service.client.get("/seen", headers=headers)).status_code == 200
        document = (await service.client.get("/openapi.json", headers=headers)).json()
    assert document.get("servers") == (None if url is None else [{"url": url}])


async def test_prefix_of_another_peer_is_not_believed() -> None:
    async with serve(SEEN) as service:
        document = (await service.client.get("/openapi.json", headers={"x-forwarded-prefix": "/shop"})).json()
    assert "servers" not in document


async def test_rejected_request_has_the_client_behind_the_proxy() -> None:
    async with serve(trusted_proxies="127.0.0.1") as service:
        head = b"GET / HTTP/1.1\r\nhost: x\r\nx-forwarded-for: 192.0.2.7\r\nhost: y\r\n\r\n"
        assert (await exchange(service.server.port, head)).startswith(b"HTTP/1.1 400 ")
        assert (await service.access_line())["client"] == "192.0.2.7"


@pytest.mark.parametrize("value", ["proxy.local", "10.0.0.0/33", "10.0.0.1,x"])
def test_proxy_that_is_no_address_is_one_line(
    value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("APP_TRUSTED_PROXIES", value)
    with pytest.raises(SystemExit):
        load_settings(ChassisSettings)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: APP_TRUSTED_PROXIES={value!r}: ")


# Unix sockets.


async def test_unix_socket_serves_and_is_removed_at_the_end(sockets: Path) -> None:
    path = sockets / "app.sock"
    async with serve_unix(path, SEEN) as (service, client):
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
        assert (await client.get("/readyz")).status_code == 200
        assert (await client.get("/seen")).json() == [[], "http"]
        (line,) = service.seen.events("listening")
        assert (line["unix_socket"], line["addresses"]) == (str(path), [f"unix:{path}"])
        assert (await service.access_line())["client"] is None
    assert not path.exists()


async def test_peer_on_a_unix_socket_is_a_trusted_proxy(sockets: Path) -> None:
    async with serve_unix(sockets / "app.sock", SEEN) as (service, client):
        headers = {"x-forwarded-for": "6.6.6.6, 192.0.2.7", "x-forwarded-proto": "https"}
        assert (await client.get("/seen", headers=headers)).json() == [["192.0.2.7", 0], "https"]
        assert (await service.access_line())["client"] == "192.0.2.7"


async def test_admin_port_stays_on_tcp(sockets: Path) -> None:
    async with serve_unix(sockets / "app.sock", admin_port=0) as (service, client):
        assert (await client.get("/readyz")).status_code == 404
        async with httpx.AsyncClient(verify=NO_TLS) as admin:
            response = await admin.get(f"http://127.0.0.1:{service.server.admin_port}/readyz")
        assert response.status_code == 200


async def test_request_on_a_unix_socket_ends_before_the_service(sockets: Path) -> None:
    class Slow(Handler):
        async def get(self) -> str:
            entered.set()
            await released.wait()
            return "at last"

    entered, released = asyncio.Event(), asyncio.Event()
    path = sockets / "app.sock"
    async with serve_unix(path, Route("/", Slow())) as (service, client):
        asked = asyncio.create_task(client.get("/"))
        await entered.wait()
        service.server.stop()
        await until(lambda: not path.exists())
        released.set()
        assert (await asked).json() == "at last"


async def test_unix_socket_that_a_killed_process_left_is_replaced(sockets: Path) -> None:
    path = sockets / "app.sock"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    async with serve_unix(path) as (_, client):
        assert (await client.get("/readyz")).status_code == 200


async def test_unix_socket_in_use_is_an_error(sockets: Path) -> None:
    path = sockets / "app.sock"
    async with serve_unix(path) as (_, client):
        with pytest.raises(ListenError, match="another process listens there"):
            bind_unix(str(path))
        assert (await client.get("/readyz")).status_code == 200


async def test_unix_socket_of_a_successor_is_not_removed(sockets: Path) -> None:
    path = sockets / "app.sock"
    async with serve_unix(path):
        path.unlink()
        successor = bind_unix(str(path))
    assert path.exists()
    successor.close()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere/app.sock", "No such file or directory"),
        ("x" * 200, "AF_UNIX path too long"),
        ("file", "the file exists and is not a socket"),
        ("folder", "the file exists and is not a socket"),
        ("file/app.sock", "Not a directory"),
    ],
)
def test_path_that_cannot_be_used_is_one_line(sockets: Path, name: str, message: str) -> None:
    (sockets / "file").touch()
    (sockets / "folder").mkdir()
    with pytest.raises(ListenError, match=message) as caught:
        bind_unix(str(sockets / name))
    assert str(caught.value).startswith("unix:")
    assert (sockets / "file").is_file()


def test_folder_without_permission_is_one_line(sockets: Path, ordinary_user: Callable[..., None]) -> None:
    sockets.chmod(0o500)
    ordinary_user(sockets)
    with pytest.raises(ListenError, match="Permission denied"):
        bind_unix(str(sockets / "app.sock"))


async def test_process_that_cannot_listen_on_its_unix_socket_ends_with_a_line(sockets: Path) -> None:
    async with run("-m", PROGRAM, APP_UNIX_SOCKET=str(sockets / "nowhere/app.sock")) as process:
        line = await process.line("cannot listen")
        status, errors = await process.end()
    assert (status, errors) == (1, "")
    assert line["error"].endswith("No such file or directory")


async def test_server_for_tests_uses_no_unix_socket(sockets: Path) -> None:
    with observed() as seen:
        app = make_app(seen.telemetry, unix_socket=str(sockets / "app.sock"))
        async with serve_for_tests(app) as client:
            assert (await client.get("/readyz")).status_code == 200
