"""Fixtures that the tests share: baked projects, one environment for all of them, and running services."""

import os
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from filelock import FileLock

from bakery import MADE_ONCE, SHARED, SHARED_BYTECODE, SOURCE, copy_repository, depend_on, render, run
from collector import Collector
from repositories import Repository
from running import Service, running

if TYPE_CHECKING:
    from playwright.async_api import Browser

RAN = "what ran on a row of options"
# By its variable, because some tests run this without the plugin of xdist.
WORKER = os.environ.get("PYTEST_XDIST_WORKER")

Bake = Callable[..., Path]
Start = Callable[..., Service]


@pytest.fixture
def bake(tmp_path: Path) -> Bake:
    """`bake(**answers)` renders the template and returns the project."""

    def render_here(**answers: str) -> Path:
        return render(tmp_path / "baked", answers)

    return render_here


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """The working tree as a git repository of its own."""
    return copy_repository(tmp_path / "cookiecutter-chassis")


@pytest.fixture(scope="session")
def small_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The template as a git repository, with few files, for tests of what the hooks do. Don't change it.

    The skeleton has only its scripts, which the hook calls, and the core only its metadata. Rendering takes a third.
    """
    small = Repository(copy_repository(tmp_path_factory.mktemp("small") / "cookiecutter-chassis"))
    kept = (f":!{SOURCE.name}/scripts", ":!chassis/pyproject.toml", ":!chassis/README.md")
    small.git("rm", "-r", "--quiet", SOURCE.name, "chassis", *kept)
    small.commit("Keep few files")
    return small.folder


@pytest.fixture(scope="session")
def common(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all workers have in common."""
    own = tmp_path_factory.getbasetemp()
    return own.parent if WORKER else own


@pytest.fixture(scope="session", autouse=True)
def _open_folders(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Let other users enter pytest's folders: the PostgreSQL of root runs as the user `nobody`."""
    base = tmp_path_factory.getbasetemp()
    for folder in (base, *base.parents):
        if folder.owner() == base.owner() and folder.is_relative_to(tempfile.gettempdir()):
            folder.chmod(folder.stat().st_mode | 0o011)


@pytest.fixture(scope="session", autouse=True)
def _shared_caches(common: Path) -> None:
    """Python compiles a module once in a run, outside of the folders that tests compare, and mypy checks one once.

    So does cookiecutter with the files of the template.
    """
    MADE_ONCE["rendered"] = common / f"rendered-{WORKER or 'alone'}"
    MADE_ONCE["template"] = common / f"template-{WORKER or 'alone'}"
    MADE_ONCE["mypy"] = common / "mypy"
    SHARED["PYTHONPYCACHEPREFIX"] = str(common / "bytecode")
    for folder in SHARED_BYTECODE.values():
        (common / "bytecode" / folder).mkdir(parents=True, exist_ok=True)
    os.environ["CHASSIS_COMPILED_TEMPLATES"] = SHARED["CHASSIS_COMPILED_TEMPLATES"] = str(common / "templates")
    (common / "templates").mkdir(exist_ok=True)
    MADE_ONCE["mypy"].mkdir(exist_ok=True)
    SHARED["MYPY_CACHE_DIR"] = str(common / f"mypy-{WORKER or 'alone'}")


@pytest.fixture(scope="session")
def install(common: Path) -> Bake:
    """`install(**answers)` is a service with its environment in .venv, installed once for all workers.

    `extra` is one of the core, which the service then depends on.
    """

    def once(extra: str = "", **answers: str) -> Path:
        folder = common / "-".join(["installed", *filter(None, [extra]), *answers.values()])
        done = folder.with_suffix(".done")
        with FileLock(folder.with_suffix(".lock")):
            if not done.exists():
                project = render(folder, answers)
                if extra:
                    depend_on(project, extra)
                made = run("make", "install", cwd=project)
                assert made.returncode == 0, made.stdout
                done.touch()
        return folder / "order-service"

    return once


@pytest.fixture(scope="session")
def installed(install: Bake) -> Path:
    """The default service with its environment in .venv. Don't change it."""
    return install()


@pytest.fixture(scope="session")
def python(installed: Path) -> Path:
    """A Python that has everything a service needs."""
    return installed / ".venv/bin/python"


@pytest.fixture(scope="session")
def client_python(install: Bake) -> Path:
    """A Python that has what a service with clients needs."""
    return install(extra="client") / ".venv/bin/python"


@pytest.fixture
def start(python: Path, tmp_path: Path) -> Iterator[Start]:
    """`start(project, **environment)` runs a service, which ends with the test."""
    home = tmp_path / "home"
    home.mkdir()
    with ExitStack() as stack:
        yield lambda project, **variables: stack.enter_context(running(python, project, home, **variables))


@pytest.fixture(scope="module")
def service(installed: Path, python: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """The default service, running with its defaults, for all tests of a module that only ask."""
    with running(python, installed, tmp_path_factory.mktemp("home")) as one:
        yield one.ready()


@pytest.fixture
def collector() -> Iterator[Collector]:
    """A place that receives spans by OTLP over HTTP."""
    with Collector() as one:
        yield one


@pytest.fixture(scope="module")
async def browser() -> AsyncIterator["Browser"]:
    """A browser for all tests of a module."""
    from docs_page import chromium

    async with chromium() as one:
        yield one


def pytest_configure(config: pytest.Config) -> None:
    """Let the second worker import the folders in another order, so that each compiles half of the files for both."""
    if WORKER == "gw1" and config.args == config.getini("testpaths"):
        config.args.reverse()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take longest, so that no worker has one of them left while the others have ended.

    The workers need the same order.
    """
    tests = Path(__file__).parent
    items.sort(key=lambda item: (item.get_closest_marker("long") is None, item.path.is_relative_to(tests)))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Each option and each pair of options, and what ran on the service that has them."""
    rows: list[tuple[dict[str, str], dict[str, str]]] = [
        value
        for reports in terminalreporter.stats.values()
        for report in reports
        for name, value in getattr(report, "user_properties", ())
        if name == RAN and report.when == "call"
    ]
    if not rows:
        return
    pairs = {pair for answers, _ in rows for pair in combinations(answers.items(), 2)}
    steps = max((list(ran) for _, ran in rows), key=len)
    lines = [[*rows[0][0], *steps]]
    lines += [[*answers.values(), *(ran.get(step, "no") for step in steps)] for answers, ran in rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    terminalreporter.section(f"options: {len(pairs)} pairs of answers in {len(rows)} services")
    for line in lines:
        terminalreporter.line("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
