"""One candidate while it runs: started, asked, ended, and what it logged, counted and exported meanwhile."""

import http.client
import json
import os
import re
import socket
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from .catalogue import ACCESS_MARKER, Candidate
from .load import ITEM, Answered, Request, run_open_loop, run_wrk
from .machine import Cores
from .processes import BenchError, Child, CoreWatch

START_SECONDS = 30.0
ADMIN = ("/readyz", "/healthz", "/metrics", "/info")
SERVER_KIND = 2


@dataclass(frozen=True, slots=True)
class Bench:
    """Where everything runs: cores, the collector's port, the tools' Python, a folder for what is kept.

    `foreign` gathers the share of the server's core that others took, at every start and load.
    """

    cores: Cores
    collector_port: int
    tools: Path
    folder: Path
    foreign: list[float] = field(default_factory=list)

    def collected(self) -> dict[str, int]:
        """Server spans that have arrived since the collector began, without those of probes."""
        status, body = fetch(self.collector_port, "/count")
        spans = json.loads(body) if status == 200 else []
        return {name: count for kind, name, count in spans if kind == SERVER_KIND and not name.endswith(ADMIN)}


@dataclass(frozen=True, slots=True)
class Loaded:
    """One load on one candidate: what wrk saw, and what it cost the server in microseconds of CPU a request.

    `busy` is the share of the time in which the server ran: well below 1, the load was what limited.
    `foreign` is what others took of its core meanwhile: above a few hundredths, the figures are rough.
    """

    answered: Answered
    cpu_us: float
    connections: int
    busy: float
    foreign: float


@dataclass(frozen=True, slots=True)
class Tally:
    """What was answered while a candidate ran, and what it told of that; None where it tells nothing.

    `in_flight` is the most that the server can have answered beyond what wrk counted: at the end of a
    load wrk leaves, and each of its connections may have had one request under way.
    """

    requests: int
    in_flight: int
    lines: int | None
    counted: int | None
    spans: int | None


class Running:
    """A candidate that runs; leaving the context ends it.

    `read_every_seconds` other than 0 lets what it says lie in the pipe for so long, for loads that the
    reader's waking would disturb.
    """

    def __init__(
        self, bench: Bench, candidate: Candidate, *, keep_lines: Path | None = None, read_every_seconds: float = 0.0
    ) -> None:
        self.candidate = candidate
        self._bench = bench
        self._keep = keep_lines
        self._read_every = read_every_seconds
        self._stack = ExitStack()
        self.port = free_port()
        self.startup_seconds = 0.0
        self._requests = 0
        self._in_flight = 0

    def __enter__(self) -> Self:
        bench, candidate = self._bench, self.candidate
        self._spans_before = sum(bench.collected().values())
        out, into = os.pipe()
        reader = Path(__file__).with_name("reader.py")
        reading: list[str | Path] = [sys.executable, reader, ACCESS_MARKER, str(self._read_every)]
        self._errors = (bench.folder / "stderr.txt").open("wb+")
        self._stack.callback(self._errors.close)
        try:
            self._reader = self._stack.enter_context(
                Child(
                    [*reading, *([self._keep] if self._keep else [])],
                    cores=bench.cores.others,
                    stdin=out,
                    stdout=subprocess.PIPE,
                )
            )
            began = time.perf_counter()
            self.server = self._stack.enter_context(
                Child(
                    candidate.command,
                    cores=bench.cores.server,
                    env={**candidate.env, candidate.port_variable: str(self.port)},
                    cwd=candidate.folder,
                    stdout=into,
                    stderr=self._errors,
                )
            )
            watch = CoreWatch(self.server, bench.cores)
            os.close(into)
            os.close(out)
            self._wait(began)
            bench.foreign.append(watch.used()[1])
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stack.close()

    def _wait(self, began: float) -> None:
        """Until the first 200; asked every two milliseconds."""
        while True:
            if self.server.process.poll() is not None:
                raise BenchError(f"{self.candidate.name} ended at its start:\n{self.said()}")
            try:
                status, _ = fetch(self.port, self.candidate.ready_path)
            except OSError:
                status = 0
            elapsed = time.perf_counter() - began
            if status == 200:
                self.startup_seconds = elapsed
                self._requests += self.candidate.ready_path not in ADMIN
                return
            if elapsed > START_SECONDS:
                raise BenchError(f"{self.candidate.name} isn't ready after {START_SECONDS} s:\n{self.said()}")
            time.sleep(0.002)

    def said(self) -> str:
        """The end of its standard error."""
        self._errors.seek(0)
        return self._errors.read().decode(errors="replace")[-1500:]

    def ask(self, request: Request) -> tuple[int, bytes]:
        """Ask once, as wrk will."""
        self._requests += 1
        kind = "application/json" if isinstance(request.post, str) else "application/octet-stream"
        body = "x" * request.post if isinstance(request.post, int) else request.post
        method = "GET" if body is None else "POST"
        return fetch(self.port, request.path, method, body, {"content-type": kind} if body is not None else {})

    def load(self, request: Request = ITEM, *, connections: int = 64, seconds: float = 1.0) -> Loaded:
        """Ask as fast as answers come."""
        watch = CoreWatch(self.server, self._bench.cores)
        try:
            answered = run_wrk(
                self.port, request, connections=connections, seconds=seconds, cores=self._bench.cores.load
            )
        except BenchError as error:
            raise BenchError(f"{self.candidate.name}: {error}\n{self.said()}") from None
        cpu, foreign = watch.used()
        self._bench.foreign.append(foreign)
        self._requests += answered.requests
        self._in_flight += connections
        return Loaded(answered, cpu / answered.requests * 1e6, connections, cpu / answered.seconds, foreign)

    def load_at(self, rate: float, *, connections: int = 64, seconds: float = 1.0) -> dict[str, Any]:
        """Ask at a constant rate."""
        watch = CoreWatch(self.server, self._bench.cores)
        report = run_open_loop(
            self._bench.tools,
            self.port,
            rate=rate,
            seconds=seconds,
            connections=connections,
            cores=self._bench.cores.load,
        )
        self._bench.foreign.append(watch.used()[1])
        self._requests += report["requests"]
        return report

    def finish(self) -> Tally:
        """End it in order, and count what it said of its requests."""
        candidate = self.candidate
        time.sleep(0.1)  # what wrk has left behind is answered meanwhile
        counted = self._counted() if candidate.counter else None
        status = self.server.stop(candidate.stop_signal)
        if candidate.group == "ours" and status:
            raise BenchError(f"{candidate.name} ended with {status}:\n{self.said()}")
        # The reader ends when the last writer has.
        out, _ = self._reader.process.communicate(timeout=30)
        lines: int = json.loads(out)["marked"]
        if counted is not None and candidate.group != "ours":
            lines -= 1  # the usual stack logs that its metrics were asked for
        return Tally(
            requests=self._requests,
            in_flight=self._in_flight,
            lines=lines if candidate.logs else None,
            counted=counted,
            spans=None if candidate.sampled is None else sum(self._bench.collected().values()) - self._spans_before,
        )

    def _counted(self) -> int:
        """The requests that its metrics show, without those of probes."""
        _, body = fetch(self.port, "/metrics")
        pattern = rf"^{self.candidate.counter}\{{(.*)\}} (\S+)$"
        found = re.findall(pattern, body.decode(), re.MULTILINE)
        return round(sum(float(value) for labels, value in found if not any(f'"{one}"' in labels for one in ADMIN)))


def fetch(
    port: int, path: str, method: str = "GET", body: str | None = None, headers: dict[str, str] | None = None
) -> tuple[int, bytes]:
    """One request on a connection of its own: status and body."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request(method, path, body, headers or {})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def free_port() -> int:
    """A port that nobody has just now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port
