"""One candidate while it runs: started, loaded, stopped, and what it logged, counted and exported meanwhile."""

import http.client
import json
import math
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from prometheus_client.parser import text_string_to_metric_families

from .candidates import Candidate
from .processes import (
    ALL_CORES,
    EMPTY,
    LOAD_CORES,
    OTHER_CORES,
    SERVER_CORES,
    SHOWN_CHARACTERS,
    BenchError,
    Child,
    CoreWatch,
)

HERE = Path(__file__).parent
ITEM = "/items/1"
VALID = '{"name":"item 1","quantity":2,"tags":["a","b"]}'
INVALID = '{"name":"item 1","quantity":0,"tags":[]}'
RESPONSE = (200, b'{"id":1,"name":"item 1"}')
START_SECONDS = 30.0
POLL_SECONDS = 0.002
LONGEST_SHORT_SECONDS = 30
LATENCY_CONNECTIONS = 64
ADMIN = ("/readyz", "/healthz", "/metrics", "/info")
# The number of sampled spans is random; one run in a million is further from the expected one.
STANDARD_DEVIATIONS = 5.0
# The log reader would interrupt a latency client on the same core at each line.
SHARED_PAUSE_SECONDS = 0.01 if OTHER_CORES == LOAD_CORES else 0.0


@dataclass
class Checks:
    """Comparisons of the candidates' telemetry with their requests: the number that held, and those that failed."""

    held: Counter[str] = field(default_factory=Counter)
    failed: list[str] = field(default_factory=list)

    def compare(self, subject: str, found: int, least: int, most: int) -> None:
        """`found` must be between `least` and `most`."""
        if least <= found <= most:
            self.held[subject] += 1
        else:
            self.failed.append(f"{subject}: {found}, expected {least} to {most}")


@dataclass(frozen=True, slots=True)
class Load:
    """One load of wrk. `cpu_us` is the server's CPU time for a request, `idle` the share of its core that was free."""

    requests: int
    rate: float
    cpu_us: float
    idle: float
    start_seconds: float
    rss_mb: float
    pss_mb: float


class Running:
    """A candidate as a process, from its first successful response until the context is left."""

    def __init__(
        self, candidate: Candidate, collector_port: int, checks: Checks, others: list[float], *, pause: float = 0.0
    ) -> None:
        self._candidate = candidate
        self._collector_port = collector_port
        self._checks = checks
        self._others = others
        self._pause = pause
        self._connections = candidate.connections * candidate.processes
        self._port = free_port()
        self._admin_port = free_port() if candidate.has_admin_port else self._port
        self._start_seconds = 0.0
        self._requests = self._in_flight = self._not_ready = 0

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
                    self._candidate.command,
                    cores=self._candidate.cores,
                    env={**self._candidate.env, **self._ports()},
                    cwd=self._candidate.folder,
                    stdout=into,
                    stderr=self._errors,
                )
                stack.enter_context(self.server)
            finally:
                os.close(out)
                os.close(into)
            self._wait(began)
            if (response := self._fetch(ITEM)) != RESPONSE:
                raise self._error(f"responds to {ITEM} with {response}")
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _ports(self) -> dict[str, str]:
        port = str(self._port)
        admin = {"APP_ADMIN_PORT": str(self._admin_port)} if self._candidate.has_admin_port else {}
        return {"PORT": port, "APP_PORT": port, "GRANIAN_PORT": port, **admin}

    def check_validation(self) -> None:
        """A valid body gets the same response from all candidates, an invalid one 422."""
        valid, invalid = (self._fetch("/items", body) for body in (VALID, INVALID))
        if valid != RESPONSE or invalid[0] != http.client.UNPROCESSABLE_ENTITY:
            raise self._error(f"responds to bodies with {valid} and {invalid}")

    def check_rejection(self) -> None:
        """A token with another signature gets 401."""
        headers = {name: value[:-8] + "AAAAAAAA" for name, value in self._candidate.headers.items()}
        self._requests += 1
        if (response := fetch(self._port, ITEM, headers=headers))[0] != http.client.UNAUTHORIZED:
            raise self._error(f"responds to a forged token with {response}")

    def load(self, seconds: float, body: str | None = None) -> Load:
        """Send requests as fast as responses come; any error or status but 2xx is an error of the run."""
        connections = str(self._connections)
        # wrk takes whole seconds only. A shorter load is interrupted below, long before this.
        duration = f"{LONGEST_SHORT_SECONDS if seconds % 1 else seconds:.0f}s"
        options = ("--threads", "1", "--connections", connections, "--duration", duration, "--timeout", "30s")
        headers = [word for name, value in self._candidate.headers.items() for word in ("--header", f"{name}: {value}")]
        address = f"http://127.0.0.1:{self._port}{'/items' if body else ITEM}"
        command = ["wrk", *options, *headers, "--script", str(HERE / "wrk.lua"), address]
        found, cpu, idle = self._run([*command, "--", body] if body else command, seconds)
        errors = {name: found[name] for name in ("connect", "read", "write", "status", "timeout") if found[name]}
        if errors or not found["requests"]:
            raise self._error(f"wrk saw {errors or 'no response'}")
        self._in_flight += self._connections
        rate, cpu_us = found["requests"] / found["microseconds"] * 1e6, cpu / found["requests"] * 1e6
        return Load(found["requests"], rate, cpu_us, idle, self._start_seconds, **self.server.memory_mb())

    def target(self, rate: float) -> str:
        """The server and its load, as an argument of the open-loop client."""
        return f"{self._port}:{self.server.process.pid}:{rate:.1f}"

    def took(self, found: dict[str, Any], rate: float, cpu: float) -> dict[str, Any]:
        """Count the requests of the open-loop client, and add how `busy` the server's core was with them."""
        self._requests += found["requests"]
        if found.pop("shed"):
            raise self._error(f"sheds requests at {rate:.0f}/s")
        return {**found, "busy": cpu * rate / found["requests"]}

    def finish(self) -> None:
        """Stop the server, and compare its lines, counter and spans with the responses."""
        label, sampled, compare = self._candidate.label, self._candidate.sampled, self._checks.compare
        ours = self._candidate.kind == "ours"
        time.sleep(0.1)  # wrk leaves without waiting for the last responses
        told = {"counter": self._counted()} if self._candidate.counter else {}
        status = self.server.stop(signal.SIGTERM if ours else signal.SIGINT)
        if ours and status:
            raise self._error(f"ended with {status}")
        lines = int(self._reader.output()) - self._not_ready  # the reader ends when the last writer has
        if self._candidate.logs:
            told["access lines"] = lines - (0 if ours or not told else 1)  # FastAPI's has the request of its metrics
        least, most = self._requests, self._requests + self._in_flight
        for name, count in told.items():
            compare(f"{label}: {name} = responses", count, least, most)
        if len(told) == 2:
            # FastAPI's counter leaves out requests whose client left while they waited for a database or a service.
            waits = {"DATABASE_URL", "UPSTREAM_URL"} & {*self._candidate.env}
            most = told["counter"] + (self._in_flight if waits else 0)
            compare(f"{label}: access lines = counter", told["access lines"], told["counter"], most)
        if sampled is not None:
            least, most = min(told.values(), default=least), max(told.values(), default=most)
            spread = STANDARD_DEVIATIONS * math.sqrt(most * sampled * (1 - sampled))
            spans, least, most = self._spans(), math.floor(least * sampled - spread), math.ceil(most * sampled + spread)
            compare(f"{label}: spans = sampled share", spans - self._spans_before, least, most)

    def _wait(self, began: float) -> None:
        is_ours = self._candidate.kind == "ours"
        path, port = ("/readyz", self._admin_port) if is_ours else (ITEM, self._port)
        watch = self._watch()
        while self.server.process.poll() is None and time.perf_counter() < began + START_SECONDS:
            with suppress(OSError):
                if fetch(port, path, headers=self._candidate.headers)[0] == http.client.OK:
                    self._start_seconds = time.perf_counter() - began
                    self._requests += path == ITEM
                    self._others.append(watch.used()[1])
                    return
                # It has an access line, unlike a success of a probe. A supervisor has none.
                self._not_ready += not self._candidate.has_admin_port
            time.sleep(POLL_SECONDS)
        raise self._error(f"is not ready after {time.perf_counter() - began:.1f} s")

    @property
    def _is_alone(self) -> bool:
        """Whether the server has a core for itself."""
        return self._candidate.cores == SERVER_CORES

    def _watch(self) -> CoreWatch:
        return CoreWatch(self.server, alone=self._is_alone)

    def _run(self, command: list[str], seconds: float) -> tuple[dict[str, Any], float, float]:
        """Run wrk: what it prints last, CPU seconds of the server, and the idle share of its core."""
        watch = self._watch()
        with Child(
            command, cores=LOAD_CORES if self._is_alone else ALL_CORES, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as child:
            if seconds % 1:  # as soon as the server has worked for so long, however busy the machine is
                worked = self.server.cpu_seconds() + seconds
                child.interrupt_when(lambda: self.server.cpu_seconds() >= worked)
            found: dict[str, Any] = json.loads(child.output().strip().rpartition("\n")[2])
        cpu, others, idle = watch.used()
        self._others.append(others)
        self._requests += found["requests"]
        return found, cpu, idle

    def _fetch(self, path: str, body: str | None = None) -> tuple[int, bytes]:
        self._requests += 1
        return fetch(self._port, path, body, self._candidate.headers)

    def _counted(self) -> int:
        text = fetch(self._admin_port, "/metrics")[1].decode()
        samples = (sample for family in text_string_to_metric_families(text) for sample in family.samples)
        counts = (sample for sample in samples if sample.name == self._candidate.counter)
        return round(sum(sample.value for sample in counts if not {*ADMIN} & {*sample.labels.values()}))

    def _spans(self) -> int:
        spans: dict[str, int] = json.loads(fetch(self._collector_port, "/")[1])
        return sum(count for name, count in spans.items() if not name.endswith(ADMIN))

    def _error(self, what: str) -> BenchError:
        self._errors.seek(0)
        said = self._errors.read().decode(errors="replace")[-SHOWN_CHARACTERS:]
        return BenchError(f"{self._candidate.label} {what}\n{said}".strip())


def load_in_turn(loads: Sequence[tuple[Running, float]], slices: int, seconds: float) -> list[dict[str, Any]]:
    """Send requests to each server at its constant rate, in turn; latencies in microseconds of each."""
    targets = [running.target(rate) for running, rate in loads]
    arguments = (ITEM, str(seconds), str(slices), str(LATENCY_CONNECTIONS), *targets)
    before = [running.server.cpu_seconds() for running, _ in loads]
    command = (sys.executable, "-m", "benchmarks.openloop", *arguments)
    with Child(command, cores=LOAD_CORES, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as client:
        found = json.loads(client.output())
    used = [running.server.cpu_seconds() - seconds for (running, _), seconds in zip(loads, before, strict=True)]
    return [running.took(one, rate, cpu) for (running, rate), one, cpu in zip(loads, found, used, strict=True)]


def fetch(port: int, path: str, body: str | None = None, headers: Mapping[str, str] = EMPTY) -> tuple[int, bytes]:
    """One request on a connection of its own: status and body of the response."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        added = {"content-type": "application/json"} if body else {}
        connection.request("POST" if body else "GET", path, body, {**headers, **added})
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def free_port() -> int:
    """A port that no process listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port: int = sock.getsockname()[1]
        return port
