"""The ways to a service: by default, by replay, from a local path, from a git URL, by a prompt for each question."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from bakery import NOTE, TEMPLATE, TOOLS, files_of, own_config, run
from conftest import Bake


def cookiecutter(out: Path, *arguments: str | Path, answers: str | None = None) -> str:
    command = [TOOLS / "cookiecutter", "--config-file", own_config(out), "--output-dir", out, *arguments]
    made = subprocess.run(command, input=answers, capture_output=True, text=True, check=False, cwd=out.parent)
    assert made.returncode == 0, made.stdout + made.stderr
    return made.stdout


def assert_same(one: Path, other: Path) -> None:
    assert files_of(one) == files_of(other)
    for path in files_of(one):
        if path == NOTE:  # tells the way
            continue
        assert (one / path).read_bytes() == (other / path).read_bytes(), path


def test_local_path(tmp_path: Path, bake: Bake) -> None:
    out = tmp_path / "out"
    cookiecutter(out, "--no-input", TEMPLATE)

    assert_same(out / "order-service", bake())


def test_relative_path(tmp_path: Path, small_template: Path) -> None:
    out = tmp_path / "out"
    cookiecutter(out, "--no-input", os.path.relpath(small_template, tmp_path))

    note = json.loads((out / "order-service" / NOTE).read_text())
    assert note["template"] == str(small_template)


def test_git_url(tmp_path: Path, bake: Bake, repository: Path) -> None:
    out = tmp_path / "out"
    cookiecutter(out, "--no-input", repository.as_uri(), "project_slug=from-git")

    assert_same(out / "from-git", bake(project_slug="from-git"))


def test_uvx(tmp_path: Path, bake: Bake) -> None:
    out = tmp_path / "out"
    made = run("uvx", "--quiet", "cookiecutter", "--no-input", "-o", out, TEMPLATE, cwd=tmp_path, HOME=str(tmp_path))

    assert made.returncode == 0, made.stdout
    assert_same(out / "order-service", bake())


def test_replay_gives_the_same_service_again(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    cookiecutter(first, "--no-input", TEMPLATE, "project_name=Größe 7", "description=Says \"it\" \\ 'so'.")

    shutil.copytree(f"{first}.cookiecutter", f"{second}.cookiecutter")
    cookiecutter(second, "--replay", TEMPLATE)

    assert_same(first / "grosse-7", second / "grosse-7")


def test_questions_are_few_and_readable(tmp_path: Path, bake: Bake) -> None:
    out = tmp_path / "out"
    asked = cookiecutter(out, TEMPLATE, answers="Invoice Service\n\nWrites invoices.\nacme\n3\n" + "\n" * 10)

    assert asked.count("[") >= 5
    for words in (
        "Name of the service",
        "Name of its folder, package and image",
        "Owner (GitHub user or organization)",
    ):
        assert words in " ".join(asked.split())
    answers = {"project_name": "Invoice Service", "description": "Writes invoices.", "python_version": "3.13"}
    assert_same(out / "invoice-service", bake(**answers))


def test_hooks_are_python_as_they_stand() -> None:
    for hook in (TEMPLATE / "hooks").glob("*.py"):
        compile(hook.read_text(), hook.name, "exec")
        checked = run(sys.executable, "-W", "error", "-c", f"import {hook.stem}", cwd=hook.parent)
        assert (checked.returncode, checked.stdout) == (0, "")
