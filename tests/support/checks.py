"""The checks of a service, run on one that has no environment of its own."""

import os
from pathlib import Path

from bakery import run

CHECKS = (("ruff", "check", "."), ("ruff", "format", "--check", "."), ("mypy",))


def check(project: Path, python: Path, *commands: tuple[str, ...]) -> None:
    """Run `commands`, or all `CHECKS`, with the tools beside `python`; each must succeed."""
    # mypy's cache of libraries serves every project that a worker checks.
    cache = python.parents[2] / f"mypy-{os.environ.get('PYTEST_XDIST_WORKER', 'alone')}"
    for tool, *arguments in commands or CHECKS:
        done = run(python.with_name(tool), *arguments, cwd=project, PYTHONPATH="src", MYPY_CACHE_DIR=str(cache))
        assert done.returncode == 0, f"{tool}: {done.stdout}"
