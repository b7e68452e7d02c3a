"""Renders the template, and changes what it rendered as a user would."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from cookiecutter.main import cookiecutter

TEMPLATE = Path(__file__).parents[2]
SOURCE = TEMPLATE / "{{cookiecutter.project_slug}}"
TOOLS = Path(sys.executable).parent  # cookiecutter, uv
NOTE = ".cruft.json"  # written by the hook
HOME = Path.home()
# All environments share uv's cache: no test is about the network.
UV_CACHE = os.environ.get("UV_CACHE_DIR", str(HOME / ".cache/uv"))
# Variables of all processes that `clean_environment` is for; conftest.py adds places for what can be shared.
# The plugins are those of libraries in the template's environment. pytest loads them for 2.5 seconds of CPU.
SHARED: dict[str, str] = {"PYTEST_ADDOPTS": "-p no:faker -p no:schemathesis -p no:typeguard"}
# Folders of a project, and the folders of their bytecode, which all projects share.
SHARED_BYTECODE = {".venv": "environments", "chassis": "cores"}
# Folders of what is made once and copied then; conftest.py says where they are.
MADE_ONCE: dict[str, Path] = {}
# One of these folders: a cache of mypy that knows the libraries of a service. See checks.py.
FIRST_MYPY_CACHE = "first"
RENDERED: dict[tuple[tuple[str, str], ...], Path] = {}
NOT_OF_SERVICES = re.compile(r"tests/|benchmarks/|chassis/tests/test_")

# Values other than the defaults, with characters that mean something in TOML, YAML, Python and Markdown.
OTHER = {
    "project_name": "Größe & \"Co\" 'x' \\ <b>",
    "project_slug": "size-7-co",
    "description": "Says \"size\" \\n 'x' {braces} 🚀 #1 | ok: yes",
    "owner": "Some-One",
    "python_version": "3.13",
}


def render(folder: Path, answers: dict[str, str]) -> Path:
    """Render into `folder`; returns the project. A service with the same values is rendered once, and copied then."""
    if "rendered" not in MADE_ONCE:
        return render_anew(folder, answers)
    given = tuple(sorted(answers.items()))
    if given not in RENDERED:
        RENDERED[given] = render_anew(MADE_ONCE["rendered"] / str(len(RENDERED)), answers)
    project = folder / RENDERED[given].name
    assert not project.exists(), project
    return copy_folder(RENDERED[given], project)


def render_anew(folder: Path, answers: dict[str, str], template: Path = TEMPLATE) -> Path:
    """Render into `folder` by cookiecutter's Python interface; returns the project."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    project = Path(
        cookiecutter(
            str(template),
            no_input=True,
            extra_context={"owner": "acme", **answers},  # whose clone this is, is no matter
            output_dir=str(folder),
            config_file=str(own_config(folder)),
        )
    )
    for path in files_of(project / "chassis"):  # the bytecode of one is that of all: see share_bytecode
        if (TEMPLATE / "chassis" / path).exists():
            shutil.copystat(TEMPLATE / "chassis" / path, project / "chassis" / path)
    return project


def own_config(folder: Path) -> Path:
    """A configuration for cookiecutter that keeps its hands off the home of whoever runs the tests."""
    config = folder.with_name(f"{folder.name}.cookiecutterrc")
    store = folder.with_name(f"{folder.name}.cookiecutter")
    config.write_text(f"cookiecutters_dir: '{store}/templates'\nreplay_dir: '{store}/replay'\n")
    return config


def package_of(project: Path) -> str:
    """The name of the rendered package."""
    (package,) = (one.name for one in (project / "src").iterdir() if one.is_dir())
    return package


def files_of(folder: Path) -> list[str]:
    """Every file in `folder`, by its path; without those of git, which the hook creates."""
    paths = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return sorted(path.as_posix() for path in paths if path.parts[0] != ".git")


def add_handler(project: Path, module: str, source: str, import_line: str, route_lines: str) -> None:
    """Do the three steps of the README: a module, an import, and a route."""
    (project / "src" / package_of(project) / f"{module}.py").write_text(source)
    extend_app(project, f"{import_line}\n{route_lines}")


def depend_on(project: Path, extra: str) -> None:
    """Let a service without extras of the core depend on one."""
    metadata = project / "pyproject.toml"
    text = metadata.read_text()
    assert '"asgi-chassis==' in text
    metadata.write_text(text.replace('"asgi-chassis==', f'"asgi-chassis[{extra}]=='))


def extend_app(project: Path, lines: str) -> None:
    """Add `lines` to app.py: imports in their order, other lines before the `return` of `create_app`."""
    app = project / "src" / package_of(project) / "app.py"
    text = app.read_text()
    for line in filter(None, map(str.strip, lines.splitlines())):
        if line.startswith("from ."):
            others = re.findall(r"^from \..*\n", text, re.MULTILINE)
            imports = "".join(others)
            assert imports in text
            text = text.replace(imports, "".join(sorted([*others, f"{line}\n"])))
        elif line.startswith("from "):
            text = text.replace("from chassis import App\n", f"from chassis import App\n{line}\n")
        else:
            assert text.count("    return app\n") == 1
            text = text.replace("    return app\n", f"    {line}\n    return app\n")
    app.write_text(text)


def clean_environment(home: Path, **variables: str) -> dict[str, str]:
    """The environment of a process that inherits nothing of these tests but where programs are."""
    kept = {name: value for name, value in os.environ.items() if re.match(r"PATH$|UV_|PIP_|SSL_|REQUESTS_|LANG$", name)}
    path = f"{TOOLS}{os.pathsep}{kept['PATH']}"
    return {
        **kept,
        "PATH": path,
        "HOME": str(home),
        "UV_CACHE_DIR": UV_CACHE,
        **SHARED,
        "UV_PYTHON": kept.get("UV_PYTHON", str(Path(sys.base_prefix, "bin/python3"))),  # not that of .python-version
        **variables,
    }


def share_bytecode(project: Path) -> None:
    """Let the environment and the core in `project` use the bytecode of all others.

    uv links the files of environments to the same ones. Python compares the time and the size of a source file.
    """
    if prefix := SHARED.get("PYTHONPYCACHEPREFIX"):
        for folder, shared in SHARED_BYTECODE.items():
            place = Path(prefix, *project.absolute().parts[1:], folder)
            if not place.is_symlink() and not place.exists():
                place.parent.mkdir(parents=True, exist_ok=True)
                place.symlink_to(Path(prefix, shared))


def begin_mypy_cache(first: Path, cache: Path) -> None:
    """Let the cache of this worker, which `make check` uses, begin as a copy of the first, if there is one by now."""
    if first.exists() and not cache.exists():
        shutil.copytree(first, cache)


def run(*command: str | Path, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end in a clean environment; its output is one text."""
    share_bytecode(cwd)
    if "mypy" in MADE_ONCE:
        begin_mypy_cache(MADE_ONCE["mypy"] / FIRST_MYPY_CACHE, Path(SHARED["MYPY_CACHE_DIR"]))
    return subprocess.run(
        command,
        cwd=cwd,
        env=clean_environment(HOME, **variables),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )


def copy_repository(copy: Path) -> Path:
    """Copy the working tree, without what git ignores, into a git repository of its own; returns its folder.

    The tests and benchmarks of the template are left out: they are a third of the files that each update would clone.
    """
    first = MADE_ONCE.get("template", copy)
    if not first.exists():
        first.mkdir()
        listed = run("git", "ls-files", "--cached", "--others", "--exclude-standard", "-z", cwd=TEMPLATE)
        for name in filter(None, listed.stdout.split("\0")):
            if (TEMPLATE / name).is_file() and not NOT_OF_SERVICES.match(name):
                (first / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(TEMPLATE / name, first / name)
        who = ["-c", "user.name=test", "-c", "user.email=test@example.com"]
        commit = [*who, "commit", "-q", "-m", "The template"]
        # One pack, because a clone of loose objects compresses them all again.
        for command in (["init", "-q", "-b", "main"], ["add", "-A"], commit, ["repack", "-a", "-d", "-q"]):
            done = run("git", *command, cwd=first)
            assert done.returncode == 0, done.stdout
    return copy if first == copy else copy_folder(first, copy)


def copy_folder(folder: Path, copy: Path) -> Path:
    """Copy a folder by cp(1), which takes a sixth of the time of `shutil.copytree`; returns the copy."""
    copy.parent.mkdir(parents=True, exist_ok=True)
    done = run("cp", "-R", "-p", folder, copy, cwd=folder)
    assert done.returncode == 0, done.stdout
    return copy
