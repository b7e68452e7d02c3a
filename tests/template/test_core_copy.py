"""The core in a generated service: the same bytes by every way of generating, and nothing that tools left behind."""

import json
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from bakery import SOURCE, TEMPLATE, copy_folder, files_of, own_config, run
from conftest import Bake
from repositories import IDENTITY

pytestmark = pytest.mark.long

TOOL_FOLDERS = (
    ".venv/lib/x.py",
    "build/lib/x.py",
    "dist/x.whl",
    "src/asgi_chassis.egg-info/PKG-INFO",
    "src/chassis/__pycache__/app.cpython-313.pyc",
    "src/chassis/http/__pycache__/x.pyc",
    "src/chassis/.mypy_cache/x.json",
    ".pytest_cache/x",
)
# Folder names that shells, URLs and other systems treat in their own way, one of them a path of Windows; and how they
# are given.
ODD_NAMES = [
    ("my templates, größer", "{folder}"),
    ("it's $HOME; #1 50%", "{folder}"),
    ("it's $HOME; #1 50%", "../{name}/template"),
    ("it's $HOME; #1 50%", "../{name}/template/../template"),
    (r"C:\templates\chassis", "../{name}/template"),
]


def core_of(project: Path) -> dict[str, bytes]:
    """Every file of the core, by its path."""
    return {path: (project / "chassis" / path).read_bytes() for path in files_of(project / "chassis")}


@pytest.fixture
def expected(repository: Path) -> dict[str, bytes]:
    """The files of the core in the template, without its tests."""
    source = repository / "chassis"
    return {path: (source / path).read_bytes() for path in files_of(source) if not path.startswith("tests/")}


def assert_is_the_core(project: Path, expected: dict[str, bytes]) -> None:
    core = core_of(project)
    sums = core.pop("SHA256SUMS").decode()
    assert core == expected
    assert [line.partition("  ")[2] for line in sums.splitlines()] == sorted(core)
    # By its reference implementation, whose format it is.
    assert run("sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS", cwd=project / "chassis").stdout == ""


def cookiecutter(out: Path, *arguments: str | Path, cwd: Path | None = None) -> Path:
    """Run cookiecutter as people do, with bytecode written where Python wants to; returns the project."""
    out.parent.mkdir(parents=True, exist_ok=True)
    command = ("cookiecutter", "--config-file", own_config(out), "--output-dir", out, *arguments)
    made = run(*command, cwd=cwd or out.parent, PYTHONPYCACHEPREFIX="")
    assert made.returncode == 0, made.stdout
    return out / "order-service"


@pytest.mark.parametrize(("name", "path"), ODD_NAMES)
def test_path_with_odd_characters_absolute_and_relative(
    tmp_path: Path, repository: Path, expected: dict[str, bytes], name: str, path: str
) -> None:
    folder = copy_folder(repository, tmp_path / name / "template")
    elsewhere = tmp_path / "else where"
    elsewhere.mkdir()

    project = cookiecutter(tmp_path / "out", "--no-input", path.format(folder=folder, name=name), cwd=elsewhere)

    assert_is_the_core(project, expected)
    assert json.loads((project / ".cruft.json").read_text())["template"] == str(folder)


def test_current_folder(tmp_path: Path, repository: Path, expected: dict[str, bytes]) -> None:
    assert_is_the_core(cookiecutter(tmp_path / "out", "--no-input", ".", cwd=repository), expected)


def test_zip_file(tmp_path: Path, repository: Path, expected: dict[str, bytes]) -> None:
    archive = tmp_path / "template.zip"
    made = run("git", "archive", "--prefix=cookiecutter-chassis/", f"--output={archive}", "HEAD", cwd=repository)
    assert made.returncode == 0, made.stdout

    assert_is_the_core(cookiecutter(tmp_path / "out", "--no-input", archive), expected)


def test_two_templates_in_one_process_are_not_confused(tmp_path: Path, repository: Path) -> None:
    other = copy_folder(repository, tmp_path / "other")
    (other / "chassis/src/chassis/novelty.py").write_text('"""Something new."""\n')
    with (other / SOURCE.name / "README.md").open("a") as readme:
        readme.write("\n{{ cookiecutter.project_slug }} has news.\n")
    program = (
        "import sys\nfrom cookiecutter.main import cookiecutter\n"
        "for number, template in enumerate(sys.argv[2:]):\n"
        "    cookiecutter(template, no_input=True, output_dir=f'out{number}', config_file=sys.argv[1])\n"
    )
    config = own_config(tmp_path / "own")
    compiled = tmp_path / "compiled"
    compiled.mkdir()
    places = {"CHASSIS_COMPILED_TEMPLATES": str(compiled)}
    made = run(sys.executable, "-c", program, config, repository, other, repository, cwd=tmp_path, **places)
    assert made.returncode == 0, made.stdout

    assert any(compiled.iterdir())
    projects = [tmp_path / f"out{number}/order-service" for number in range(3)]
    news = ["order-service has news." in (project / "README.md").read_text() for project in projects]
    assert news == [False, True, False]
    cores = [core_of(project) for project in projects]
    assert ["src/chassis/novelty.py" in core for core in cores] == [False, True, False]
    assert cores[0] == cores[2]


def test_folders_of_tools_stay_where_they_are(tmp_path: Path, repository: Path, expected: dict[str, bytes]) -> None:
    for path in TOOL_FOLDERS:
        (repository / "chassis" / path).parent.mkdir(parents=True, exist_ok=True)
        (repository / "chassis" / path).write_text("x")
    before = files_of(repository / "chassis")

    project = cookiecutter(tmp_path / "out", "--no-input", repository)

    assert_is_the_core(project, expected)
    assert files_of(repository / "chassis") == before
    assert [path for path in files_of(project) if "_cache" in path or "__pycache__" in path] == []


def test_nothing_is_left_in_the_template(tmp_path: Path, repository: Path) -> None:
    before = files_of(repository)
    cookiecutter(tmp_path / "out", "--no-input", repository)
    added = set(files_of(repository)) - set(before)

    # Python's own, of the module that cookiecutter imports from here; .gitignore has it.
    assert {Path(path).parent.as_posix() for path in added} == {"__pycache__"}
    assert run("git", "status", "--porcelain", cwd=repository).stdout == ""


def test_nothing_depends_on_the_encoding_of_the_system(tmp_path: Path, repository: Path) -> None:
    """Windows has another one than UTF-8 for what no encoding is given for: Python warns of such places (PEP 597)."""
    program = (
        "import os, sys\nfrom cookiecutter.main import cookiecutter\n"
        "os.environ |= {'PYTHONWARNDEFAULTENCODING': '1', 'PYTHONWARNINGS': 'error::EncodingWarning'}\n"  # of the hooks
        "cookiecutter(sys.argv[2], no_input=True, config_file=sys.argv[1])\n"
    )
    made = run(sys.executable, "-c", program, own_config(tmp_path / "own"), repository, cwd=tmp_path)
    assert made.returncode == 0, made.stdout
    project = tmp_path / "order-service"
    strict = (sys.executable, "-X", "warn_default_encoding", "-W", "error::EncodingWarning")

    for command in (
        ["scripts/vendor.py", "copy", repository.as_uri(), "HEAD"],
        ["scripts/vendor.py", "verify"],
        ["scripts/contexts.py"],
        ["scripts/update.py", "tell"],
        ["scripts/handler.py", "invoices"],
    ):
        done = run(*strict, *command, cwd=project)
        assert done.returncode == 0, done.stdout


@pytest.fixture
def without_hooks(tmp_path: Path, repository: Path) -> Path:
    """A service that was rendered without the hooks, so without its core."""
    project = cookiecutter(tmp_path / "out", "--no-input", "--accept-hooks", "no", repository)
    assert not (project / "chassis").exists()
    return project


def test_make_without_the_core_names_the_command_that_copies_it_and_then_installs(without_hooks: Path) -> None:
    for target in ("install", "run", "dev", "check", "test", "fix", "handler", "image", "contexts"):
        done = run("make", "--no-print-directory", target, "name=invoices", "ENGINE=true", cwd=without_hooks)

        assert done.returncode != 0, target
        sentence, *rest = done.stdout.splitlines()
        assert sentence == (
            "error: the folder chassis/ with the core of the service is missing; "
            "copy it: make chassis FROM=<template repository>"
        ), target
        assert all(line.startswith("make: ") for line in rest), target

    for arguments in (("chassis", f"FROM={TEMPLATE}"), ("install",)):
        done = run("make", *arguments, cwd=without_hooks)
        assert done.returncode == 0, done.stdout
    assert run(without_hooks / ".venv/bin/python", "-c", "import chassis", cwd=without_hooks).returncode == 0


def with_tag(repository: Path) -> None:
    """Tag this version, and let the template move on to one without a core."""
    assert run("git", "tag", "v9", cwd=repository).returncode == 0
    assert run("git", "rm", "-rq", "chassis", cwd=repository).returncode == 0
    assert run("git", "commit", "-qm", "No core", cwd=repository, **IDENTITY).returncode == 0


FROM: dict[str, tuple[Callable[[Path], str], str]] = {
    "a folder": (str, ""),
    "a git URL": (Path.as_uri, ""),
    "a folder at a tag": (str, "v9"),
    "a git URL at a tag": (Path.as_uri, "v9"),
}


@pytest.mark.parametrize("way", FROM)
def test_make_chassis_copies_it(without_hooks: Path, repository: Path, expected: dict[str, bytes], way: str) -> None:
    address, revision = FROM[way]
    if revision:
        with_tag(repository)

    done = run("make", "chassis", f"FROM={address(repository)}", f"TO={revision}", cwd=without_hooks)

    assert done.returncode == 0, done.stdout
    assert_is_the_core(without_hooks, expected)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "error: FROM is not set; give the template: make chassis FROM=<its repository or folder>"),
        (["FROM=/nowhere"], "error: could not fetch /nowhere"),
        (["FROM={template}", "TO=v77"], "error: could not fetch {template} at v77"),
        (["FROM={template}/docs"], "error: {template}/docs has no chassis/pyproject.toml; "),
    ],
)
def test_make_chassis_that_fails_says_why_and_changes_nothing(
    bake: Bake, repository: Path, arguments: list[str], sentence: str
) -> None:
    project = bake()
    before = core_of(project)
    template = {"template": str(repository)}

    done = run("make", "chassis", *(one.format(**template) for one in arguments), cwd=project)

    assert done.returncode != 0
    assert sentence.format(**template) in done.stdout
    assert "Traceback" not in done.stdout
    assert core_of(project) == before


def test_folder_that_holds_something_else_is_not_replaced(bake: Bake, tmp_path: Path) -> None:
    project = bake()
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious/file").write_text("x")
    command = (sys.executable, "scripts/vendor.py", "copy", TEMPLATE, f"--to={tmp_path / 'precious'}")

    done = run(*command, cwd=project)

    assert done.stdout == (
        f"error: {tmp_path / 'precious'} is not a copy of the core: it has no pyproject.toml; choose another folder\n"
    )
    assert (tmp_path / "precious/file").exists()


def test_edited_added_and_missing_files_are_named(bake: Bake) -> None:
    project = bake()
    verify = (sys.executable, "scripts/vendor.py", "verify")
    assert run(*verify, cwd=project).stdout == ""

    core = project / "chassis/src/chassis"
    (core / "app.py").write_text("")
    (core / "health.py").unlink()
    (core / "own.py").write_text("")
    (core / "__pycache__").mkdir()
    (core / "__pycache__/own.pyc").write_text("")
    done = run(*verify, cwd=project)

    assert done.returncode == 1
    first, second, third, _ = done.stdout.splitlines()
    names = "src/chassis/app.py, src/chassis/health.py, src/chassis/own.py"
    assert first == f"error: these files of chassis/ differ from the template: {names}."
    assert second == "Undo the change: git checkout -- chassis"
    assert third.startswith("Or copy the folder again: make chassis FROM=")


def test_folder_without_the_list_is_only_accepted_elsewhere(bake: Bake) -> None:
    project = bake()
    (project / "chassis/SHA256SUMS").unlink()
    verify = (sys.executable, "scripts/vendor.py", "verify")
    assert "SHA256SUMS is missing" in run(*verify, cwd=project).stdout

    (project / "chassis").rename(project / "core")
    pyproject = project / "pyproject.toml"
    pyproject.write_text(pyproject.read_text().replace('path = "chassis"', 'path = "core"'))
    assert run(*verify, cwd=project).returncode == 0


def test_template_names_the_same_version_as_the_services_require() -> None:
    core = tomllib.loads((TEMPLATE / "chassis/pyproject.toml").read_text())["project"]
    service = (TEMPLATE / "{{cookiecutter.project_slug}}/pyproject.toml").read_text()

    assert f'"{core["name"]}=={core["version"]}",' in service
