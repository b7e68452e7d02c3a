"""A rendering on Windows: git converts line ends, and file systems reject some names."""

import fnmatch
import json
import ntpath
import re
from pathlib import Path, PurePosixPath

import pytest

from bakery import NOTE, SOURCE, TEMPLATE, files_of, own_config, run
from conftest import Bake

# Microsoft, "Naming Files, Paths, and Namespaces".
FORBIDDEN = re.compile(r'[\x00-\x1f<>:"\\|?*]|[ .]$|^(con|prn|aux|nul|(com|lpt)[0-9])(\.|$)', re.IGNORECASE)
MAX_PATH = 260
LONGEST_FOLDER = r"C:\Users\somebody-with-a-long-name\Documents\repositories\services"
LIKE_WINDOWS = ("-c", "core.autocrlf=true", "-c", "core.eol=crlf")


def clone(repository: Path, copy: Path) -> Path:
    """Clone as git for Windows does by default."""
    cloned = run("git", *LIKE_WINDOWS, "clone", "-q", repository, copy, cwd=repository)
    assert cloned.returncode == 0, cloned.stdout
    return copy


def with_carriage_returns(folder: Path) -> list[str]:
    """Texts only: git takes a file with a zero byte for binary."""
    files = {path: (folder / path).read_bytes() for path in files_of(folder) if not path.startswith(".git/")}
    return [path for path, content in files.items() if b"\r" in content and b"\0" not in content[:8000]]


def test_template_that_git_for_windows_cloned_renders_the_same_bytes(
    bake: Bake, repository: Path, tmp_path: Path
) -> None:
    copy = clone(repository, tmp_path / "clone")
    command = ("cookiecutter", "--no-input", "--config-file", own_config(tmp_path / "x"), "-o", tmp_path / "out")
    made = run(*command, copy, "owner=acme", cwd=tmp_path)
    assert made.returncode == 0, made.stdout

    here, there = bake(), tmp_path / "out" / "order-service"
    assert files_of(there) == files_of(here)
    differing = [path for path in files_of(here) if (here / path).read_bytes() != (there / path).read_bytes()]
    assert differing == [NOTE]  # which names the clone
    assert b"\r" not in (there / NOTE).read_bytes()


def test_service_that_git_for_windows_cloned_runs_in_a_container(bake: Bake, tmp_path: Path) -> None:
    project = bake()
    who = ("-c", "user.name=test", "-c", "user.email=test@example.com")
    for command in (("init", "-q"), ("add", "-A"), (*who, "commit", "-q", "-m", "A service")):
        done = run("git", *command, cwd=project)
        assert done.returncode == 0, done.stdout

    assert with_carriage_returns(clone(project, tmp_path / "clone")) == []


def test_without_the_attributes_git_for_windows_would_convert(bake: Bake, tmp_path: Path) -> None:
    """That the tests above would notice."""
    project = bake()
    (project / ".gitattributes").unlink()
    who = ("-c", "user.name=test", "-c", "user.email=test@example.com")
    for command in (("init", "-q"), ("add", "-A"), (*who, "commit", "-q", "-m", "A service")):
        run("git", *command, cwd=project)

    assert "Makefile" in with_carriage_returns(clone(project, tmp_path / "clone"))


@pytest.mark.parametrize("rendered", [False, True], ids=["template", "service"])
def test_names_are_taken_by_windows(bake: Bake, tmp_path: Path, rendered: bool) -> None:
    listed = run("git", "ls-files", "-z", cwd=TEMPLATE).stdout.split("\0")
    paths = files_of(bake()) if rendered else list(filter(None, listed))

    assert [path for path in paths if any(FORBIDDEN.search(part) for part in path.split("/"))] == []
    assert len({path.lower() for path in paths}) == len(paths)
    assert max(len(f"{LONGEST_FOLDER}\\{path}") for path in paths) < MAX_PATH


def test_the_same_files_are_copied_without_rendering_where_paths_have_backslashes() -> None:
    """cookiecutter compares with fnmatch, which knows the system's separator."""
    patterns = json.loads((TEMPLATE / "cookiecutter.json").read_text())["_copy_without_render"]
    folders = {parent.as_posix() for path in files_of(SOURCE) for parent in PurePosixPath(path).parents}
    for path in [*files_of(SOURCE), *folders]:
        here = any(fnmatch.fnmatchcase(path, pattern) for pattern in patterns)
        windows = ntpath.normcase(path)
        there = any(fnmatch.fnmatchcase(windows, ntpath.normcase(pattern)) for pattern in patterns)
        assert there is here, path
