"""The branch with the default service, as the workflow publishes it."""

import sys
from pathlib import Path

from bakery import TEMPLATE, files_of, run
from conftest import Bake
from repositories import IDENTITY


def publish(service: Path, repository: Path, commit: str) -> str:
    command = (sys.executable, TEMPLATE / "scripts/publish_example.py", service, repository, commit)
    done = run(*command, cwd=TEMPLATE, **IDENTITY)
    assert done.returncode == 0, done.stdout
    return done.stdout


def log(repository: Path) -> list[str]:
    return run("git", "log", "--format=%s", "example", cwd=repository).stdout.splitlines()


def test_branch_has_the_files_of_the_service_and_a_commit_for_each_change(bake: Bake, tmp_path: Path) -> None:
    service, repository = bake(), tmp_path / "template.git"
    run("git", "init", "--quiet", "--bare", repository, cwd=tmp_path)

    publish(service, repository, "aaaa")
    assert "up to date" in publish(service, repository, "bbbb")
    (service / "README.md").unlink()
    publish(service, repository, "cccc")

    assert log(repository) == [f"The default service, generated from {commit}" for commit in ("cccc", "aaaa")]
    listed = run("git", "ls-tree", "-r", "--name-only", "example", cwd=repository).stdout.splitlines()
    assert listed == [path for path in files_of(service) if not path.startswith(".github/")]


def test_error_of_git_is_shown(tmp_path: Path) -> None:
    command = (sys.executable, TEMPLATE / "scripts/publish_example.py", tmp_path, tmp_path / "none", "aaaa")
    done = run(*command, cwd=TEMPLATE)

    assert done.returncode == 1
    assert "error: git ls-remote failed for the branch example; the branch is unchanged" in done.stdout
