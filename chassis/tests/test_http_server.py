"""Classes of the standard library's `http.server` as routes."""

import asyncio
import threading
from collections.abc import AsyncIterator
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import httpx
import pytest

from chassis import HttpServerRoute

from .support.service import SAMPLED, Service, exchange, serve, until

LARGE = 3_000_000


class Legacy(BaseHTTPRequestHandler):
    """A typical class of http.server."""

    began: list[str] = []  # noqa: RUF012 - shared by all requests
    ended: list[BaseException | None] = []  # noqa: RUF012 - shared by all requests

    def do_GET(self) -> None:
        if self.path.startswith("/fail"):
            raise LookupError("before the response")
        if self.path.startswith("/cut"):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"a part")
            raise LookupError("inside the response")
        if self.path.startswith("/nothing"):
            return
        if self.path.startswith("/moved"):
            self.send_response(301)
            self.send_header("Location", "/there")
            self.end_headers()
            return
        if self.path.startswith("/gone"):
            self.send_error(410, "Gone for good", "It was old.")
            return
        content = f"{self.command} {self.path} {self.request_version} {self.headers['X-Asked']}".encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Set-Cookie", "a=1")
        self.send_header("Set-Cookie", "b=2")
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(content)

    do_HEAD = do_GET  # noqa: N815

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(201)
        self.end_headers()  # no length: the end of the connection is the end of the response
        self.wfile.write(f"{len(content)} bytes".encode())

    def do_PUT(self) -> None:
        """Echo, chunk by chunk."""
        self.send_response(200)
        self.end_headers()
        while piece := self.rfile.read1(100_000):
            self.wfile.write(piece)

    def do_DELETE(self) -> None:
        """Write without end."""
        self.send_response(200)
        self.end_headers()
        error: BaseException | None = None
        try:
            while True:
                self.wfile.write(b"x" * 100_000)
        except OSError as raised:
            error = raised
            raise
        finally:
            self.ended.append(error)

    def do_PATCH(self) -> None:
        """Wait for a body that does not arrive."""
        self.began.append(self.path)
        error: BaseException | None = None
        try:
            self.rfile.read(int(self.headers["Content-Length"]))
        except OSError as raised:
            error = raised
            raise
        finally:
            self.ended.append(error)


class Modern(BaseHTTPRequestHandler):
    """Speaks HTTP/1.1, frames its chunks itself, and logs by itself."""

    protocol_version = "HTTP/1.1"
    lines: list[str] = []  # noqa: RUF012 - shared by all requests

    def do_GET(self) -> None:
        self.send_response_only(103)
        self.end_headers()
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for piece in (b"one, ", b"two"):
            self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
        self.wfile.write(b"0\r\n\r\n")

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - as there
        self.lines.append(format % args)


class Hasty(BaseHTTPRequestHandler):
    """Does not read the body, and would keep the connection."""

    protocol_version = "HTTP/1.1"
    seen: list[str] = []  # noqa: RUF012 - shared by all requests

    def do_POST(self) -> None:
        self.seen.append(f"POST {self.path}")
        self.close_connection = False
        if self.path == "/chunks":
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            self.wfile.write(b"2\r\nok\r\n0\r\n\r\n")
        elif self.path == "/part":
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            self.wfile.write(b"2\r\nok\r\n")
        else:
            self.send_response(403)
            self.send_header("Content-Length", "0")
            self.end_headers()

    def do_DELETE(self) -> None:
        self.seen.append(f"DELETE {self.path}")
        self.send_response(204)
        self.end_headers()


class Server(BaseHTTPRequestHandler):
    """Uses its server."""

    def do_GET(self) -> None:
        host, _port = cast("tuple[str, int]", self.server.server_address)
        facts = f"{getattr(self.server, 'label', '')} {self.client_address[0]} {host}"
        self.send_response(200)
        self.end_headers()
        self.wfile.write(facts.encode())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    (folder / "sub").mkdir()
    (folder / "sub/page.html").write_text("<p>page</p>")
    (folder / "large.bin").write_bytes(b"x" * LARGE)
    return folder


@pytest.fixture(scope="module")
async def shared(folder: Path) -> AsyncIterator[Service]:
    routes = [
        HttpServerRoute("/legacy", Legacy),
        HttpServerRoute("/modern", Modern),
        HttpServerRoute("/files", partial(SimpleHTTPRequestHandler, directory=str(folder))),
        HttpServerRoute("/whole", Legacy, full_path=True),
        HttpServerRoute("/server", Server, server=SimpleNamespace(label="s", server_address=("there", 1))),
        HttpServerRoute("/found", Server),
        HttpServerRoute("/hasty", Hasty),
        HttpServerRoute("/t/{tenant}/l", Legacy),
    ]
    async with serve(*routes, max_body_bytes=2 * LARGE) as service:
        yield service


@pytest.fixture
async def service(shared: Service) -> Service:
    Legacy.began.clear()
    Legacy.ended.clear()
    return await shared.fresh()


async def test_unchanged_class_responds_below_its_path(service: Service) -> None:
    response = await service.client.get("/legacy/some/path?q=1%20a", headers={"X-Asked": "yes"})
    assert (response.status_code, response.text) == (200, "GET /some/path?q=1%20a HTTP/1.1 yes")
    assert response.headers.get_list("set-cookie") == ["a=1", "b=2"]
    assert response.headers["server"].startswith("BaseHTTP/")
    line = await service.access_line()
    assert (line["method"], line["route"], line["status"]) == ("GET", "/legacy/{path}", 200)
    assert line["response_bytes"] == len(response.content)


async def test_connection_is_kept_though_the_class_would_close_it(service: Service) -> None:
    request = b"GET /legacy/x HTTP/1.1\r\nHost: x\r\n%b\r\n"
    sent = await exchange(service.server.port, request % b"" + request % b"Connection: close\r\n")
    assert sent.count(b"HTTP/1.1 200 OK") == 2
    assert sent.count(b"connection: close") == 1


@pytest.mark.parametrize("path", ["/chunks", "/length"])
async def test_rest_of_a_body_is_never_a_request(service: Service, path: str) -> None:
    Hasty.seen.clear()
    hidden = b"DELETE /admin/1 HTTP/1.1\r\nHost: x\r\n\r\n"
    await service.client.post(f"/hasty{path}", content=hidden)
    await until(lambda: service.app.threads.in_use == 0)
    assert Hasty.seen == [f"POST {path}"]


async def test_response_without_its_last_chunk_is_cut(service: Service) -> None:
    with pytest.raises(httpx.RemoteProtocolError):
        await service.client.post("/hasty/part")


@pytest.mark.parametrize("path", ["/%6cegacy/a%20b", "/t/a%20b/l/a%20b"])
async def test_path_below_a_route_does_not_depend_on_its_encoding(service: Service, path: str) -> None:
    assert (await service.client.get(path)).text.startswith("GET /a%20b ")


async def test_full_path_option_gives_the_whole_path(service: Service) -> None:
    assert (await service.client.get("/whole/a")).text.startswith("GET /whole/a ")


async def test_location_of_the_class_leads_below_its_path(service: Service) -> None:
    assert (await service.client.get("/legacy/moved")).headers["location"] == "/legacy/there"


async def test_head_has_the_length_and_no_content(service: Service) -> None:
    response = await service.client.head("/legacy/x")
    assert (response.status_code, response.content) == (200, b"")
    assert int(response.headers["content-length"]) > 10


async def test_response_without_a_length_is_complete(service: Service) -> None:
    response = await service.client.post("/legacy/x", content=b"x" * LARGE)
    assert (response.status_code, response.text) == (201, f"{LARGE} bytes")


async def test_class_that_sends_chunks_itself_is_parsed_correctly(service: Service) -> None:
    Modern.lines.clear()
    response = await service.client.get("/modern/")
    assert (response.status_code, response.text) == (200, "one, two")
    assert Modern.lines == ['"GET / HTTP/1.1" 200 -']


async def test_expectation_of_100_is_met_once(service: Service) -> None:
    head = (
        b"POST /modern/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n"
    )
    reader, writer = await asyncio.open_connection("127.0.0.1", service.server.port)
    writer.write(head)
    assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    writer.write(b"abc")
    rest = await reader.read()
    assert rest.startswith(b"HTTP/1.1 200 OK\r\n")
    assert rest.endswith(b"abc")
    writer.close()


async def test_body_and_response_are_streamed_both_ways(service: Service) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", service.server.port)
    writer.write(b"PUT /legacy/echo HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n")
    for piece in (b"first", b"other"):
        writer.write(b"5\r\n" + piece + b"\r\n")
        assert piece in await reader.readuntil(piece)
    writer.write(b"0\r\n\r\n")
    assert await reader.read() == b"\r\n0\r\n\r\n"
    writer.close()


async def test_class_that_writes_without_end_ends_with_its_client(service: Service) -> None:
    async with service.client.stream("DELETE", "/legacy/x") as response:
        assert len(await anext(response.aiter_bytes())) > 0
    await until(lambda: Legacy.ended)
    assert isinstance(Legacy.ended[0], BrokenPipeError | ConnectionResetError)


async def test_class_that_waits_for_a_body_ends_with_its_client(service: Service) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", service.server.port)
    writer.write(b"PATCH /legacy/x HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nabc")
    await until(lambda: Legacy.began)  # the request of a client that disconnects before gets no thread
    writer.close()
    await until(lambda: Legacy.ended)
    assert isinstance(Legacy.ended[0], ConnectionResetError | BrokenPipeError)
    assert (await service.access_line())["status"] == 499
    assert service.seen.events("unhandled exception") == []


async def test_errors_are_as_the_class_writes_them(service: Service) -> None:
    gone = await service.client.get("/legacy/gone")
    assert (gone.status_code, gone.reason_phrase) == (410, "Gone")
    assert "It was old." in gone.text
    assert gone.headers["content-type"] == "text/html;charset=utf-8"
    (line,) = service.seen.events("http.server handler")
    assert (line["level"], line["message"]) == ("warning", "code 410, message Gone for good")
    unsupported = await service.client.options("/legacy/x")
    assert (unsupported.status_code, "Unsupported method" in unsupported.text) == (501, True)


async def test_exception_before_the_response_is_500(service: Service) -> None:
    response = await service.client.get("/legacy/fail")
    assert (response.status_code, response.headers["content-type"]) == (500, "application/problem+json")
    (line,) = service.seen.events("unhandled exception")
    assert "before the response" in line["exception"]


async def test_exception_inside_the_response_cuts_it(service: Service) -> None:
    with pytest.raises(httpx.RemoteProtocolError):
        await service.client.get("/legacy/cut")


async def test_class_that_writes_nothing_is_500(service: Service) -> None:
    assert (await service.client.get("/legacy/nothing")).status_code == 500


async def test_directory_is_served(service: Service) -> None:
    assert (await service.client.get("/files/sub/page.html")).text == "<p>page</p>"
    assert (await service.client.get("/files/large.bin")).content == b"x" * LARGE
    assert "page.html" in (await service.client.get("/files/sub/")).text
    assert (await service.client.get("/files/sub")).headers["location"] == "/files/sub/"
    assert (await service.client.get("/files/none")).status_code == 404
    assert (await service.client.get("/files/%2e%2e/%2e%2e/etc/passwd")).status_code == 404


async def test_server_attribute_is_the_object_of_the_owner(service: Service) -> None:
    assert (await service.client.get("/server/")).text == "s 127.0.0.1 there"
    assert (await service.client.get("/found/")).text == " 127.0.0.1 127.0.0.1"


async def test_request_is_traced(service: Service) -> None:
    await service.client.get("/legacy/x", headers=SAMPLED)
    (span,) = await service.spans()
    assert span.name == "GET /legacy/{path}"


async def test_body_beyond_the_limit_is_413(service: Service) -> None:
    response = await service.client.post("/legacy/x", content=b"x" * (2 * LARGE + 1))
    assert response.status_code == 413


async def test_deadline_ends_a_class_that_waits() -> None:
    class Waiting(BaseHTTPRequestHandler):
        go_on = threading.Event()
        ended: list[BaseException] = []  # noqa: RUF012 - shared by all requests

        def do_GET(self) -> None:
            self.go_on.wait(10)
            self.send_response(200)
            try:
                self.end_headers()
            except OSError as error:
                self.ended.append(error)

    async with serve(HttpServerRoute("/waiting", Waiting), deadline_seconds=0.1, threads=1) as service:
        assert (await service.client.get("/waiting/")).status_code == 504
        Waiting.go_on.set()
        await until(lambda: service.app.threads.in_use == 0)
        assert isinstance(Waiting.ended[0], BrokenPipeError | ConnectionResetError)


async def test_threads_are_those_of_def_handlers() -> None:
    class Waiting(BaseHTTPRequestHandler):
        go_on = threading.Event()

        def do_GET(self) -> None:
            self.go_on.wait(10)
            self.send_response(204)
            self.end_headers()

    async with serve(HttpServerRoute("/waiting", Waiting), threads=1) as service:
        requests = [asyncio.create_task(service.client.get("/waiting/")) for _ in range(3)]
        first, *_ = await asyncio.wait(requests, return_when=asyncio.FIRST_COMPLETED)
        assert {task.result().status_code for task in first} == {503}
        Waiting.go_on.set()
        assert sorted(response.status_code for response in await asyncio.gather(*requests)) == [204, 204, 503]
