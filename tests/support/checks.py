"""The checks of a service, run on one that has no environment of its own."""

from pathlib import Path

from bakery import run

CHECKS = (("ruff", "check", "."), ("ruff", "format", "--check", "."), ("mypy",))


def check(project: Path, python: Path, *commands: tuple[str, ...]) -> None:
    """Run `commands`, or all `CHECKS`, with the tools beside `python`; each must succeed."""
    for tool, *arguments in commands or CHECKS:
        done = run(python.with_name(tool), *arguments, cwd=project, PYTHONPATH="src")
        assert done.returncode == 0, f"{tool}: {done.stdout}"
