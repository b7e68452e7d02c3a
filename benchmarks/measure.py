"""One candidate while it runs: started, loaded, stopped, and what it logged, counted and exported meanwhile."""

import http.client
import json
import math
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Any, Self

from prometheus_client.parser import text_string_to_metric_families

from .candidates import Candidate
from .processes import LOAD_CORES, OTHER_CORES, SERVER_CORES, SHOWN_CHARACTERS, BenchError, Child, CoreWatch

HERE = Path(__file__).parent
ITEM = "/items/1"
VALID = '{"name":"item 1","quantity":2,"tags":["a","b"]}'
INVALID = '{"name":"item 1","quantity":0,"tags":[]}'
RESPONSE = b'{"id":1,"name":"item 1"}'
START_SECONDS = 30.0
POLL_SECONDS = 0.002
CONNECTIONS = 64
ADMIN = ("/readyz", "/healthz", "/metrics", "/info")
# The number of sampled spans is random; one run in a million is further from the expected one.
STANDARD_DEVIATIONS = 5.0
# The log reader would interrupt a latency client on the same core at each line.
SHARED_PAUSE_SECONDS = 0.01 if OTHER_CORES == LOAD_CORES else 0.0


@dataclass
class Checks:
    """Comparisons of what candidates told with what they did: the number that held, and those that failed."""

    held: Counter[str] = field(default_factory=Counter)
    failed: list[str] = field(default_factory=list)

    def compare(self, subject: str, found: int, least: float, most: float) -> None:
        """`found` must be between `least` and `most`."""
        if least <= found <= most:
            self.held[subject] += 1
        else:
            self.failed.append(f"{subject}: {found}, expected {least:.0f} to {most:.0f}")


@dataclass(frozen=True, slots=True)
class Load:
    """One load of wrk. `cpu_us` is the server's CPU time for a request, `idle` the share of its core that was free."""

    requests: int
    rate: float
    cpu_us: float
    idle: float
    start_seconds: float
    rss_mb: float


class Running:
    """A candidate as a process, from its first successful response until the context is left."""

    def __init__(
        self, candidate: Candidate, collector_port: int, checks: Checks, others: list[float], *, pause: float = 0.0
    ) -> None:
        self.candidate = candidate
        self.port = free_port()
        self.start_seconds = 0.0
        self._others = others
        self._collector_port = collector_port
        self._checks = checks
        self._pause = pause
        self._stack = ExitStack()
        self._requests = self._in_flight = 0

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._spans_before = self._spans()
            self._errors = stack.enter_context(tempfile.TemporaryFile())
            out, into = os.pipe()
            reader = (sys.executable, HERE / "reader.py", str(self._pause))
            try:
                self._reader = Child(reader, cores=OTHER_CORES, stdin=out, stdout=subprocess.PIPE)
                stack.enter_context(self._reader)
                began = time.perf_counter()
                self.server = Child(
                    self.candidate.command,
                    cores=SERVER_CORES,
                    env={**self.candidate.env, self.candidate.port_variable: str(self.port)},
                    cwd=self.candidate.folder,
                    stdout=into,
                    stderr=self._errors,
                )
                stack.enter_context(self.server)
            finally:
                os.close(out)
                os.close(into)
            watch = CoreWatch(self.server)
            self._wait(began)
            self._others.append(watch.used()[1])
            self._check_response()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def load(self, seconds: int, body: str | None = None) -> Load:
        """Send requests as fast as responses come; any error or status but 2xx is an error of the run."""
        command = ["wrk", "--threads", "1", "--connections", str(CONNECTIONS), "--duration", f"{seconds}s"]
        command += ["--timeout", "30s", "--script", str(HERE / "wrk.lua")]
        command += [
            f"http://127.0.0.1:{self.port}{ITEM if body is None else '/items'}",
            *(["--", body] if body else []),
        ]
        watch = CoreWatch(self.server)
        with Child(command, cores=LOAD_CORES, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
            found: dict[str, int] = json.loads(child.output().strip().rpartition("\n")[2])
        cpu, others, idle = watch.used()
        errors = {name: found[name] for name in ("connect", "read", "write", "status", "timeout") if found[name]}
        if errors or not found["requests"]:
            raise BenchError(f"{self.candidate.label}: wrk saw {errors or 'no response'}\n{self._said()}")
        self._others.append(others)
        self._requests += found["requests"]
        self._in_flight += CONNECTIONS
        rate = found["requests"] / found["microseconds"] * 1e6
        cpu_us = cpu / found["requests"] * 1e6
        return Load(found["requests"], rate, cpu_us, idle, self.start_seconds, self.server.memory_mb()["rss_mb"])

    def load_at(self, rate: float, seconds: float) -> dict[str, Any]:
        """Send requests at a constant rate; latencies in microseconds."""
        arguments = [str(self.port), ITEM, f"{rate:.1f}", str(seconds), str(CONNECTIONS)]
        command = [sys.executable, "-m", "benchmarks.openloop", *arguments]
        watch = CoreWatch(self.server)
        with Child(command, cores=LOAD_CORES, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
            found: dict[str, Any] = json.loads(child.output())
        if found["shed"]:
            raise BenchError(f"{self.candidate.label} shed {found['shed']} requests at {rate:.0f}/s")
        self._others.append(watch.used()[1])
        self._requests += found["requests"]
        return found

    def finish(self) -> None:
        """Stop the server, and compare its lines, counter and spans with the responses."""
        candidate, compare = self.candidate, self._checks.compare
        time.sleep(0.1)  # wrk leaves without waiting for the last responses
        counted = self._counted() if candidate.counter else None
        status = self.server.stop(candidate.stop_signal)
        if candidate.stop_signal == signal.SIGTERM and status:
            raise BenchError(f"{candidate.label} ended with {status}\n{self._said()}")
        lines = int(self._reader.output())  # the reader ends when the last writer has
        if counted is not None and candidate.kind == "usual":
            lines -= 1  # the usual stack logs the request of its metrics as well
        least, most = self._requests, self._requests + self._in_flight
        if candidate.logs:
            compare(f"{candidate.label}: access lines = responses", lines, least, most)
        if counted is not None:
            compare(f"{candidate.label}: counter = responses", counted, least, most)
        if counted is not None and candidate.logs:
            compare(f"{candidate.label}: access lines = counter", lines, counted, counted)
        if candidate.sampled is not None:
            told = counted if counted is not None else lines if candidate.logs else None
            low, high = (least, most) if told is None else (told, told)
            spread = STANDARD_DEVIATIONS * math.sqrt(high * candidate.sampled * (1 - candidate.sampled))
            low, high = math.floor(low * candidate.sampled - spread), math.ceil(high * candidate.sampled + spread)
            compare(f"{candidate.label}: spans = sampled share", self._spans() - self._spans_before, low, high)

    def _wait(self, began: float) -> None:
        path, status = self.candidate.ready_path, 0
        while True:
            if self.server.process.poll() is not None:
                raise BenchError(f"{self.candidate.label} ended during its start\n{self._said()}")
            try:
                status, _ = fetch(self.port, path)
            except OSError:
                status = 0
            self.start_seconds = time.perf_counter() - began
            if status == HTTPStatus.OK:
                self._requests += path not in ADMIN
                return
            if self.start_seconds > START_SECONDS:
                raise BenchError(f"{self.candidate.label} is not ready after {START_SECONDS} s\n{self._said()}")
            time.sleep(POLL_SECONDS)

    def _check_response(self) -> None:
        self._requests += 1
        status, body = fetch(self.port, ITEM)
        if (status, body) != (HTTPStatus.OK, RESPONSE):
            raise BenchError(f"{self.candidate.label} responds to {ITEM} with {status} {body[:200]!r}")

    def check_validation(self) -> None:
        """A valid body gets the same response from all candidates, an invalid one 422."""
        self._requests += 2
        valid, invalid = (fetch(self.port, "/items", body) for body in (VALID, INVALID))
        if valid != (HTTPStatus.OK, RESPONSE) or invalid[0] != HTTPStatus.UNPROCESSABLE_ENTITY:
            raise BenchError(f"{self.candidate.label} responds to bodies with {valid} and {invalid}")

    def _said(self) -> str:
        self._errors.seek(0)
        return self._errors.read().decode(errors="replace")[-SHOWN_CHARACTERS:]

    def _counted(self) -> int:
        text = fetch(self.port, "/metrics")[1].decode()
        samples = (sample for family in text_string_to_metric_families(text) for sample in family.samples)
        counts = (sample for sample in samples if sample.name == self.candidate.counter)
        return round(sum(sample.value for sample in counts if not {*ADMIN} & {*sample.labels.values()}))

    def _spans(self) -> int:
        spans: dict[str, int] = json.loads(fetch(self._collector_port, "/")[1])
        return sum(count for name, count in spans.items() if not name.endswith(ADMIN))


def fetch(port: int, path: str, body: str | None = None) -> tuple[int, bytes]:
    """One request on a connection of its own: status and body of the response."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        headers = {"content-type": "application/json"} if body else {}
        connection.request("POST" if body else "GET", path, body, headers)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def free_port() -> int:
    """A port that no process listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port: int = sock.getsockname()[1]
        return port


def require_programs() -> str:
    """The version of wrk; BenchError if wrk or uv is missing."""
    for program in ("wrk", "uv"):
        if shutil.which(program) is None:
            raise BenchError(
                f"{program} is not installed. Use `make bench`, or on Debian and Ubuntu: apt-get install wrk"
            )
    said = subprocess.run(["wrk", "--version"], capture_output=True, text=True, check=False).stdout
    return " ".join(said.split()[1:2])
