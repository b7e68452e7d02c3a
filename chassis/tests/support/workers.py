"""A service with several workers as processes, and the load of its clients."""

import asyncio
import os
import signal
import sys
from asyncio.subprocess import PIPE
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import httpx
import orjson
from prometheus_client import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from .process import PATIENCE_SECONDS, ROOT, inherited_environment
from .service import Line, connect, until

PROGRAM = f"{__package__}.workers_program"
OPENMETRICS = {"accept": "application/openmetrics-text; version=1.0.0"}
Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


class Pod:
    """The processes of a service: the supervisor, and what it has written."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.lines: list[Line] = []
        self.port = 0
        self.admin: httpx.AsyncClient
        self._reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            self.lines.append(orjson.loads(line))

    def found(self, event: str, **facts: Any) -> list[Line]:
        """The lines so far with this event and these facts; None for one that is missing."""
        return [
            line
            for line in self.lines
            if line["event"] == event and all(line.get(key) == value for key, value in facts.items())
        ]

    async def line(self, event: str, count: int = 1, **facts: Any) -> Line:
        """The last of `count` such lines, as soon as there are so many."""

        def are_there() -> list[Line]:
            assert self.process.returncode is None or not self._reading.done() or self.found(event, **facts), self.lines
            return found if len(found := self.found(event, **facts)) >= count else []

        return (await until(are_there, PATIENCE_SECONDS))[count - 1]

    async def listening(self) -> None:
        """Wait until the ports are open."""
        line = await self.line("listening")
        self.port = line.get("port", 0)
        self.admin = connect(line["admin_port"])

    async def ready(self) -> None:
        """Wait until all workers are ready."""
        await self.listening()
        await self.line("ready")

    async def worker(self, number: int) -> int:
        """The process of the worker in a slot that accepts connections."""
        while True:
            for worker in (await self.admin.get("/info")).json()["workers"]:
                if (worker["worker"], worker["status"]) == (number, "ready"):
                    return int(worker["pid"])
            await asyncio.sleep(0.01)

    async def another_worker(self, number: int, than: int) -> int:
        """The process of another worker in the same slot, as soon as it accepts connections."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while (process := await self.worker(number)) == than:
                await asyncio.sleep(0.01)
        return process

    async def families(self) -> dict[str, Metric]:
        """The metrics by their names; fails if the page is not OpenMetrics."""
        page = await self.admin.get("/metrics", headers=OPENMETRICS)
        families: list[Metric] = [*text_string_to_metric_families(page.text)]  # type: ignore[no-untyped-call]
        return {family.name: family for family in families}

    async def sample(self, name: str, **labels: str) -> float:
        """The sum of the samples of this name with these labels."""
        samples = [sample for family in (await self.families()).values() for sample in family.samples]
        return sum(one.value for one in samples if one.name == name and labels.items() <= one.labels.items())

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the supervisor."""
        self.process.send_signal(number)

    async def end(self) -> tuple[int, str]:
        """Wait for the end: the exit status, and what was written to standard error."""
        assert self.process.stderr is not None
        async with asyncio.timeout(PATIENCE_SECONDS):
            errors = await self.process.stderr.read()
            await self._reading
            return await self.process.wait(), errors.decode()

    async def close(self) -> None:
        """Leave nothing behind."""
        if hasattr(self, "admin"):
            await self.admin.aclose()
        if self.process.returncode is None:
            self.process.kill()
        for line in self.found("worker ready"):
            with suppress(ProcessLookupError):
                os.kill(line["pid"], signal.SIGKILL)
        await self.process.wait()
        await self._reading


@asynccontextmanager
async def run_pod(program: str = PROGRAM, *, workers: int = 2, **environment: str) -> AsyncIterator[Pod]:
    """Run a service with workers."""
    settings = {"APP_WORKERS": str(workers), "APP_HOST": "127.0.0.1", "APP_PORT": "0", "APP_ADMIN_PORT": "0"}
    settings |= {"APP_LOG_FORMAT": "json", "APP_DRAIN_SECONDS": "0.2"}
    settings |= {"APP_FAULT_INJECTION": "true", "APP_FAULT_INJECTION_NAMESPACE": "local"}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "error", "-m", program),
        cwd=ROOT,
        env={**inherited_environment(), **settings, **environment},
        stdout=PIPE,
        stderr=PIPE,
        limit=2**20,
        start_new_session=True,
    )
    pod = Pod(process)
    try:
        yield pod
    finally:
        await pod.close()


class Load:
    """Clients that send one request after the other, each on a connection that it keeps as long as it may."""

    def __init__(self, port: int, clients: int = 8) -> None:
        self.served: Counter[int] = Counter()
        """Responses, by worker."""
        self.lost: list[str] = []
        self._port = port
        self._stopped = False
        self._clients = clients

    async def __aenter__(self) -> "Load":
        self._tasks = [asyncio.create_task(self._client()) for _ in range(self._clients)]
        await until(lambda: sum(self.served.values()) > 20, 10)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stopped = True
        await asyncio.gather(*self._tasks)

    @property
    def count(self) -> int:
        """The number of responses."""
        return self.served.total()

    async def goes_on(self) -> None:
        """Wait until more requests were served."""
        before = self.count
        await until(lambda: self.count > before + 50, 10)

    async def _client(self) -> None:
        while not self._stopped:
            try:
                async with asyncio.timeout(10):
                    reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
                    try:
                        while not self._stopped and await self._request(reader, writer):
                            await asyncio.sleep(0.001)
                    finally:
                        writer.close()
            except (OSError, EOFError, TimeoutError) as error:
                self.lost.append(repr(error))

    async def _request(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Send a request; whether the connection may be kept."""
        writer.write(b"GET /orders HTTP/1.1\r\nhost: x\r\n\r\n")
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        length = int(head.partition(b"content-length: ")[2].split(b"\r\n")[0])
        body = await reader.readexactly(length)
        if not head.startswith(b"http/1.1 200 "):
            self.lost.append(head.decode())
        else:
            self.served[orjson.loads(body)["worker"]] += 1
        return b"\r\nconnection: close" not in head


class Scraper:
    """Scrapes the metrics all the time, and notes each counter that goes backwards."""

    def __init__(self, pod: Pod) -> None:
        self.backwards: list[str] = []
        self.scrapes = 0
        self._pod = pod
        self._last: Samples = {}
        self._stopped = False

    async def __aenter__(self) -> "Scraper":
        self._task = asyncio.create_task(self._scrape())
        await until(lambda: self.scrapes > 1, 10)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stopped = True
        await self._task

    async def _scrape(self) -> None:
        while not self._stopped:
            values = counters(await self._pod.families())
            for key, value in self._last.items():
                if values.get(key, -1.0) < value:
                    self.backwards.append(f"{key}: {value} to {values.get(key)}")
            self._last = values
            self.scrapes += 1
            await asyncio.sleep(0.02)


def counters(families: dict[str, Metric]) -> Samples:
    """The samples that may only grow."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in families.values()
        if family.type in ("counter", "histogram")
        for sample in family.samples
        if not sample.name.endswith("_created")
    }


def is_alive(process: int) -> bool:
    """Whether a process runs; one that has ended and was not collected does not."""
    try:
        return _status_of(process)[0] != "Z"
    except OSError:
        return False


def parent_of(process: int) -> int:
    """The process that has forked it."""
    return int(_status_of(process)[1])


def _status_of(process: int) -> list[str]:
    """The fields after the name of the program (proc_pid_stat(5))."""
    with open(f"/proc/{process}/stat", encoding="ascii") as file:
        return file.read().rpartition(")")[2].split()
