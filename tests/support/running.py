"""A rendered service as a process, held by a test."""

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Self

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from bakery import clean_environment, package_of

Event = dict[str, Any]
PATIENCE_SECONDS = 60.0  # a busy machine may start a service so late
SHOWN_LINES = 500


def needs(program: str) -> None:
    """Skip the test when a program is not installed; in CI that is a failure."""
    if shutil.which(program) is None:
        assert not os.environ.get("CI"), f"{program} is not installed, and .ci/run should have done so"
        pytest.skip(f"{program} is not installed; .ci/run installs it")


def fixed_port(rng: random.Random) -> int:
    """A port that a service can have again: the system gives it to no connection meanwhile."""
    while True:
        with socket.socket() as free:
            try:
                free.bind(("127.0.0.1", port := rng.randrange(20_000, 32_000)))
            except OSError:
                continue
            return port


class Lines:
    """The output of a process, line by line, for a test that waits for one of them."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream
        self._lines: list[str] = []
        self._ended = False
        self._news = threading.Condition()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        with self._stream:
            for line in self._stream:
                with self._news:
                    self._lines.append(line.rstrip("\n"))
                    self._news.notify_all()
        with self._news:
            self._ended = True
            self._news.notify_all()

    def __iter__(self) -> Iterator[str]:
        with self._news:
            return iter([*self._lines])

    def wait_for(self, wanted: Callable[[str], bool], *, count: int = 1) -> list[str]:
        """The first `count` lines that are wanted, as soon as they are there."""
        found: list[str] = []
        seen = 0

        def are_there() -> bool:
            nonlocal seen
            found.extend(filter(wanted, self._lines[seen:]))  # each line once, because some logs are long
            seen = len(self._lines)
            return len(found) >= count

        with self._news:
            self._news.wait_for(lambda: are_there() or self._ended, PATIENCE_SECONDS)
            assert len(found) >= count, "not among these lines:\n" + "\n".join(self._lines)
            return found[:count]

    def all(self) -> list[str]:
        """Every line, after the process has ended."""
        self._thread.join(PATIENCE_SECONDS)
        return [*self]


class Service:
    """A running service: its logs, its addresses, its end."""

    def __init__(
        self, python: Path, project: Path, home: Path, variables: dict[str, str], modules: Sequence[str] = ()
    ) -> None:
        """`modules` are programs of the core, and their arguments, that run the service."""
        environment = {"APP_HOST": "127.0.0.1", "APP_PORT": "0", "APP_DRAIN_SECONDS": "0", "PYTHONPATH": "src"}
        environment["OTEL_BSP_SCHEDULE_DELAY"] = "200"  # ms, instead of five seconds that a test would wait for spans
        self.process = subprocess.Popen(
            [*modules, python, "-W", "error", "-m", package_of(project)],
            cwd=project,
            env=clean_environment(home, **{**environment, **variables}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._is_launched = bool(modules)
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        self.output = Lines(self.process.stdout)
        self.errors = Lines(self.process.stderr)

    def listening(self) -> Self:
        """Wait until the ports are open."""
        event = self.event("listening")
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{event['port']}", trust_env=False)
        self.admin = httpx.Client(base_url=f"http://127.0.0.1:{event['admin_port'] or event['port']}", trust_env=False)
        return self

    def ready(self) -> Self:
        """Wait until requests are welcome."""
        self.listening()
        self.event("ready")
        return self

    @property
    def port(self) -> int:
        return int(self.http.base_url.port or 0)

    def events(self) -> list[Event]:
        """The log so far; a line that isn't JSON fails the test."""
        return [json.loads(line) for line in self.output]

    def event(self, name: str, **facts: object) -> Event:
        """Wait for an event of this name with these facts."""
        return self.wait(name, 1, facts)[0]

    def access_lines(self, count: int, **facts: object) -> list[Event]:
        """Wait for so many access lines with these facts."""
        return self.wait("request", count, facts)

    def wait(self, name: str, count: int, facts: dict[str, object]) -> list[Event]:
        def wanted(line: str) -> bool:
            event = json.loads(line)
            return event["event"] == name and all(event.get(key) == value for key, value in facts.items())

        return [json.loads(line) for line in self.output.wait_for(wanted, count=count)]

    def metric(self, name: str, **labels: str) -> float:
        """The value of a sample at this moment, 0 when there is none."""
        text = self.admin.get("/metrics").text
        samples = [one for family in text_string_to_metric_families(text) for one in family.samples]
        return sum(one.value for one in samples if one.name == name and labels.items() <= one.labels.items())

    def end(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and wait for the end; returns the exit status."""
        self.process.send_signal(number)
        return self.process.wait(PATIENCE_SECONDS)

    def close(self) -> None:
        """Leave nothing behind, whatever the test did."""
        if self.process.poll() is None and self._is_launched:
            self.process.terminate()  # if it were killed, the service and the servers that it started would stay
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(PATIENCE_SECONDS)
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.output.all()
        self.errors.all()
        for client in (getattr(self, "http", None), getattr(self, "admin", None)):
            if client is not None:
                client.close()


@contextmanager
def running(
    python: Path, project: Path, home: Path, modules: Sequence[str] = (), **variables: str
) -> Iterator[Service]:
    """Run `project`; the last of what it wrote is shown when the test fails."""
    service = Service(python, project, home, variables, modules)
    try:
        yield service
    finally:
        service.close()
        print("\n".join([*[*service.output][-SHOWN_LINES:], *service.errors]))
