"""The memory and the files that clients may make a running service use, as the kernel counts them."""

import re
import socket
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from bakery import add_handler
from conftest import Bake, Start
from running import PATIENCE_SECONDS, Service, running

LARGE_BYTES = 200 * 10**6  # many times as much as the memory that is allowed
HEAD = b"GET /orders HTTP/1.1\r\nhost: x\r\n"

COUNT = '''"""A body that is as large as it likes."""

from starlette.requests import Request

from chassis import Handler


class Count(Handler):
    """Keeps nothing of what it is sent."""

    async def post(self, request: Request) -> int:
        """Tell how much it was."""
        size = 0
        async for part in request.stream():
            size += len(part)
        return size
'''


def resident_bytes(service: Service, field: str) -> int:
    status = Path(f"/proc/{service.process.pid}/status").read_text()
    return int(status.partition(f"{field}:")[2].split()[0]) * 1024


@pytest.fixture
def counting(bake: Bake, start: Start) -> Service:
    project = bake()
    add_handler(project, "count", COUNT, "from .count import Count", 'app.add_route("/count", Count())')
    return start(project, APP_MAX_BODY_BYTES=str(LARGE_BYTES)).ready()


@pytest.mark.parametrize("declared", [True, False])
def test_memory_stays_flat_while_a_large_body_comes(counting: Service, declared: bool) -> None:
    def body(size: int) -> Iterator[bytes]:
        chunk = b"x" * 1_000_000
        for _ in range(size // len(chunk)):
            yield chunk

    def upload(size: int) -> int:
        headers = {"content-length": str(size)} if declared else {}
        answer = counting.http.post("/count", content=body(size), headers=headers, timeout=60)
        assert answer.status_code == 200, answer.text
        return int(answer.text)

    assert upload(LARGE_BYTES // 20) == LARGE_BYTES // 20
    before = resident_bytes(counting, "VmRSS")

    assert upload(LARGE_BYTES) == LARGE_BYTES

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
        assert service.event("max connections reduced to open file limit")["max_connections"] == 128
        with ExitStack() as stack:
            clients = [stack.enter_context(connect(service.port)) for _ in range(300)]
            answers = [answer_to(client) for client in clients]
            # The others are closed without a word, so that files are left.
            assert (answers.count(200), answers.count(503), answers.count(0)) == (128, 50, 122)
            assert {service.admin.get(path).status_code for path in ("/healthz", "/readyz", "/metrics")} == {200}


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), PATIENCE_SECONDS)


def answer_to(client: socket.socket) -> int:
    with suppress(ConnectionError):  # it may have got its response and been closed before it asks
        client.sendall(HEAD + b"\r\n")
        return int(client.recv(65536)[9:12] or 0)
    return 0
