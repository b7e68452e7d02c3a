"""How long it takes from the command to a rendered service, and from there to its first answer, beside two peers.

    python benchmarks/bake.py <rounds> <the Python that services are installed on>

Renders a service as the template's README says, and then does what the rendered README says to start it, until
the first 200. Peers are those that install from PyPI, by `uv tool run` in the newest version. Packages come from
uv's cache, which the first round, that isn't counted, has filled. Prints medians, and the least and the most.
"""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from urllib.error import URLError
from urllib.request import urlopen

TEMPLATE = Path(__file__).parents[1]
TOOLS = Path(sys.executable).parent
PATIENCE_SECONDS = 120


@dataclass(frozen=True)
class Generator:
    """What writes a service, how the service is started, and where it answers; `{port}` is put in."""

    name: str
    generate: tuple[str, ...]
    folder: str
    start: tuple[str, ...]
    path: str
    env: dict[str, str] = field(default_factory=dict)


GENERATORS = (
    Generator(
        "cookiecutter-chassis",
        ("cookiecutter", "--no-input", "--default-config", str(TEMPLATE)),
        "order-service",
        ("make", "run"),
        "/readyz",
        {"APP_PORT": "{port}"},
    ),
    Generator(
        "fastapi_template, REST, no database, nothing observed",
        (
            *("uv", "tool", "run", "--quiet", "--from", "fastapi_template", "fastapi_template", "--quiet"),
            *("--name", "orders", "--api-type", "rest", "--db", "none", "--orm", "none", "--ci", "github"),
        ),
        "orders",
        ("sh", "-c", "uv sync --locked --quiet && exec uv run -m orders"),
        "/api/health",
        {"ORDERS_PORT": "{port}"},
    ),
    Generator(
        "fastapi-new, which installs as well",
        ("uv", "tool", "run", "--quiet", "fastapi-new", "orders"),
        "orders",
        ("uv", "run", "fastapi", "dev", "--port", "{port}"),
        "/",
    ),
)


def rendered(one: Generator, folder: Path, environment: dict[str, str]) -> float:
    """Render into `folder`; the seconds it took."""
    began = time.perf_counter()
    made = subprocess.run(
        one.generate,
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    took = time.perf_counter() - began
    if made.returncode or not (folder / one.folder).is_dir():
        raise RuntimeError(f"nothing was rendered: {made.stdout[-500:]}")
    return took


def answered(one: Generator, project: Path, environment: dict[str, str]) -> float:
    """Run the service until it answers; the seconds until then."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    with tempfile.TemporaryFile("w+") as output:
        began = time.perf_counter()
        process = subprocess.Popen(
            [part.format(port=port) for part in one.start],
            cwd=project,
            env=environment | {name: value.format(port=port) for name, value in one.env.items()},
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        try:
            while process.poll() is None and time.perf_counter() < began + PATIENCE_SECONDS:
                try:
                    with urlopen(f"http://127.0.0.1:{port}{one.path}"):
                        return time.perf_counter() - began
                except (URLError, ConnectionError):
                    time.sleep(0.01)
            output.seek(0)
            raise RuntimeError(f"{one.path} did not answer 200: {output.read()[-500:]}")
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            process.wait()


def main() -> None:
    rounds, python = int(sys.argv[1]), sys.argv[2]
    environment = {**os.environ, "UV_PYTHON": python, "PATH": f"{TOOLS}{os.pathsep}{os.environ['PATH']}"}
    environment.pop("VIRTUAL_ENV", None)
    for one in GENERATORS:
        trees, answers = list[float](), list[float]()
        try:
            for number in range(rounds + 1):
                with tempfile.TemporaryDirectory() as name:
                    folder = Path(name)
                    tree = rendered(one, folder, environment)
                    answer = answered(one, folder / one.folder, environment)
                if number:
                    trees.append(tree)
                    answers.append(tree + answer)
        except RuntimeError as error:
            print(f"{one.name}: {error}")
            continue
        print(f"{one.name}: to the rendered tree {told(trees)}, to the first answer {told(answers)}")
    print("goals: 1 s and 20 s")


def told(seconds: list[float]) -> str:
    return f"{median(seconds):.2f} s ({min(seconds):.2f} to {max(seconds):.2f})"


if __name__ == "__main__":
    main()
