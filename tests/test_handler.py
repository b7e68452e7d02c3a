"""`make handler` writes what a person would, or nothing."""

import subprocess
import sys
from pathlib import Path

import pytest

from bakery import files_of, package_of, run
from conftest import Bake


def add(project: Path, name: str) -> subprocess.CompletedProcess[str]:
    return run(sys.executable, "scripts/handler.py", name, cwd=project)


def app_of(project: Path) -> Path:
    return project / "src" / package_of(project) / "app.py"


@pytest.mark.parametrize("name", ["invoices", "credit-notes", "z80"])
def test_what_it_writes_passes_the_checks(bake: Bake, installed: Path, name: str) -> None:
    project = bake()
    before = set(app_of(project).read_text().splitlines())

    added = add(project, name)

    assert added.returncode == 0, added.stdout
    assert len(set(app_of(project).read_text().splitlines()) - before) == 2
    tools = installed / ".venv/bin"
    module = name.replace("-", "_")
    for command in (
        ["ruff", "check", "src", "tests", "scripts"],
        ["ruff", "format", "--check", "src", "tests", "scripts"],
        ["mypy", f"src/order_service/handlers/{module}.py", f"tests/test_{module}.py"],
        ["python", "-m", "pytest", "-q", f"tests/test_{module}.py"],
    ):
        checked = run(tools / command[0], *command[1:], cwd=project, PYTHONPATH=str(project / "src"))
        assert checked.returncode == 0, checked.stdout


def test_one_after_the_other_stand_in_order(bake: Bake, installed: Path) -> None:
    project = bake()
    for name in ("zebras", "apples", "mice"):
        assert add(project, name).returncode == 0

    text = app_of(project).read_text()

    assert [line.rpartition("Route(")[2].split('"')[1] for line in text.splitlines() if "Route(" in line] == [
        "/orders",
        "/orders/{order_id}",
        "/zebras",
        "/apples",
        "/mice",
    ]
    checked = run(installed / ".venv/bin/ruff", "check", "src", cwd=project)  # which wants imports in order
    assert checked.returncode == 0, checked.stdout


def test_first_one_after_the_example_has_gone(bake: Bake) -> None:
    project = bake()
    app = app_of(project)
    lines = app.read_text().splitlines(keepends=True)
    begin = next(number for number, line in enumerate(lines) if "routes=[" in line)
    end = next(number for number, line in enumerate(lines) if number > begin and line.strip() == "],")
    kept = [*lines[:begin], "        routes=[],\n", *lines[end + 1 :]]
    app.write_text("".join(line for line in kept if "handlers" not in line))

    assert add(project, "invoices").returncode == 0

    assert '        routes=[\n            Route("/invoices", Invoices()),\n        ],\n' in app.read_text()
    assert "\nfrom .handlers.invoices import Invoices\nfrom .settings" in app.read_text()


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("", "which?"),
        ("Invoices", "is not lower case words"),
        ("../x", "is not lower case words"),
        ("class", "is a word of the Python language"),
        ("orders", "orders.py is there already"),
        ("app", "uses the name App already"),
    ],
)
def test_what_does_not_work_is_refused_with_a_reason(bake: Bake, name: str, reason: str) -> None:
    project = bake()
    before = {path: (project / path).read_bytes() for path in files_of(project)}

    refused = add(project, name)

    assert refused.returncode == 1
    assert refused.stdout.startswith("error: ")
    assert reason in refused.stdout
    assert {path: (project / path).read_bytes() for path in files_of(project)} == before


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("routes=[", "routes=[*others(), ", None),
        ("        routes=[\n", "        routes=some_routes(),\n        more=[\n", "no single App(routes=[...])"),
        ("return App(", "return Application(", "no single App(routes=[...])"),
        ("    return App(", "    return App((", "was never closed"),
    ],
)
def test_app_of_another_shape_is_left_alone_or_right(bake: Bake, old: str, new: str, reason: str | None) -> None:
    app = app_of(bake())
    app.write_text(app.read_text().replace(old, new))
    before = app.read_text()

    done = add(app.parents[2], "invoices")

    if reason is None:
        assert done.returncode == 0, done.stdout
        compile(app.read_text(), "app.py", "exec")
    else:
        assert (done.returncode, reason in done.stdout) == (1, True), done.stdout
        assert app.read_text() == before
