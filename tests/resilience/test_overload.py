"""Ten times as much as the service can do: it does what it can, and turns the others away early.

The figures themselves are measured by `make bench-overload`; here it is only asserted what holds on a busy machine.
"""

import json
import os
import sys

import pytest

from bakery import TEMPLATE, add_handler, run
from conftest import Bake, Start
from running import Service

WORK = '''"""What takes time: waiting for one of ten connections, or computing."""

import asyncio
from time import perf_counter

from chassis import Handler


class Waiting(Handler):
    """As a database does that is asked over ten connections."""

    def __init__(self) -> None:
        self._connections = asyncio.Semaphore(10)

    async def get(self) -> str:
        """Wait 50 ms."""
        async with self._connections:
            await asyncio.sleep(0.05)
        return "done"


class Computing(Handler):
    """Keeps the processor busy."""

    async def get(self) -> str:
        """Compute for 5 ms."""
        until = perf_counter() + 0.005
        while perf_counter() < until:
            pass
        return "done"
'''


@pytest.fixture
def working(bake: Bake, start: Start) -> Service:
    project = bake()
    routes = 'app.add_route("/waiting", Waiting())\napp.add_route("/computing", Computing())'
    add_handler(project, "work", WORK, "from .work import Computing, Waiting", routes)
    return start(project, APP_ADMIN_PORT="0", APP_MAX_REQUESTS="10").ready()


@pytest.mark.parametrize("path", ["/waiting", "/computing"])
def test_overload_is_borne_and_over_when_it_is_over(working: Service, path: str) -> None:
    os.sched_setaffinity(working.process.pid, {min(os.sched_getaffinity(0))})  # the client takes the others
    seconds = os.environ.get("OVERLOAD_SECONDS", "3")
    ports = [str(client.base_url.port) for client in (working.http, working.admin)]

    done = run(sys.executable, "-m", "benchmarks.overload", *ports, path, seconds, cwd=TEMPLATE)

    assert done.returncode == 0, done.stdout
    found = json.loads(done.stdout)
    print(f"{path}:", done.stdout)
    assert found["overload"]["goodput"] > 0.5
    assert found["overload"]["shed"] > 2 * found["peak_rate"]
    assert found["overload"]["without_retry_after"] == 0
    assert found["overload"]["p99_ms"] < 2000
    assert found["probes"]["failed"] == 0
    assert max(found["probes"]["most_ms"].values()) < 2000
    assert found["after"]["normal_after_seconds"] < 2
    reason = {"/waiting": "concurrency", "/computing": "delay"}[path]
    shed = working.metric("http_server_shed_requests_total", reason=reason)
    assert shed >= found["overload"]["shed"]
    assert shed == working.metric("http_server_request_duration_seconds_count", http_response_status_code="503")
