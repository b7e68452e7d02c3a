"""The checks of a service, run on one that has no environment of its own."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

from bakery import FIRST_MYPY_CACHE, MADE_ONCE, copy_folder, run

CHECKS = (("ruff", "check", "."), ("ruff", "format", "--check", "."), ("mypy",))


def check(project: Path, python: Path, *commands: tuple[str, ...]) -> None:
    """Run `commands`, or all `CHECKS`, with the tools beside `python`; each must succeed."""
    for tool, *arguments in commands or CHECKS:
        with cache_of(tool, python) as variables:
            done = run(python.with_name(tool), *arguments, cwd=project, PYTHONPATH="src", **variables)
        assert done.returncode == 0, f"{tool}: {done.stdout}"


@contextmanager
def cache_of(tool: str, python: Path) -> Iterator[dict[str, str]]:
    """The variables that let all workers fill and use one cache of mypy for an environment, one after the other.

    mypy spends 8 seconds of CPU on the libraries of an environment, and then half a second on each service. In the
    cache of an environment with other libraries, it would check those again that can use them. So each environment has
    a cache of its own, which begins as a copy of the first that was written.
    """
    if tool != "mypy" or "mypy" not in MADE_ONCE:
        yield {}
        return
    folder = MADE_ONCE["mypy"]
    cache, first, new = (folder / name for name in ("_".join(python.parts[1:-2]), FIRST_MYPY_CACHE, "new"))
    with FileLock(f"{cache}.lock"):
        if not cache.exists():
            with FileLock(f"{new}.lock"):
                if not first.exists():
                    new.mkdir(exist_ok=True)  # even if mypy writes nothing
                    yield {"MYPY_CACHE_DIR": str(new)}
                    new.rename(first)
                    return
            copy_folder(first, cache)
        yield {"MYPY_CACHE_DIR": str(cache)}
