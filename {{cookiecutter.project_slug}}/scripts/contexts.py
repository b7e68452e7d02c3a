"""Prepares the image build where the core or the lock file is outside of this folder, and prints the build contexts.

    python scripts/contexts.py
    python scripts/contexts.py locked
    python scripts/contexts.py committed

The Dockerfile copies the core from chassis/ and the library versions from uv.lock. If one of them is elsewhere, both
are copied into .cache/image, and a line `<stage>=<folder>` is printed for each. `--build-context` then replaces that
stage of the Dockerfile by the folder. The lock file is created if it is missing, and must be up to date. `locked` only
checks that, and accepts a service that has no lock file yet. `committed` checks that the lock file is in git.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from vendor import CORE, copy, core_folder, replace, table

FOLDER = Path(".cache/image")
UV = os.environ.get("UV", "uv")  # `uv run` sets it to its own path


def uv(*arguments: str) -> str:
    """The output of uv; exits with an error if it fails."""
    done = subprocess.run([UV, *arguments], check=False, stdout=subprocess.PIPE, encoding="utf-8")
    if done.returncode:
        sys.exit(f"error: uv {' '.join(arguments)} failed; see its message above")
    return done.stdout


def lock_file() -> Path | None:
    """The lock file of this folder, or of the workspace that it belongs to."""
    workspaces = [
        folder for folder in Path.cwd().parents if table(folder / "pyproject.toml", "tool", "uv", "workspace")
    ]
    files = (folder / "uv.lock" for folder in (Path.cwd(), *workspaces))
    return next((file for file in files if file.is_file()), None)


def contexts() -> dict[str, Path]:
    """The folder for each stage of the Dockerfile that must be replaced."""
    core = core_folder()
    if core == Path("chassis") and Path("uv.lock").is_file():
        return {}
    shutil.rmtree(FOLDER, ignore_errors=True)
    places = {"chassis": FOLDER / "chassis", "lock": FOLDER / "lock"}
    for place in places.values():
        place.mkdir(parents=True)
    export = ("export", "--quiet", "--frozen", "--no-default-groups", "--no-emit-project", "--no-annotate")
    lock = uv(*export, "--no-emit-package", CORE, "--format", "pylock.toml", "--no-header")
    (places["lock"] / "pylock.toml").write_text(lock, encoding="utf-8")
    if core is not None:
        replace(places["chassis"], core)
    else:
        # asgi-chassis @ git+https://host/template@0123abcd#subdirectory=chassis
        found = re.search(rf"^{CORE} @ git\+(\S+)@([0-9a-f]+)#subdirectory=chassis$", uv(*export), re.MULTILINE)
        if found is None:
            sys.exit(f"error: pyproject.toml has no source for {CORE}; add path, workspace or git to [tool.uv.sources]")
        copy(found[1], places["chassis"], found[2])
    return places


def check_lock() -> None:
    """Exit with an error if the lock file does not fit pyproject.toml."""
    if subprocess.run([UV, "lock", "--quiet", "--check"], check=False).returncode:
        sys.exit("error: uv.lock does not fit pyproject.toml; update it: uv lock; then commit uv.lock")


def check_commit() -> None:
    """Exit with an error if git does not have the lock file."""
    file = lock_file()
    listed = ["git", "ls-files", "--error-unmatch", "--", str(file)]
    if file is None or subprocess.run(listed, check=False, capture_output=True).returncode:
        sys.exit("error: uv.lock is not committed; commit it so that the build is reproducible, then move the tag")


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["committed"]:
            check_commit()
        case ["locked"]:
            if lock_file():
                check_lock()
        case _:
            if lock_file():
                check_lock()
            else:
                uv("lock", "--quiet")
            for stage, place in contexts().items():
                print(f"{stage}={place.as_posix()}")
