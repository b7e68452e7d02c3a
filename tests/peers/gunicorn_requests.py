"""The requests of gunicorn's own tests, each sent to our server. Run by test_gunicorn.py, in gunicorn's folder."""

import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from anyio.from_thread import start_blocking_portal
from gunicorn.http.errors import ParseException
from starlette.types import Receive, Scope, Send
from tests.treq import badrequest, load_py, request

from peer_servers import serving

REQUESTS = Path("tests/requests")
RECEIVED: list[dict[str, Any]] = []
SECONDS = 5.0
WITHOUT_HOST = re.compile(rb"( HTTP/1\.1\r\n)(?!(?:[^\r\n]+\r\n)*host[ \t]*:)", re.IGNORECASE)


def cases(kind: str) -> list[str]:
    """The names of the cases that set no option of gunicorn's."""
    files = (REQUESTS / kind).glob("*.py")
    return sorted(file.stem for file in files if not re.search(r"^cfg\.set\(", file.read_text(), re.MULTILINE))


async def keep(scope: Scope, receive: Receive, send: Send) -> None:
    """Keep what has been parsed."""
    body = b""
    more_body = True
    while more_body:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        body += message["body"]
        more_body = message["more_body"]
    RECEIVED.append({**scope, "body": body})
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body"})


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """The port of the server."""
    with start_blocking_portal("asyncio") as portal, portal.wrap_async_context_manager(serving("protocol", keep)) as it:
        yield it


def exchange(port: int, data: bytes) -> bytes:
    """Send `data` and nothing more, and return all that comes."""
    RECEIVED.clear()
    received = b""
    with socket.create_connection(("127.0.0.1", port), timeout=SECONDS) as connection:
        # HTTP/1.1 asks for a Host, and most of these requests have none.
        connection.sendall(WITHOUT_HOST.sub(rb"\1Host: added\r\n", data))
        connection.shutdown(socket.SHUT_WR)
        try:
            while piece := connection.recv(65_536):
                received += piece
        except ConnectionResetError:
            pass
    return received


@pytest.mark.parametrize("name", cases("valid"))
def test_valid(name: str, port: int) -> None:
    file = REQUESTS / "valid" / name
    case = request(f"{file}.http", load_py(f"{file}.py")["request"])
    exchange(port, case.data)
    expected = [
        (
            *(one["method"], one["uri"]["path"], one["uri"]["query"]),
            *(one["version"], one["headers"], one["body"]),
        )
        for one in case.expect
    ]
    assert expected == [
        (
            *(scope["method"], scope["raw_path"].decode("latin-1"), scope["query_string"].decode("latin-1")),
            tuple(map(int, scope["http_version"].split("."))),
            [
                (name.decode("latin-1").upper(), value.decode("latin-1"))
                for name, value in scope["headers"]
                if value != b"added"
            ],
            scope["body"],
        )
        for scope in RECEIVED
    ]


@pytest.mark.parametrize("name", cases("invalid"))
def test_invalid(name: str, port: int) -> None:
    file = REQUESTS / "invalid" / name
    case = badrequest(f"{file}.http")
    assert issubclass(load_py(f"{file}.py")["request"], (ParseException, IOError))
    statuses = re.findall(rb"^HTTP/1\.1 (\d)", exchange(port, case.data), re.MULTILINE)
    assert all(status in b"45" for status in statuses)
