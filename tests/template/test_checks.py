"""The rendered service passes its own checks as rendered."""

from pathlib import Path

from bakery import files_of, run
from conftest import Bake


def test_default_service_passes_its_own_checks(installed: Path) -> None:
    before = {path: (installed / path).read_bytes() for path in tracked(installed)}

    checked = run("make", "check", cwd=installed, CI="true")

    assert checked.returncode == 0, checked.stdout
    assert {path: (installed / path).read_bytes() for path in tracked(installed)} == before


def test_floors_are_true(bake: Bake) -> None:
    """The oldest libraries that pyproject.toml allows, all at once."""
    project = bake()
    for command in (
        ("uv", "sync", "--quiet", "--resolution", "lowest-direct"),
        (".venv/bin/ruff", "check"),
        (".venv/bin/ruff", "format", "--check"),
        (".venv/bin/mypy",),
        (".venv/bin/pytest", "--quiet", "--cov"),
    ):
        checked = run(*command, cwd=project)
        assert checked.returncode == 0, checked.stdout


def tracked(project: Path) -> list[str]:
    """What people edit, and no cache."""
    ours = [path for path in files_of(project) if path.startswith(("src/", "tests/", ".github/"))]
    return [path for path in ours if "__pycache__" not in path]
