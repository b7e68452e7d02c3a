"""Where a service takes the core from: a shared folder, a member of a uv workspace, or a git repository at a tag."""

import json
import os
import signal
import subprocess
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import yaml

from bakery import HOME, clean_environment, files_of, run
from conftest import Bake
from repositories import IDENTITY
from running import PATIENCE_SECONDS, Lines
from sharing import (
    FOLDER,
    WORKSPACE,
    commit_all,
    git,
    service_at_a_tag,
    services_that_share,
    template_repository,
)

pytestmark = pytest.mark.long

WAYS = ["folder", "workspace", "tag"]


@dataclass(frozen=True)
class Place:
    """Services that take the core from one place; `core` is their folder of it, if there is one."""

    template: Path
    services: list[Path]
    core: Path | None
    environments: list[Path]


def place(way: str, folder: Path) -> Place:
    template = template_repository(folder / "template")
    repository = folder / "my repository"
    if way == "tag":
        service = service_at_a_tag(folder / "my service", template)
        return Place(template, [service], None, [service / ".venv"])
    services = services_that_share(repository, WORKSPACE if way == "workspace" else FOLDER, "orders", "billing")
    owners = [repository] if way == "workspace" else services
    return Place(template, services, repository / "libs/chassis", [owner / ".venv" for owner in owners])


@pytest.fixture(params=WAYS, scope="module")
def shared(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A place for all tests that change nothing in it."""
    return place(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(params=WAYS, scope="module")
def own(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A place for the tests that change it. None of them needs what another has changed."""
    return place(request.param, tmp_path_factory.mktemp(f"own-{request.param}"))


@contextmanager
def changed(file: Path, old: str, new: str) -> Iterator[None]:
    """A file with another text, as long as this lasts."""
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))
    try:
        yield
    finally:
        file.write_text(text)


def make(project: Path, *arguments: str, fails: bool = False, **variables: str) -> str:
    done = run("make", "--no-print-directory", *arguments, cwd=project, **{**IDENTITY, **variables})
    assert bool(done.returncode) is fails, done.stdout
    return done.stdout


@contextmanager
def started(target: str, project: Path) -> Iterator[Lines]:
    """Start a service by make, and stop it as Ctrl-C does."""
    process = subprocess.Popen(
        ["make", target],
        cwd=project,
        env=clean_environment(HOME, APP_HOST="127.0.0.1", APP_PORT="0"),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    lines = Lines(process.stdout)
    try:
        yield lines
    finally:
        os.killpg(process.pid, signal.SIGINT)
        process.wait(PATIENCE_SECONDS)
        print("\n".join(lines.all()))


def name_at(lines: Lines, *, start: int = 1) -> str:
    """The name that the service tells at /info, when it is ready for the `start`th time."""
    lines.wait_for(lambda line: '"ready"' in line, count=start)
    *_, listening = lines.wait_for(lambda line: '"listening"' in line, count=start)
    response = httpx.get(f"http://127.0.0.1:{json.loads(listening)['port']}/info", trust_env=False)
    return str(response.json()["name"])


def test_every_service_passes_its_checks(shared: Place) -> None:
    first, *others = shared.services
    if shared.environments[0].parent not in shared.services:  # in a workspace; the code is the same everywhere
        make(shared.services[-1], "check", CI="true")
    else:
        make(first, "test", "ARGS=--no-cov -k catalogue")
    for service in others:  # they serve in the next test
        make(service, "install")

    top = shared.core.parents[1] if shared.core else shared.services[0]
    assert sorted(path.parent for path in top.rglob("pyvenv.cfg")) == sorted(shared.environments)
    assert [service for service in shared.services if (service / "chassis").exists()] == []


def test_make_run_and_make_dev_serve(shared: Place) -> None:
    service = shared.services[-1]
    with started("run", service) as lines:
        assert name_at(lines) == service.name
    if shared.environments[0].parent in shared.services:
        return  # in a workspace, the environment is elsewhere
    with started("dev", service) as lines:
        assert name_at(lines) == service.name
        settings = next(service.glob("src/*/settings.py"))
        settings.write_text(settings.read_text())
        assert name_at(lines, start=2) == service.name


def test_core_is_edited_in_place_where_there_is_a_folder(shared: Place) -> None:
    service = shared.services[0]
    make(service, "install")
    where = run(
        shared.environments[0] / "bin/python", "-c", "import chassis; print(chassis.__file__)", cwd=service
    ).stdout.strip()

    if shared.core is None:
        assert "site-packages" in where
    else:
        assert Path(where) == shared.core / "src/chassis/__init__.py"


@pytest.mark.parametrize("own", ["workspace"], indirect=True, scope="module")  # the environment is elsewhere
def test_make_handler_and_make_fix(own: Place) -> None:
    service = own.services[0]
    make(service, "handler", "name=invoices")
    make(service, "fix")
    assert "passed" in make(service, "test", "ARGS=--no-cov -k invoices")


@pytest.mark.parametrize("shared", ["folder", "workspace"], indirect=True, scope="module")
def test_edited_core_fails_the_checks(shared: Place) -> None:
    assert shared.core is not None
    service = shared.services[-1]
    with changed(shared.core / "src/chassis/app.py", "\nclass App", "\n# Ours.\nclass App"):
        done = run("uv", "run", "--quiet", "scripts/vendor.py", "verify", cwd=service)

    assert done.returncode == 1
    assert "these files of ../../libs/chassis/ differ from the template: src/chassis/app.py." in done.stdout


def test_make_chassis_replaces_the_shared_folder(own: Place) -> None:
    novelty = own.template / "chassis/src/chassis/novelty.py"
    novelty.write_text('"""Something new."""\n')
    commit_all(own.template, "Novelty")
    git(own.template, "tag", "v2")
    first, *others = own.services

    if own.core is None:
        said = make(first, "chassis", f"FROM={own.template.as_uri()}", "TO=v2", fails=True)
        assert "error: pyproject.toml takes the core from a git repository; change its tag in" in said
        file = first / "pyproject.toml"
        file.write_text(file.read_text().replace('tag = "v1"', 'tag = "v2"'))
        assert run("uv", "lock", cwd=first).returncode == 0
    else:
        make(first, "chassis", f"FROM={own.template.as_uri()}", "TO=v2")
        assert "src/chassis/novelty.py" in files_of(own.core)
        assert not (first / "chassis").exists()
    for service in (first, *others):
        make(service, "install")
        for command in (["scripts/vendor.py", "verify"], ["python", "-c", "import chassis.novelty"]):
            done = run("uv", "run", "--quiet", *command, cwd=service)
            assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("own", ["folder"], indirect=True, scope="module")  # cruft sees no difference
def test_make_update_leaves_the_core_out(own: Place) -> None:
    """Of services that were generated from the repository, as people do."""
    service = own.services[0]
    repository = own.core.parents[1] if own.core else service
    note = json.loads((service / ".cruft.json").read_text())
    commit = git(own.template, "rev-parse", "HEAD")
    note |= {"template": own.template.as_uri(), "commit": commit}
    (service / ".cruft.json").write_text(json.dumps(note, indent=2) + "\n")
    commit_all(repository, "Services")
    before = own.core and {path: (own.core / path).read_bytes() for path in files_of(own.core)}
    (own.template / "chassis/src/chassis/news.py").write_text('"""Something new."""\n')
    with (own.template / "{{cookiecutter.project_slug}}/README.md").open("a") as file:
        file.write("\nNovelty.\n")
    newest = commit_all(own.template, "Novelty")

    said = make(service, "update")

    assert "Updated 2 files" in said
    assert not (service / "chassis").exists()
    assert before == (own.core and {path: (own.core / path).read_bytes() for path in files_of(own.core)})
    assert (service / "README.md").read_text().endswith("\nNovelty.\n")
    assert json.loads((service / ".cruft.json").read_text())["commit"] == newest


def test_contexts_hold_the_core_and_the_locked_libraries(shared: Place) -> None:
    service = shared.services[-1]

    lines = make(service, "contexts").splitlines()

    assert lines == ["chassis=.cache/image/chassis", "lock=.cache/image/lock"]
    core = service / ".cache/image/chassis"
    expected = shared.template / "chassis"
    assert {path: (core / path).read_bytes() for path in files_of(core) if path != "SHA256SUMS"} == {
        path: (expected / path).read_bytes() for path in files_of(expected) if not path.startswith("tests/")
    }
    packages = tomllib.loads((service / ".cache/image/lock/pylock.toml").read_text())["packages"]
    names = {package["name"] for package in packages}
    assert {"uvloop", "starlette", "pydantic"} <= names
    assert not {"pytest", "asgi-chassis", *(service.name for service in shared.services)} & names
    assert all(wheel["hashes"]["sha256"] for package in packages for wheel in package["wheels"])


def test_lock_file_that_is_not_up_to_date_stops_the_image(shared: Place) -> None:
    service = shared.services[-1]
    make(service, "contexts")

    with changed(service / "pyproject.toml", '"structlog"', '"structlog",\n    "tomli-w>=1"'):
        said = make(service, "image", "ENGINE=false", fails=True)

    assert "uv.lock` needs to be updated" in said
    assert "run `uv lock`" in said


def test_release_in_a_workspace_needs_its_lock_file_in_git(tmp_path: Path) -> None:
    repository = tmp_path / "repository"
    (service,) = services_that_share(repository, WORKSPACE, "orders")
    (repository / "uv.lock").write_text("")
    git(repository, "init", "--quiet")
    assert "error: uv.lock is not committed" in make(service, "releasable", fails=True, TAG="v0.1.0")

    git(repository, "add", "uv.lock")

    assert make(service, "releasable", TAG="v0.1.0") == ""
    assert make(service, "releasable", "TAG_PREFIX=orders-v", TAG="orders-v0.1.0") == ""
    said = make(service, "releasable", "TAG_PREFIX=orders-v", TAG="v0.1.0", fails=True)
    assert "the version in pyproject.toml is 0.1.0; tag orders-v0.1.0 instead" in said


def test_service_beside_an_unrelated_project_of_uv_has_its_own_lock_file(tmp_path: Path) -> None:
    """A service that is in a folder of another project, which is no workspace."""
    (service,) = services_that_share(tmp_path / "repository", FOLDER, "orders")
    outer = tmp_path / "repository"
    (outer / "pyproject.toml").write_text('[project]\nname = "outer"\nversion = "1"\nrequires-python = ">=3.11"\n')
    assert run("uv", "lock", cwd=outer).returncode == 0

    make(service, "contexts")

    assert (service / "uv.lock").is_file()


def test_workflow_passes_the_contexts_to_the_build(shared: Place, bake: Bake, tmp_path: Path) -> None:
    """The step of image.yml, run as GitHub runs it, and what the build gets of it."""
    service = shared.services[-1]
    jobs = yaml.safe_load((service / ".github/workflows/image.yml").read_text())["jobs"]
    for project, expected in ((service, make(service, "contexts")), (bake(), "")):
        steps = [step for job in jobs.values() for step in job["steps"] if step.get("id") == "contexts"]
        assert len(steps) == len(jobs)
        (script,) = {step["run"] for step in steps}
        output = tmp_path / "output"
        output.write_text("")
        done = run("bash", "-e", "-c", script, cwd=project, GITHUB_OUTPUT=str(output))
        assert done.returncode == 0, done.stdout
        assert output.read_text().rstrip("\n").removeprefix("list<<END\n").removesuffix("END").strip() == (
            expected.strip()
        )
        for job in jobs.values():
            builds = [step for step in job["steps"] if "build-push-action" in step.get("uses", "")]
            assert {build["with"]["build-contexts"] for build in builds} == {"${{ steps.contexts.outputs.list }}"}
