"""Copies the core of the template into a folder, and checks that nobody has edited it there.

    python scripts/vendor.py copy <the template's folder or git repository> [<tag, branch or commit>] [--to=<folder>]
    python scripts/vendor.py verify

The folder is the one that pyproject.toml takes `asgi-chassis` from. `copy` replaces it whole. It leaves out the core's
tests and the caches of tools, and lists the files with their checksums in SHA256SUMS, in the format of
sha256sum(1). `verify` compares the folder with that list.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

CORE = "asgi-chassis"
SUMS = "SHA256SUMS"
COPIED = ("pyproject.toml", "README.md", "LICENSE", "docs", "src")
LEFT_OUT = shutil.ignore_patterns("__pycache__", "*.pyc", "*.egg-info", ".*")


def copy(template: str, destination: Path, revision: str | None = None) -> None:
    """Replace `destination` by the core of the template at `revision`; exits with an error if there is none."""
    with ExitStack() as stack:
        folder = Path(template)
        if revision is not None or not folder.is_dir():
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True)))
            clone(template, folder, revision)
        source = folder / "chassis"
        if not (source / "pyproject.toml").is_file():
            sys.exit(f"error: {template} has no chassis/pyproject.toml; give the template's repository or folder")
        replace(destination, source)


def replace(destination: Path, source: Path) -> None:
    """Replace `destination` by a copy of the core in `source`."""
    if destination.exists():
        if not (destination / "pyproject.toml").is_file() and any(destination.iterdir()):
            sys.exit(f"error: {destination} is not a copy of the core: it has no pyproject.toml; choose another folder")
        shutil.rmtree(destination)
    destination.mkdir(parents=True)
    for name in COPIED:
        path = source / name
        if path.is_dir():
            shutil.copytree(path, destination / name, ignore=LEFT_OUT, copy_function=shutil.copyfile)
        elif path.is_file():
            shutil.copyfile(path, destination / name)
    lines = [f"{checksum}  {name}\n" for name, checksum in checksums(destination).items()]
    (destination / SUMS).write_text("".join(lines), encoding="utf-8", newline="\n")


def clone(repository: str, folder: Path, revision: str | None) -> None:
    """Clone `repository` and check out `revision`; exits with the message of git if that fails."""
    commands = [["git", "clone", "--quiet", "--", repository, str(folder)]]
    if revision is not None:
        commands.append(["git", "-C", str(folder), "checkout", "--quiet", revision, "--"])
    for command in commands:
        done = subprocess.run(command, check=False, capture_output=True, encoding="utf-8")
        if done.returncode:
            wanted = f"{repository}{f' at {revision}' if revision else ''}"
            sys.exit(f"{done.stderr}error: could not fetch {wanted}; see the message of git above")


def checksums(folder: Path) -> dict[str, str]:
    """The SHA-256 of each file that was copied, by its path; caches and builds are left out."""
    paths = [path for path in folder.rglob("*") if path.is_file() and is_copied(path.relative_to(folder))]
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(paths)
    }


def is_copied(path: Path) -> bool:
    """Whether a file is of the kind that `copy` takes."""
    return path.parts[0] in COPIED and not any(LEFT_OUT("", [part]) for part in path.parts)


def verify(folder: Path) -> str | None:
    """The error if files differ from those that were copied; None if all are equal."""
    try:
        lines = (folder / SUMS).read_text(encoding="utf-8").splitlines()
    except OSError:
        return f"{folder / SUMS} is missing, so {folder}/ cannot be compared with the template"
    expected = {name: checksum for checksum, _, name in (line.partition("  ") for line in lines)}
    actual = checksums(folder)
    changed = sorted(name for name in expected.keys() | actual.keys() if expected.get(name) != actual.get(name))
    return f"these files of {folder}/ differ from the template: {', '.join(changed)}" if changed else None


def core_folder() -> Path | None:
    """The folder that the service takes the core from; None if it takes it from a git repository."""
    source = table(Path("pyproject.toml"), "tool", "uv", "sources").get(CORE, {})
    if source.get("workspace"):
        return member()
    return Path(source["path"]) if "path" in source else None


def member() -> Path | None:
    """The folder of the core in the uv workspace that the service belongs to; None if there is none."""
    for root in Path.cwd().parents:
        for pattern in table(root / "pyproject.toml", "tool", "uv", "workspace").get("members", []):
            for folder in sorted(root.glob(pattern)):
                if table(folder / "pyproject.toml", "project").get("name") == CORE:
                    return Path(os.path.relpath(folder))
    return None


def table(file: Path, *names: str) -> dict[str, Any]:
    """A table of a TOML file; empty if there is none."""
    import tomllib  # noqa: PLC0415 - Python 3.10 has none, and may run `copy` for cookiecutter

    value: Any = tomllib.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    for name in names:
        value = value.get(name, {})
    return dict(value)


def destination_of(options: list[str]) -> Path:
    """The folder to replace: the option, else the folder in use; exits with an error if there is none."""
    folder = Path(options[0].removeprefix("--to=")) if options else core_folder()
    if folder is None:
        sys.exit("error: pyproject.toml takes the core from a git repository; change its tag in [tool.uv.sources]")
    return folder


def main(arguments: list[str]) -> None:
    """Run a command; exits with an error if it fails."""
    options = [argument for argument in arguments if argument.startswith("--to=")]
    match [argument for argument in arguments if argument not in options]:
        case ["copy", template, *revision] if len(revision) < 2:
            copy(template, destination_of(options), revision[0] if revision else None)
        case ["verify"]:
            folder = core_folder()
            # The template's own folder, beside the service, has no list: it is not a copy.
            copied = folder is not None and (folder == Path("chassis") or (folder / SUMS).exists())
            difference = verify(folder) if folder is not None and copied else None
            if difference is not None:
                sys.exit(
                    f"error: {difference}.\nUndo the change: git checkout -- {folder}\n"
                    "Or copy the folder again: make chassis FROM=<template repository> TO=<commit in .cruft.json>\n"
                    "Change the core in the template's repository: each update replaces this folder. "
                    f"To replace parts of the core, pass them to App(...): see {folder}/README.md."
                )
        case _:
            sys.exit(f"error: expected one of these commands, got: {' '.join(arguments)}\n{__doc__}")


if __name__ == "__main__":
    main(sys.argv[1:])
