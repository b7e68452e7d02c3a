"""Ten times as much as the service can do: it does what it can, and turns the others away early.

The figures themselves are measured by `make bench-overload`; here it is only asserted what holds on a busy machine.
"""

import json
import os
import sys

import pytest

from bakery import TEMPLATE, add_handler, run
from conftest import Bake, Start

pytestmark = pytest.mark.long

SHAPES = TEMPLATE / "benchmarks/shapes.py"


# Handlers that wait, or compute in slices, behave as those of one piece; `make bench-overload` measures them.
SHAPES_OF_HANDLERS = [
    "/pool",
    "/piece",
    "/threads",
    *(["/slices", "/waits"] if "OVERLOAD_SECONDS" in os.environ else []),
]


@pytest.mark.parametrize("path", SHAPES_OF_HANDLERS)
def test_overload_is_served_as_far_as_possible_and_ends(bake: Bake, start: Start, path: str) -> None:
    project = bake()
    add_handler(project, "shapes", SHAPES.read_text(), "from .shapes import add_shapes", "add_shapes(app)")
    most = {"APP_MAX_REQUESTS": "10"} if path == "/pool" else {}
    working = start(project, APP_ADMIN_PORT="0", **most).ready()
    os.sched_setaffinity(working.process.pid, {min(os.sched_getaffinity(0))})  # the client takes the others
    # Nothing is asserted of the phases that are left out.
    phases = [seconds] if (seconds := os.environ.get("OVERLOAD_SECONDS")) else ["1.3", "--short"]
    numbers = (working.http.base_url.port, working.admin.base_url.port, working.process.pid)

    done = run(sys.executable, "-m", "benchmarks.overload", *map(str, numbers), path, *phases, cwd=TEMPLATE)

    assert done.returncode == 0, done.stdout
    found = json.loads(done.stdout)
    print(f"{path}:", done.stdout)
    for load in ("overload", "closed_loop"):
        # The service takes a wait for its core for overload, and sheds more.
        assert found[load]["goodput"] > 0.5 * (1 - found[load]["taken_share"])
        assert found[load]["shed"] > found["peak_rate"]
        assert found[load]["p99_ms"] < 2000
    assert found["overload"]["without_retry_after"] == 0
    assert found["probes"]["failed"] == 0
    assert max(found["probes"]["most_ms"].values()) < 2000
    assert found["after"]["goodput"] > 0.25  # half of what is sent
    reason = "concurrency" if path == "/pool" else "delay"
    shed = working.metric("http_server_shed_requests_total", reason=reason)
    assert shed >= found["overload"]["shed"]
    assert shed == working.metric("http_server_request_duration_seconds_count", http_response_status_code="503")
