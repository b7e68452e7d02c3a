"""`make handler` writes what a person would, or nothing."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from bakery import files_of, package_of, run
from checks import CHECKS, check
from conftest import Bake


def add(project: Path, name: str) -> subprocess.CompletedProcess[str]:
    return run(sys.executable, "scripts/handler.py", name, cwd=project)


def app_of(project: Path) -> Path:
    return project / "src" / package_of(project) / "app.py"


@pytest.mark.parametrize("name", ["invoices", "credit-notes", "z80"])
def test_added_handler_passes_the_checks(bake: Bake, python: Path, name: str) -> None:
    project = bake()
    before = set(app_of(project).read_text().splitlines())

    added = add(project, name)

    assert added.returncode == 0, added.stdout
    assert len(set(app_of(project).read_text().splitlines()) - before) == 2
    module = name.replace("-", "_")
    check(project, python, *CHECKS, ("python", "-m", "pytest", "-q", "--no-cov", f"tests/test_{module}.py"))


def test_handlers_are_added_in_order(bake: Bake, python: Path) -> None:
    project = bake()
    for name in ("zebras", "apples", "mice"):
        assert add(project, name).returncode == 0

    text = app_of(project).read_text()

    assert re.findall(r'app\.add_route\("(.*?)"', text) == [
        "/orders",
        "/orders/{order_id}",
        "/zebras",
        "/apples",
        "/mice",
    ]
    check(project, python, ("ruff", "check", "src"))  # imports are in order


def test_handler_is_added_to_a_service_without_routes(bake: Bake) -> None:
    project = bake(example="none")

    assert add(project, "invoices").returncode == 0

    text = app_of(project).read_text()
    assert '    app.add_route("/invoices", Invoices())\n    return app\n' in text
    assert "\nfrom .invoices.handlers import Invoices\nfrom .settings" in text


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("", "name is not set"),
        ("Invoices", "must be at most 40 lower-case letters"),
        ("../x", "must be at most 40 lower-case letters"),
        ("class", "is a Python keyword"),
        ("orders", "src/order_service/orders already exists"),
        ("app", "src/order_service/app.py already exists"),
        ("catalogue", "app.py already uses the name Catalogue"),
    ],
)
def test_name_that_cannot_be_used_is_rejected_with_a_reason(bake: Bake, name: str, reason: str) -> None:
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
        ("    app = App(settings)\n", "    app = App(settings)\n    app.add_routes(*others())\n", None),
        ("    return app\n", "    return with_more(app)\n", "no create_app(...) that ends with `return app`"),
        ("def create_app(", "def make_app(", "no create_app(...) that ends with `return app`"),
        ("    return app\n", "    return app((\n", "was never closed"),
        ("/orders/{order_id}", "/invoices", "already has the route /invoices"),
    ],
)
def test_app_of_another_shape_is_extended_right_or_not_at_all(
    bake: Bake, old: str, new: str, reason: str | None
) -> None:
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


@pytest.mark.parametrize("name", ["x'; touch harm; '", "$(shell touch harm)x", "$$(touch harm)x", "`touch harm`"])
@pytest.mark.parametrize("target", ["handler", "migration"])
def test_make_does_not_execute_a_name(bake: Bake, target: str, name: str) -> None:
    project = bake(database="postgres")
    show = 'RUN=printf "%s\\n"'

    # Without `install`: the name is printed, and not used.
    done = run("make", "--silent", "--old-file=install", target, f"name={name}", show, "UV=true", cwd=project)

    assert done.stdout.splitlines()[-1] == name
    assert not (project / "harm").exists()
