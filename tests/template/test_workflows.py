"""Workflows of the template and of a service: valid, least privileged, pinned, and the same commands."""

import re
from pathlib import Path

import pytest
import yaml

from bakery import TEMPLATE, run
from conftest import Bake

ZIZMOR = "zizmor>=1.16"
CHECKER = "check-jsonschema>=0.34"


@pytest.fixture(params=["template", "service"])
def repository(request: pytest.FixtureRequest, bake: Bake) -> Path:
    return TEMPLATE if request.param == "template" else bake()


def test_workflows_are_valid(repository: Path) -> None:
    check = ("uv", "tool", "run", "--quiet", CHECKER, "--builtin-schema")
    workflows = sorted((repository / ".github/workflows").iterdir())

    checked = run(*check, "vendor.github-workflows", *workflows, cwd=repository)
    assert checked.returncode == 0, checked.stdout
    checked = run(*check, "vendor.dependabot", repository / ".github/dependabot.yml", cwd=repository)
    assert checked.returncode == 0, checked.stdout


def test_zizmor_has_nothing_to_say(repository: Path) -> None:
    command = ("uv", "tool", "run", "--quiet", ZIZMOR, "--offline", "--persona=pedantic", "--no-progress")
    checked = run(*command, ".github", cwd=repository)

    assert checked.returncode == 0, checked.stdout


def test_actions_are_pinned_by_commit_with_their_version_beside(repository: Path) -> None:
    text = "\n".join(one.read_text() for one in (repository / ".github/workflows").iterdir())
    used = re.findall(r"uses: (.*)", text)

    assert used
    assert [one for one in used if not re.fullmatch(r"[\w./-]+@[0-9a-f]{40} # v[\d.]+", one)] == []


def test_nothing_is_granted_that_a_job_does_not_ask_for(repository: Path) -> None:
    for path in (repository / ".github/workflows").iterdir():
        workflow = yaml.safe_load(path.read_text())
        assert workflow["permissions"] == {}, path.name
        assert workflow["concurrency"], path.name
        assert all("timeout-minutes" in job and job["permissions"] for job in workflow["jobs"].values()), path.name


def test_only_a_release_may_write_packages(bake: Bake) -> None:
    workflows = bake() / ".github/workflows"
    jobs = {
        (path.stem, name): job["permissions"]
        for path in workflows.iterdir()
        for name, job in yaml.safe_load(path.read_text())["jobs"].items()
    }

    assert {name for name, granted in jobs.items() if "write" in granted.values()} == {("image", "release")}


def test_workflows_run_what_people_run(bake: Bake) -> None:
    project = bake()
    targets = set(re.findall(r"^([\w.]+):", (project / "Makefile").read_text(), re.MULTILINE))
    targets |= set(re.findall(r"^([\w.]+):", (project / "deploy/deploy.mk").read_text(), re.MULTILINE))
    called = {
        path.stem: set(re.findall(r"(?:run: |\$\()make(?: --[\w-]+)* ([\w.]+)", path.read_text()))
        for path in (project / ".github/workflows").iterdir()
    }

    assert called == {"checks": {"check"}, "image": {"contexts"}, "kind": {"kind"}}
    assert set().union(*called.values()) <= targets
