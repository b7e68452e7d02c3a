"""Measures the time from the command to a rendered service, and to its first response, beside two peers.

    python benchmarks/bake.py <rounds> <the Python that services are installed on>

Renders as the template's README says, and starts as the rendered README says, until the first 200. Peers are those
that install from PyPI, by `uv tool run` in the newest version. The first round fills uv's cache and does not count.
"""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from statistics import median
from typing import NamedTuple
from urllib.error import URLError
from urllib.request import urlopen

TEMPLATE = Path(__file__).parents[1]
TIMEOUT_SECONDS = 120


class Generator(NamedTuple):
    """Commands that render and start a service; `{port}` and `{template}` are replaced."""

    name: str
    render: str
    folder: str
    start: str
    path: str


GENERATORS = (
    Generator(
        "cookiecutter-chassis",
        "cookiecutter --no-input --default-config '{template}'",
        "order-service",
        "APP_PORT={port} exec make run",
        "/readyz",
    ),
    Generator(
        "fastapi_template, REST, no database, no telemetry",
        "uv tool run --quiet --from fastapi_template fastapi_template --quiet"
        " --name orders --api-type rest --db none --orm none --ci github",
        "orders",
        "uv sync --locked --quiet && ORDERS_PORT={port} exec uv run -m orders",
        "/api/health",
    ),
    Generator(
        "fastapi-new, which installs while it renders",
        "uv tool run --quiet fastapi-new orders",
        "orders",
        "exec uv run fastapi dev --port {port}",
        "/",
    ),
)


def rendered(generator: Generator, folder: Path, env: dict[str, str]) -> float:
    """Render into `folder`; returns seconds."""
    began = time.perf_counter()
    command = generator.render.format(template=TEMPLATE)
    done = subprocess.run(["sh", "-c", command], cwd=folder, env=env, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - began
    if done.returncode or not (folder / generator.folder).is_dir():
        raise RuntimeError(f"rendered nothing: {(done.stdout + done.stderr)[-500:]}")
    return seconds


def responded(generator: Generator, project: Path, env: dict[str, str]) -> float:
    """Run the service until its first response; returns seconds."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with tempfile.TemporaryFile("w+") as output:
        began = time.perf_counter()
        command = ["sh", "-c", generator.start.format(port=port)]
        process = subprocess.Popen(command, cwd=project, env=env, stdout=output, stderr=output, start_new_session=True)
        try:
            while process.poll() is None and time.perf_counter() < began + TIMEOUT_SECONDS:
                try:
                    with urlopen(f"http://127.0.0.1:{port}{generator.path}"):
                        return time.perf_counter() - began
                except (URLError, ConnectionError):
                    time.sleep(0.01)
            output.seek(0)
            raise RuntimeError(f"no 200 on {generator.path}: {output.read()[-500:]}")
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            process.wait()


def main() -> None:
    rounds, python = int(sys.argv[1]), sys.argv[2]
    env = {name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"}
    env |= {"UV_PYTHON": python, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{env['PATH']}"}
    for generator in GENERATORS:
        times: list[tuple[float, float]] = []
        try:
            for _ in range(rounds + 1):
                with tempfile.TemporaryDirectory() as name:
                    tree = rendered(generator, Path(name), env)
                    times.append((tree, tree + responded(generator, Path(name, generator.folder), env)))
        except RuntimeError as error:
            print(f"{generator.name}: {error}")
            continue
        trees, responses = zip(*times[1:], strict=True)
        print(f"{generator.name}: rendered after {text(trees)}, first response after {text(responses)}")


def text(seconds: tuple[float, ...]) -> str:
    return f"{median(seconds):.2f} s ({min(seconds):.2f} to {max(seconds):.2f})"


if __name__ == "__main__":
    main()
