"""Clients of a service: wrk as a steady load, and clients that go on asking."""

import re
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx

from running import PATIENCE_SECONDS, needs

# Steady rather than as much as possible: each connection asks anew some milliseconds after its response.
STEADY = "function delay() return math.random(6, 20) end\n"
CONNECTIONS = 24


class Load:
    """wrk, whose connections are kept alive: it tells at its end what it has counted."""

    def __init__(self, folder: Path, url: str) -> None:
        needs("wrk")
        script = folder / "steady.lua"
        script.write_text(STEADY)
        self._process = subprocess.Popen(
            ["wrk", "-t1", f"-c{CONNECTIONS}", "-d1h", "--timeout", "20s", "-s", script, url],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
        )

    def stop(self) -> dict[str, int]:
        """End, which abandons what is under way, and return the counts."""
        self._process.send_signal(signal.SIGINT)
        told, _ = self._process.communicate(timeout=PATIENCE_SECONDS)
        print(told)
        patterns = {"requests": r"(\d+) requests in", "non-2xx": r"Non-2xx or 3xx responses: (\d+)"}
        patterns |= {kind: rf"Socket errors:.* {kind} (\d+)" for kind in ("connect", "read", "write", "timeout")}
        return {name: sum(map(int, re.findall(pattern, told))) for name, pattern in patterns.items()}

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


@contextmanager
def clients(count: int, ask: Callable[[httpx.Client], None], url: str) -> Iterator[Callable[[], int]]:
    """Clients that go on asking until `stop()`, which returns how often they did; the first failure is raised."""
    stopped = threading.Event()

    def go_on() -> int:
        asked = 0
        with httpx.Client(base_url=url, timeout=PATIENCE_SECONDS, trust_env=False) as client:
            while not stopped.is_set():
                ask(client)
                asked += 1
        return asked

    with ThreadPoolExecutor(count) as pool:
        asking: list[Future[int]] = [pool.submit(go_on) for _ in range(count)]

        def stop() -> int:
            stopped.set()
            return sum(one.result() for one in asking)

        try:
            yield stop
        finally:
            stopped.set()


def ask_slowly(client: httpx.Client) -> None:
    """Ask a handler on /slow that takes its time."""
    answer = client.get("/slow")
    assert (answer.status_code, answer.text) == (200, '"at last"')
