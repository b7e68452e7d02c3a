"""Requests that are valid in an unusual way, and the statuses of those that are not (RFC 9112)."""

import asyncio

import pytest
from starlette.routing import Mount
from starlette.types import Message, Receive, Scope, Send

from .support.listener import listening
from .support.service import exchange, serve

LAST = b"GET /last HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"


class Recording:
    """An ASGI application that keeps the scopes and the bodies that it gets."""

    def __init__(self) -> None:
        self.scopes: list[Scope] = []
        self.bodies: list[bytes] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body, message = b"", await receive()
        while message["type"] == "http.request":
            body += message["body"]
            if not message["more_body"]:
                break
            message = await receive()
        self.scopes.append(scope)
        self.bodies.append(body)
        await send({"type": "http.response.start", "status": 204})
        await send({"type": "http.response.body"})


async def asked(sent: bytes) -> tuple[bytes, Recording]:
    """The response to these bytes, and what the application got."""
    app = Recording()
    async with listening(app) as listener:
        return await exchange(listener.port, sent), app


@pytest.mark.parametrize("space", [b" ", b"\t", b" \t \t"])
@pytest.mark.parametrize(
    ("method", "fields", "content"),
    [
        (b"GET", b"Host: x%b\r\nX-Some: a b%b\r\n", b""),
        (b"POST", b"Host:%bx%b\r\nTransfer-Encoding: chunked%b\r\n", b"5\r\nhel\tl\r\n0\r\n\r\n"),
        (b"POST", b"Transfer-Encoding:%bChunked%b\r\nHost: x\r\n", b"5\r\nhel\tl\r\n0\r\n\r\n"),
        (b"POST", b"Host: x%b\r\nContent-Length: 5%b\r\n", b"hel\tl"),
    ],
)
async def test_white_space_around_a_value_is_no_part_of_it(
    method: bytes, fields: bytes, content: bytes, space: bytes
) -> None:
    response, app = await asked(b"%b / HTTP/1.1\r\n%b\r\n%b" % (method, fields.replace(b"%b", space), content) + LAST)
    assert response.count(b"HTTP/1.1 204 ") == 2
    assert all(value == value.strip() for _, value in app.scopes[0]["headers"])
    assert app.bodies[0] == (b"hel\tl" if content else b"")


@pytest.mark.parametrize("space", [b" ", b"\t"])
async def test_white_space_behind_close_closes(space: bytes) -> None:
    response, _ = await asked(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close%b\r\n\r\n" % space)
    assert b"connection: close" in response


@pytest.mark.parametrize("space", [b" ", b"\t"])
async def test_white_space_behind_an_expectation_gets_100(space: bytes) -> None:
    async with listening(Recording()) as listener:
        reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
        writer.write(b"POST / HTTP/1.1\r\nhost: x\r\nexpect: 100-continue%b\r\ncontent-length: 2\r\n\r\n" % space)
        assert await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5) == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.close()


@pytest.mark.parametrize("line", [b"Transfer-Encoding: chunked\r\n \t\r\n", b"Transfer-Encoding: chunked\t\tx\r\n"])
async def test_white_space_elsewhere_is_still_400(line: bytes) -> None:
    response, app = await asked(b"POST / HTTP/1.1\r\nHost: x\r\n%b\r\n0\r\n\r\n" % line)
    assert response.startswith(b"HTTP/1.1 400 ")
    assert not app.scopes


@pytest.mark.parametrize(
    ("target", "authority"),
    [(b"http://real.example:81/a?b", b"real.example:81"), (b"HTTPS://real.example", b"real.example")],
)
@pytest.mark.parametrize("host", [b"host: other\r\n", b"host:\r\n"])
async def test_authority_of_the_target_replaces_the_host(target: bytes, authority: bytes, host: bytes) -> None:
    response, app = await asked(b"GET %b HTTP/1.1\r\nx: y\r\n%b\r\n" % (target, host) + LAST)
    assert response.count(b"HTTP/1.1 204 ") == 2
    assert app.scopes[0]["headers"] == [(b"host", authority), (b"x", b"y")]
    assert app.scopes[1]["headers"][0] == (b"host", b"x")


@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/1.1\r\nhost:\r\n",
        b"GET / HTTP/1.1\r\nhost: \t\r\n",
        b"GET / HTTP/1.1\r\nhost: :80\r\n",
        b"GET http:///a HTTP/1.1\r\nhost: x\r\n",
        b"GET http://user@x/a HTTP/1.1\r\nhost: x\r\n",
        b"GET http://x/a HTTP/1.1\r\n",
        b"GET http://x/a HTTP/1.1\r\nhost: x\r\nhost: x\r\n",
        b"GET http://x/ HTTP/1.1\r\nhost:\r\n\r\nGET / HTTP/1.1\r\nhost:\r\n",
    ],
)
async def test_missing_or_invalid_authority_is_400(head: bytes) -> None:
    response, _ = await asked(head + b"\r\n")
    assert b"HTTP/1.1 400 " in response


@pytest.mark.parametrize("method", [b"BREW", b"get", b"GETX", b"X-Y_Z", b"DESCRIBE"])
@pytest.mark.parametrize("before", [b"", b"\r\n", b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"])
async def test_unknown_method_is_501(method: bytes, before: bytes) -> None:
    async with serve(Mount("/", Recording())) as service:
        response = await exchange(service.server.port, before + method + b" /tea?x HTTP/1.1\r\nhost: x\r\n\r\n")
        head = response[response.rindex(b"HTTP/1.1 ") :]
        assert head.startswith(b"HTTP/1.1 501 Not Implemented\r\n")
        assert b"application/problem+json" in head
        line = (await service.access_lines(2 if before.strip() else 1))[-1]
        assert (line["method"], line["path"], line["status"]) == (method.decode(), "/tea", 501)


@pytest.mark.parametrize("line", [b"\x16\x03\x01\x02", b"BREW\r\n", b"B(EW / HTTP/1.1\r\n", b"BREW / HTTP/2.0\r\n"])
async def test_what_is_no_request_line_is_400(line: bytes) -> None:
    response, _ = await asked(line + b"\r\n\r\n")
    assert response.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 505 "))


async def test_options_about_the_server_get_a_response() -> None:
    async with serve() as service:
        response = await exchange(service.server.port, b"OPTIONS * HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        assert response.startswith(b"HTTP/1.1 204 No Content\r\n")
        assert b"\r\nallow: GET, " in response


async def test_every_pipelined_request_of_a_large_segment_gets_a_response() -> None:
    request = b"POST /%d HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\n\r\nabc"
    sent = b"".join(request % number for number in range(3000))
    response, app = await asked(sent + LAST)
    assert response.count(b"HTTP/1.1 204 ") == 3001
    assert [scope["path"] for scope in app.scopes[:3000]] == [f"/{number}" for number in range(3000)]
    assert set(app.bodies[:3000]) == {b"abc"}


async def test_large_body_in_pieces_is_complete_and_followed_by_the_next_request() -> None:
    content = bytes(range(256)) * 4000
    response, app = await asked(
        b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(content) + content + LAST
    )
    assert response.count(b"HTTP/1.1 204 ") == 2
    assert app.bodies == [content, b""]


# Fields that the chassis adds.


class Owner:
    """An ASGI application that sends these headers."""

    def __init__(self, *headers: tuple[bytes, bytes]) -> None:
        self.headers = headers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        start: Message = {
            "type": "http.response.start",
            "status": 200,
            "headers": iter([list(h) for h in self.headers]),
        }
        await send(start)
        await send({"type": "http.response.body", "body": b"ok"})


@pytest.mark.parametrize(
    "name",
    [
        b"Date",
        b"X-Request-ID",
        b"Cache-Control",
        b"Content-Security-Policy",
        b"X-FRAME-OPTIONS",
        b"x-content-type-options",
    ],
)
async def test_header_of_the_application_is_the_only_one_of_its_name(name: bytes) -> None:
    async with serve(Mount("/", Owner((name, b"mine"), (b"Content-Length", b"2")))) as service:
        response = await service.client.get("/x")
        assert response.headers.get_list(name.decode()) == ["mine"]
        assert response.headers.get_list("content-length") == ["2"]
        assert len(response.headers.get_list("referrer-policy")) == 1


async def test_access_line_has_the_request_id_that_the_client_sees() -> None:
    async with serve(Mount("/", Owner((b"X-Request-ID", b"mine")))) as service:
        response = await service.client.get("/x", headers={"x-request-id": "theirs"})
        assert response.headers.get_list("x-request-id") == ["mine"]
        assert (await service.access_line())["request_id"] == "mine"


async def test_problem_with_headers_of_its_own_has_one_of_each() -> None:
    from starlette.exceptions import HTTPException

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise HTTPException(409, "no", {"Content-Type": "text/x", "Content-Length": "1", "Cache-Control": "private"})

    async with serve(Mount("/", app)) as service:
        response = await service.client.get("/x")
        assert response.headers.get_list("content-type") == ["text/x"]
        assert response.headers.get_list("content-length") == [str(len(response.content))]
        assert response.headers.get_list("cache-control") == ["private"]
