"""Copies the core of the template into a folder, and checks that nobody has edited it there.

    python scripts/vendor.py copy <the template's folder or git repository> <folder> [<tag, branch or commit>]
    python scripts/vendor.py verify <folder>

`copy` replaces the folder whole. It leaves out the core's tests and whatever tools have left behind, and lists the
files with their checksums in SHA256SUMS, in the format of sha256sum(1). `verify` compares the folder with that list.
"""

import hashlib
import shutil
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

SUMS = "SHA256SUMS"
COPIED = ("pyproject.toml", "README.md", "LICENSE", "src")
LEFT_OUT = shutil.ignore_patterns("__pycache__", "*.pyc", "*.egg-info", ".*")


def copy(template: str, destination: Path, revision: str | None = None) -> None:
    """Replace `destination` by the core of the template at `revision`; exits with a sentence if there is none."""
    with ExitStack() as stack:
        folder = Path(template)
        if revision is not None or not folder.is_dir():
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            clone(template, folder, revision)
        source = folder / "chassis"
        if not (source / "pyproject.toml").is_file():
            sys.exit(f"error: {template} has no chassis/ with a pyproject.toml; is it the template's repository?")
        if destination.exists():
            shutil.rmtree(destination)
        destination.mkdir(parents=True)
        for name in COPIED:
            path = source / name
            if path.is_dir():
                shutil.copytree(path, destination / name, ignore=LEFT_OUT)
            elif path.is_file():
                shutil.copyfile(path, destination / name)
    lines = [f"{checksum}  {name}\n" for name, checksum in checksums(destination).items()]
    (destination / SUMS).write_text("".join(lines), encoding="utf-8", newline="\n")


def clone(repository: str, folder: Path, revision: str | None) -> None:
    """Clone `repository` and check out `revision`; exits with git's words if that fails."""
    commands = [["git", "clone", "--quiet", repository, str(folder)]]
    if revision is not None:
        commands.append(["git", "-C", str(folder), "checkout", "--quiet", revision])
    for command in commands:
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"{done.stderr}error: could not fetch {repository}")


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
    """Which files differ from those that were copied, in one sentence; None if there are none."""
    try:
        lines = (folder / SUMS).read_text(encoding="utf-8").splitlines()
    except OSError:
        return f"{folder / SUMS} is missing, so nobody can tell whether {folder}/ is as the template has it"
    expected = {name: checksum for checksum, _, name in (line.partition("  ") for line in lines)}
    actual = checksums(folder)
    changed = sorted(name for name in expected.keys() | actual.keys() if expected.get(name) != actual.get(name))
    return f"these files of {folder}/ are not as the template has them: {', '.join(changed)}" if changed else None


def main(arguments: list[str]) -> None:
    """Run a command; exits with a sentence when it fails."""
    match arguments:
        case ["copy", template, destination, *revision] if len(revision) < 2:
            copy(template, Path(destination), revision[0] if revision else None)
        case ["verify", folder]:
            if not Path(folder).is_dir():
                return  # the core comes from elsewhere; see the README
            difference = verify(Path(folder))
            if difference is not None:
                sys.exit(
                    f"error: {difference}.\n"
                    "`make update` replaces this folder. Undo the change (git checkout -- chassis), or move it to the "
                    "template's repository. What an app needs to replace, it passes to App(...): see chassis/README.md."
                )
        case _:
            sys.exit(f"error: expected one of these commands:\n{__doc__}")


if __name__ == "__main__":
    main(sys.argv[1:])
