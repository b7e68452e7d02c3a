"""How long it takes from the command to a rendered service, and from there to its first answer.

    python benchmarks/bake.py <rounds>

Renders the default service by cookiecutter's command, and then does what its README says, `make run`, until the
first 200. Packages come from uv's cache, which the first round, that isn't counted, has filled. Prints medians,
and the least and the most, in seconds.
"""

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

TEMPLATE = Path(__file__).parents[1]
TOOLS = Path(sys.executable).parent


def rendered(folder: Path, environment: dict[str, str]) -> float:
    """Render into `folder`; the seconds it took."""
    began = time.perf_counter()
    command: list[str | Path] = [TOOLS / "cookiecutter", "--no-input", "--default-config", "-o", folder, TEMPLATE]
    subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def answered(project: Path, environment: dict[str, str]) -> float:
    """Run the service until it is ready; the seconds until then."""
    began = time.perf_counter()
    process = subprocess.Popen(
        ["make", "run"], cwd=project, env=environment, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        for line in process.stdout or ():
            if re.search(r'"event":"ready"', line):
                return time.perf_counter() - began
    finally:
        os.killpg(process.pid, signal.SIGINT)
        process.communicate()
    sys.exit("the service did not start")


def main() -> None:
    rounds = int(sys.argv[1])
    environment = {**os.environ, "PATH": f"{TOOLS}{os.pathsep}{os.environ['PATH']}", "APP_PORT": "0"}
    environment.pop("VIRTUAL_ENV", None)
    trees, answers = list[float](), list[float]()
    for number in range(rounds + 1):
        with tempfile.TemporaryDirectory() as folder:
            tree = rendered(Path(folder), environment)
            answer = answered(Path(folder) / "order-service", environment)
        if number:
            trees.append(tree)
            answers.append(tree + answer)
    for what, goal, found in (("to the rendered tree", 1, trees), ("to the first answer", 20, answers)):
        print(f"{what}: {median(found):.2f} s ({min(found):.2f} to {max(found):.2f}), goal {goal} s")


if __name__ == "__main__":
    main()
