"""Counts the instructions of a request: `python -m benchmarks.instructions`, or `make bench-instructions`.

valgrind counts what the process executes outside of the kernel. Other processes do not change that number, so that a
difference of one percent is visible on a busy machine. The server and its client are in one process and one thread. The
client is some C functions. Its part, and that of the event loop, is the same for all candidates.

    python -m benchmarks.instructions                       # all cases
    python -m benchmarks.instructions ours real_ours        # some
    python -m benchmarks.instructions --python python3.13   # with another Python, which has asgi-chassis and uvicorn
"""

import argparse
import asyncio
import os
import random
import re
import runpy
import select
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from .processes import ALL_CORES, OTHER_CORES, Child

HERE = Path(__file__).parent
ITEM = "/items/1"
WARM_UP, REQUESTS = 800, 1_600
DELIVERY_SECONDS = 0.0005  # for the kernel to pass data on
FEW_HEADERS = "host: localhost:8000\r\n"
CLOSES = f"{FEW_HEADERS}connection: close\r\n"
# The headers of a browser, of a proxy in front of the service and of a tracing caller.
REAL_HEADERS = (
    f"{FEW_HEADERS}user-agent: Mozilla/5.0 (X11; Linux x86_64; rv:144.0) Gecko/20100101 Firefox/144.0\r\n"
    "accept: application/json\r\naccept-encoding: gzip, deflate, br, zstd\r\naccept-language: en-US,en;q=0.5\r\n"
    "x-forwarded-for: 203.0.113.7\r\nx-forwarded-proto: https\r\nx-real-ip: 203.0.113.7\r\n"
    "x-request-id: 0af7651916cd43dd8448eb211c80319c\r\ncookie: theme=dark; session=abcdefghijklmnopqrstuvwxyz0123\r\n"
    "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-{flags}\r\n"
)


@dataclass(frozen=True)
class Case:
    """Requests to the bare function (`bare`) or the service. `batch` of them arrive in each turn of the event loop.

    With `closes`, each is the only request of its connection. Compare it with one at a time: libuv accepts one
    connection in each turn.
    """

    bare: bool
    headers: str = FEW_HEADERS
    sampled: float = 0.01
    batch: int = 16
    closes: bool = False

    def requests(self) -> list[bytes]:
        """One hundred requests, of which the caller samples as many as the service would."""
        flags = ["01" if number < self.sampled * 100 else "00" for number in range(100)]
        return [f"GET {ITEM} HTTP/1.1\r\n{self.headers.format(flags=flag)}\r\n".encode() for flag in flags]


CASES = {
    "bare": Case(bare=True),
    "ours": Case(bare=False),
    "ours_100": Case(bare=False, sampled=1.0),
    "real_bare": Case(bare=True, headers=REAL_HEADERS),
    "real_ours": Case(bare=False, headers=REAL_HEADERS),
    "real_ours_100": Case(bare=False, headers=REAL_HEADERS, sampled=1.0),
    "single_bare": Case(bare=True, batch=1),
    "single_ours": Case(bare=False, batch=1),
    "new_bare": Case(bare=True, headers=CLOSES, batch=1, closes=True),
    "new_ours": Case(bare=False, headers=CLOSES, batch=1, closes=True),
    "kept_bare": Case(bare=True, batch=1, closes=True),
    "kept_ours": Case(bare=False, batch=1, closes=True),
}
YARDSTICKS = {name: re.sub("ours.*", "bare", name) for name in CASES}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.instructions", description=__doc__)
    parser.add_argument("cases", nargs="*", metavar="case", help=f"some of: {', '.join(CASES)}")
    parser.add_argument("--python", default=sys.executable, help="the Python that runs the server")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if unknown := {*arguments.cases} - {*CASES}:
        parser.error(f"there is no case {', '.join(unknown)}")
    if arguments.serve:
        import uvloop

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(serve(CASES[arguments.cases[0]]))
        return
    names = arguments.cases or list(CASES)
    with (
        Child((sys.executable, HERE / "collector.py"), cores=OTHER_CORES, stdout=subprocess.PIPE) as collector,
        ThreadPoolExecutor(len(ALL_CORES)) as threads,
    ):
        assert collector.process.stdout  # noqa: S101 - it is a pipe
        port = int(collector.process.stdout.readline())
        counts = threads.map(lambda name: count(arguments.python, name, port), names)
        found = dict(zip(names, counts, strict=True))
    for name, instructions in found.items():
        yardstick = found.get(YARDSTICKS[name])
        share = "" if yardstick is None else f"{yardstick / instructions:6.2f}"
        print(f"{name:15} {instructions:9,.0f} {share}")


def count(python: str, name: str, collector_port: int) -> float:
    """The instructions of a request of a case."""
    case = CASES[name]
    env = {
        "PYTHONHASHSEED": "0",
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{collector_port}",
        "OTEL_TRACES_SAMPLER": "parentbased_traceidratio",
        "OTEL_TRACES_SAMPLER_ARG": str(case.sampled),
        "OTEL_BSP_MAX_QUEUE_SIZE": "1000000",
        "APP_QUEUE_SECONDS": "60",
        "APP_HOST": "127.0.0.1",
    }
    with TemporaryDirectory() as folder:
        out = Path(folder) / "counts"
        valgrind = ("valgrind", "--tool=callgrind", "--instr-atstart=no", f"--callgrind-out-file={out}", "--quiet")
        command = (*valgrind, python, "-m", "benchmarks.instructions", name, "--serve")
        with (
            open(Path(folder) / "log", "wb") as log,
            Child(command, cores=ALL_CORES, env=env, stdout=log, stderr=subprocess.PIPE) as child,
        ):
            child.output()
        totals = re.search(r"^totals: (\d+)", out.read_text(), re.MULTILINE)
        assert totals  # noqa: S101 - it is the last line of each such file
        return int(totals[1]) / REQUESTS


async def serve(case: Case) -> None:
    """Serve a case, and be its client; only the requests after the warm-up are counted."""
    random.seed(0)
    async with bare() if case.bare else ours() as port:
        client = Client(port, case)
        await client.send(WARM_UP)
        count_instructions("on")
        await client.send(REQUESTS)
        count_instructions("off")
        client.close()


def count_instructions(state: str) -> None:
    """Let valgrind begin or end to count."""
    command = ("vgdb", f"--pid={os.getpid()}", "instrumentation", state)
    subprocess.run(command, check=True, capture_output=True)


@asynccontextmanager
async def bare() -> AsyncIterator[int]:
    """The bare function on uvicorn."""
    import uvicorn

    from .peers import bare_asgi

    config = uvicorn.Config(bare_asgi(), access_log=False, log_config=None, lifespan="off", http="httptools")
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as sock:
        serving = asyncio.create_task(server.serve([sock]))
        while not server.started:  # noqa: ASYNC110 - uvicorn has no event
            await asyncio.sleep(0.01)
        yield sock.getsockname()[1]
        server.should_exit = True
        await serving


@asynccontextmanager
async def ours() -> AsyncIterator[int]:
    """The service of the benchmark."""
    from chassis import ChassisSettings, load_settings
    from chassis.middleware.load_shedder import LoadShedder
    from chassis.server import Server

    app = runpy.run_path(str(HERE / "service/app.py"))["create_app"](load_settings(ChassisSettings))
    # valgrind makes everything slow. With this clock, no request is late and has to wait.
    app.load_shedder = LoadShedder(None, app.telemetry.metrics, clock=lambda: 0.0)
    app.telemetry.install()
    async with Server(app, host="127.0.0.1", port=0) as server:
        await app.tasks.stop(0)  # they run every so often, and valgrind takes long
        yield server.port


class Client:
    """Sends requests in lockstep: as many at a time as a case says, each on a connection of its own."""

    def __init__(self, port: int, case: Case) -> None:
        self._address = ("127.0.0.1", port)
        self._requests = case.requests()
        self._batch = case.batch
        self._closes = case.closes
        self._poll = select.epoll()
        self._by_number: dict[int, socket.socket] = {}
        self._sent = 0

    async def send(self, count: int) -> None:
        """Send so many requests, and receive their responses."""
        for _ in range(count // self._batch):
            if not self._by_number:
                self._connect()
            for sock in self._by_number.values():
                sock.send(self._requests[self._sent % len(self._requests)])
                self._sent += 1
            waiting = self._batch
            while waiting:
                await self._turn()
                for number, _ in self._poll.poll(0):
                    assert self._by_number[number].recv(65536).startswith(b"HTTP/1.1 200 ")  # noqa: S101 - a check
                    waiting -= 1
                    if self._closes:
                        self._by_number.pop(number).close()

    def close(self) -> None:
        """Close the connections."""
        for sock in self._by_number.values():
            sock.close()

    def _connect(self) -> None:
        for _ in range(self._batch):
            sock = socket.socket()
            sock.connect(self._address)  # without a lookup of the name, which is more work than the server's
            self._by_number[sock.fileno()] = sock
            self._poll.register(sock.fileno(), select.EPOLLIN)

    async def _turn(self) -> None:
        await asyncio.sleep(0)
        time.sleep(DELIVERY_SECONDS)  # noqa: ASYNC251 - while the loop waited, it would execute instructions


if __name__ == "__main__":
    main()
