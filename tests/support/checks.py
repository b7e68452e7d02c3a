"""The checks of a service, run on one that has no environment of its own."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

from bakery import MADE_ONCE, TOOLS, run

CHECKS = (("ruff", "check", "."), ("ruff", "format", "--check", "."), ("mypy",))


def check(project: Path, python: Path, *commands: tuple[str, ...]) -> None:
    """Run `commands`, or all `CHECKS`, with the tools beside `python`; each must succeed."""
    for tool, *arguments in commands or CHECKS:
        with cache_of(tool, python) as variables:
            done = run(python.with_name(tool), *arguments, cwd=project, PYTHONPATH="src", **variables)
        assert done.returncode == 0, f"{tool}: {done.stdout}"


@contextmanager
def cache_of(tool: str, python: Path) -> Iterator[dict[str, str]]:
    """The variables that let all workers fill and use one cache of mypy, one after the other.

    mypy spends 8 seconds of CPU on the libraries of an environment, and then half a second on each service. The
    environment of the template has other libraries than those of services. In the same cache each would replace the
    other's results.
    """
    if tool != "mypy" or "mypy" not in MADE_ONCE:
        yield {}
        return
    cache = MADE_ONCE["mypy"] / ("template" if python.parent == TOOLS else "services")
    cache.parent.mkdir(exist_ok=True)
    with FileLock(cache.with_suffix(".lock")):
        yield {"MYPY_CACHE_DIR": str(cache)}
