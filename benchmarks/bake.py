"""Measures the time from the command to a rendered service, and to its first response, beside two peers.

    python -m benchmarks.bake <rounds> <the Python that services are installed on>

Renders as the template's README says, and starts as the rendered README says, until the first 200. Peers are those
that install from PyPI, by `uv tool run` in the newest version. The first round fills uv's cache and does not count.
"""

import os
import signal
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from statistics import median
from typing import NamedTuple

from .measure import fetch, free_port
from .processes import ALL_CORES, ROOT, SHOWN_CHARACTERS, BenchError, Child, run

TIMEOUT_SECONDS = 120


class Generator(NamedTuple):
    """Shell commands that render and start a service; the port is in $PORT."""

    name: str
    render: str
    folder: str
    start: str
    path: str


FASTAPI_TEMPLATE = "uv tool run --quiet --from fastapi_template fastapi_template --quiet --name orders"
GENERATORS = (
    Generator(
        name="cookiecutter-chassis",
        render=f"cookiecutter --no-input --default-config '{ROOT}'",
        folder="order-service",
        start="APP_PORT=$PORT exec make run",
        path="/readyz",
    ),
    Generator(
        name="fastapi_template, REST, no database, no telemetry",
        render=f"{FASTAPI_TEMPLATE} --api-type rest --db none --orm none --ci github",
        folder="orders",
        start="uv sync --locked --quiet && ORDERS_PORT=$PORT exec uv run -m orders",
        path="/api/health",
    ),
    Generator(
        name="fastapi-new, which installs while it renders",
        render="uv tool run --quiet fastapi-new orders",
        folder="orders",
        start="exec uv run fastapi dev --port $PORT",
        path="/",
    ),
)


def wait_for_response(generator: Generator, project: Path, python: str) -> None:
    """Run the service until its first 200."""
    port = free_port()
    env = {"UV_PYTHON": python, "PORT": str(port)}
    output = (project / "output.txt").open("w+b")
    options = {"cwd": project, "stdout": output, "stderr": output, "start_new_session": True}
    until = time.monotonic() + TIMEOUT_SECONDS
    with output, Child(("sh", "-c", generator.start), cores=ALL_CORES, env=env, **options) as child:
        try:
            while child.process.poll() is None and time.monotonic() < until:
                with suppress(OSError):
                    if fetch(port, generator.path)[0] == 200:
                        return
                time.sleep(0.01)
            output.seek(0)
            raise BenchError(f"no 200 on {generator.path}: {output.read().decode()[-SHOWN_CHARACTERS:]}")
        finally:
            with suppress(ProcessLookupError):
                os.killpg(child.process.pid, signal.SIGTERM)
            child.process.wait()


def main() -> None:
    rounds, python = int(sys.argv[1]), sys.argv[2]
    for generator in GENERATORS:
        times: list[tuple[float, float]] = []
        try:
            for _ in range(rounds + 1):
                with tempfile.TemporaryDirectory() as name:
                    began = time.perf_counter()
                    run(("sh", "-c", generator.render), cwd=Path(name), UV_PYTHON=python)
                    rendered = time.perf_counter() - began
                    wait_for_response(generator, Path(name, generator.folder), python)
                    times.append((rendered, time.perf_counter() - began))
        except (BenchError, OSError) as error:
            print(f"{generator.name}: {error}")
            continue
        rendering, response = (
            f"{median(seconds):.2f} s ({min(seconds):.2f} to {max(seconds):.2f})"
            for seconds in zip(*times[1:], strict=True)
        )
        print(f"{generator.name}: rendered after {rendering}, first response after {response}")


if __name__ == "__main__":
    main()
