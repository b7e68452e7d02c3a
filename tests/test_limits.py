"""What a client may take of a running service: each limit is a setting, and each has its problem document."""

import re
import socket
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from bakery import add_handler
from conftest import Bake, Start
from running import PATIENCE_SECONDS, Service, running

GIGABYTE = 10**9
HEAD = b"GET /orders HTTP/1.1\r\nhost: x\r\n"
POST = b"POST /orders HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"

COUNT = '''"""A body that is as large as it likes."""

from starlette.requests import Request

from ..chassis import Handler


class Count(Handler):
    """Keeps nothing of what it is sent."""

    async def post(self, request: Request) -> int:
        """Tell how much it was."""
        size = 0
        async for part in request.stream():
            size += len(part)
        return size
'''


def tell(service: Service, sent: bytes) -> bytes:
    """Send, and return what comes until the service closes."""
    with socket.create_connection(("127.0.0.1", service.port), PATIENCE_SECONDS) as client:
        client.sendall(sent)
        return b"".join(iter(lambda: client.recv(65536), b""))


@pytest.mark.parametrize(
    ("setting", "value", "sent", "status"),
    [
        ("APP_MAX_TARGET_BYTES", "100", b"GET /orders?" + b"x" * 100 + b" HTTP/1.1\r\nhost: x\r\n\r\n", 414),
        ("APP_MAX_HEAD_BYTES", "1000", HEAD + b"x: " + b"y" * 1000 + b"\r\n\r\n", 431),
        ("APP_HEAD_SECONDS", "0.2", HEAD, 408),
        ("APP_BODY_SECONDS", "0.2", POST + b"content-length: 10\r\n\r\nabc", 408),
        ("APP_MAX_BODY_BYTES", "10", POST + b"content-length: 11\r\n\r\n", 413),
        ("APP_MAX_BODY_BYTES", "10", POST + b"content-length: 11\r\nexpect: 100-continue\r\n\r\n", 413),
        ("APP_MAX_BODY_BYTES", "10", POST + b"transfer-encoding: chunked\r\n\r\nb\r\n[1,1,1,1,1]\r\n0\r\n\r\n", 413),
    ],
)
def test_limit_is_a_setting_with_a_problem_document(
    start: Start, installed: Path, setting: str, value: str, sent: bytes, status: int
) -> None:
    service = start(installed, **{setting: value}).ready()

    answer = tell(service, sent)

    assert re.findall(rb"HTTP/1.1 (\d+) ", answer) == [b"%d" % status]
    assert b"content-type: application/problem+json" in answer
    assert b"connection: close" in answer
    assert service.event("request")["status"] == status
    assert service.metric("http_server_request_duration_seconds_count", http_response_status_code=str(status)) == 1


def test_connections_have_a_limit(start: Start, installed: Path) -> None:
    service = start(installed, APP_MAX_CONNECTIONS="5", APP_ADMIN_PORT="0").ready()

    with ExitStack() as held:
        for _ in range(5):
            held.enter_context(socket.create_connection(("127.0.0.1", service.port)))
        answer = tell(service, b"")
        assert service.admin.get("/healthz").status_code == 200

    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b"retry-after: 1" in answer


def resident_bytes(service: Service, field: str) -> int:
    status = Path(f"/proc/{service.process.pid}/status").read_text()
    return int(status.partition(f"{field}:")[2].split()[0]) * 1024


@pytest.fixture
def counting(bake: Bake, start: Start) -> Service:
    project = bake()
    add_handler(project, "count", COUNT, "from .handlers.count import Count", 'Route("/count", Count()),')
    return start(project, APP_MAX_BODY_BYTES=str(GIGABYTE)).ready()


@pytest.mark.parametrize("declared", [True, False])
def test_memory_stays_flat_while_a_gigabyte_comes(counting: Service, declared: bool) -> None:
    def body(size: int) -> Iterator[bytes]:
        chunk = b"x" * 1_000_000
        for _ in range(size // len(chunk)):
            yield chunk

    def upload(size: int) -> int:
        headers = {"content-length": str(size)} if declared else {}
        answer = counting.http.post("/count", content=body(size), headers=headers, timeout=60)
        assert answer.status_code == 200, answer.text
        return int(answer.text)

    assert upload(GIGABYTE // 100) == GIGABYTE // 100
    before = resident_bytes(counting, "VmRSS")

    assert upload(GIGABYTE) == GIGABYTE

    most = resident_bytes(counting, "VmHWM")
    print(f"{before / 1e6:.1f} MB before, {most / 1e6:.1f} MB at most")
    assert most - before < 10_000_000


LIMITED = """#!/bin/sh
ulimit -S -n {soft}
ulimit -H -n {hard}
exec "{python}" "$@"
"""


def limited(folder: Path, python: Path, soft: int, hard: int) -> Path:
    """A Python whose limits of open files are these."""
    script = folder / "python"
    script.write_text(LIMITED.format(soft=soft, hard=hard, python=python))
    script.chmod(0o755)
    return script


def test_limit_of_open_files_is_raised_to_what_connections_need(installed: Path, python: Path, tmp_path: Path) -> None:
    with running(limited(tmp_path, python, 64, 4096), installed, tmp_path, APP_MAX_CONNECTIONS="1000") as service:
        service.ready()
        assert re.search(r"Max open files\s+1128\s+4096", Path(f"/proc/{service.process.pid}/limits").read_text())
        with ExitStack() as stack:
            clients = [stack.enter_context(connect(service.port)) for _ in range(300)]
            assert {answer_to(client) for client in clients} == {200}


def test_connections_leave_files_for_everything_else(installed: Path, python: Path, tmp_path: Path) -> None:
    with running(limited(tmp_path, python, 256, 256), installed, tmp_path, APP_ADMIN_PORT="0") as service:
        service.ready()
        assert service.event("fewer connections than allowed")["max_connections"] == 128
        with ExitStack() as stack:
            clients = [stack.enter_context(connect(service.port)) for _ in range(300)]
            answers = [answer_to(client) for client in clients]
            # The others are closed without a word, so that files are left.
            assert (answers.count(200), answers.count(503), answers.count(0)) == (128, 50, 122)
            assert {service.admin.get(path).status_code for path in ("/healthz", "/readyz", "/metrics")} == {200}


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), PATIENCE_SECONDS)


def answer_to(client: socket.socket) -> int:
    with suppress(ConnectionError):  # it may have been answered and closed before it asks
        client.sendall(HEAD + b"\r\n")
        return int(client.recv(65536)[9:12] or 0)
    return 0
