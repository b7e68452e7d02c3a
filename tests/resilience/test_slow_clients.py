"""A thousand clients that are as slow as they can be, and ordinary ones that must not notice."""

import os
import resource
import socket
import statistics
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bakery import add_handler, render
from conftest import Start
from running import PATIENCE_SECONDS, Service, needs

CONNECTIONS = 1000
FEWEST = CONNECTIONS // 2  # that have been there at the same time
REQUESTS = 20  # ordinary ones, at least
PAUSE_SECONDS = 0.05  # between ordinary requests

LARGE = '''"""An answer of many bytes."""

from starlette.responses import Response

from chassis import Handler


class Large(Handler):
    """Takes a reader that takes it."""

    async def get(self) -> Response:
        """More than the kernel takes at once."""
        return Response(b"x" * 262_144)
'''

# slowhttptest's modes. Each client keeps its connection as long as it can. Some send a piece of the headers or a body
# each second. Some ask for one range after the other, or read a few bytes of a response at a time.
MODES = {
    "headers": ["-H", "-i", "1"],
    "body": ["-B", "-i", "1", "-s", "8192"],
    "ranges": ["-R", "-a", "1", "-b", "3000"],
    "reading": ["-X", "-w", "10", "-y", "20", "-n", "1", "-z", "5"],
}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    project = render(tmp_path_factory.mktemp("baked"), {})
    add_handler(project, "large", LARGE, "from .large import Large", 'app.add_route("/large", Large())')
    return project


@pytest.fixture(autouse=True)
def _files() -> Iterator[None]:
    """Files enough for everyone, here, in the service and in slowhttptest."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 4 * CONNECTIONS:
        pytest.skip(f"only {hard} files may be open")
    resource.setrlimit(resource.RLIMIT_NOFILE, (4 * CONNECTIONS, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@contextmanager
def slow_clients(arguments: list[str], url: str) -> Iterator[subprocess.Popen[bytes]]:
    """They come within a second, and stay as long as they can."""
    needs("slowhttptest")
    command = ["slowhttptest", *arguments, "-c", str(CONNECTIONS), "-r", "1000", "-l", "60", "-u", url]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def ask(port: int) -> bytes:
    """The response on a new connection: those that are there must not be the only ones that are served."""
    with socket.create_connection(("127.0.0.1", port), PATIENCE_SECONDS) as connection:
        connection.sendall(b"GET /orders HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        with connection.makefile("rb") as response:
            return response.read()


def ranges(service: Service) -> int:
    """The clients that have asked for ranges. Those are sent at once, so that few of them are there at a time."""
    return sum('"HEAD"' in line for line in service.output)


def connections(service: Service) -> int:
    """The connections that the service holds."""
    return sum(1 for one in sockets_of(service) if one != "0A")  # other than the one that listens


def sockets_of(service: Service) -> Iterator[str]:
    """The state of each TCP socket among the process's files."""
    inodes = set()
    for file in Path(f"/proc/{service.process.pid}/fd").iterdir():
        try:
            inodes.add(os.readlink(file))
        except FileNotFoundError:
            continue
    for line in Path(f"/proc/{service.process.pid}/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if f"socket:[{fields[9]}]" in inodes:
            yield fields[3]


@pytest.mark.parametrize("mode", MODES)
def test_ordinary_requests_are_served_meanwhile_and_slow_ones_are_gone_after(
    start: Start, project: Path, mode: str
) -> None:
    seconds_of = {"APP_HEAD_SECONDS": "2", "APP_BODY_SECONDS": "2", "APP_KEEP_ALIVE_SECONDS": "2"}
    service = start(project, APP_QUEUE_SECONDS="1", **seconds_of).ready()  # a busy machine must not shed requests
    seconds: list[float] = []
    most = 0
    with slow_clients(MODES[mode], f"http://127.0.0.1:{service.port}/{'large' if mode == 'reading' else 'orders'}"):
        until = time.monotonic() + PATIENCE_SECONDS
        # Until they have come and gone, while the slow clients themselves would still stay.
        while (left := connections(service)) or most < FEWEST or len(seconds) < REQUESTS:
            assert time.monotonic() < until, f"{left} connections are left, of {most}"
            most = max(most, ranges(service) if mode == "ranges" else left)
            began = time.monotonic()
            assert ask(service.port).startswith(b"HTTP/1.1 200 ")
            seconds.append(time.monotonic() - began)
            time.sleep(PAUSE_SECONDS)
    print(f"{mode}: {len(seconds)} requests, median {statistics.median(seconds):.4f} s, longest {max(seconds):.4f} s")
    print(f"{most} connections at most")
    assert statistics.median(seconds) < 0.5
    assert service.end() == 0
    service.output.all()
    requests = [event for event in service.events() if event["event"] == "request"]
    assert {event["status"] for event in requests} <= {200, 408}
