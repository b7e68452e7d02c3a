"""The files of a directory of secrets: those of one generation, and whether they have changed."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

# Kubernetes writes all files of a volume into a new folder, and then replaces this link to it. The files beside it are
# links through this one, so that all of them change at once.
DATA = "..data"

Fingerprint = tuple[object, ...]
"""A value that differs when a file was changed, replaced, added or removed, or became readable."""


class SecretFiles(NamedTuple):
    """The files of one generation."""

    generation: str | None
    """The folder that `..data` links to; None without such a link."""
    paths: dict[str, Path]
    """Where to read each file, by its name. Names that begin with a dot are left out."""


def list_files(directory: Path) -> SecretFiles:
    """The files as they are now. Raises `OSError` if the directory cannot be read.

    With `..data`, the paths do not lead through the link. So files that are read from them belong together, even if the
    link changes meanwhile. If their folder is removed, reading fails, and `generation_of` has changed.
    """
    while True:
        generation = generation_of(directory)
        names = [name for name in os.listdir(directory) if not name.startswith(".")]
        if generation is None:
            return SecretFiles(None, {name: directory / name for name in sorted(names)})
        folder = directory / generation
        try:
            members = os.listdir(folder)
            break
        except FileNotFoundError:
            if generation_of(directory) == generation:  # the link is broken, so that reading the files fails
                return SecretFiles(generation, {name: directory / name for name in sorted(names)})
    # A link through `..data` that is not in the folder is about to be removed, and a file that has no link gets one.
    paths = {name: directory / name for name in names if not _is_link_through_data(directory / name)}
    paths |= {name: folder / name for name in members if not name.startswith(".")}
    return SecretFiles(generation, {name: paths[name] for name in sorted(paths)})


def generation_of(directory: Path) -> str | None:
    """The folder that `..data` links to; None without such a link."""
    try:
        return os.readlink(directory / DATA)
    except OSError:
        return None


def fingerprint_of(directory: Path, knows: Callable[[str], bool]) -> Fingerprint:
    """The fingerprint of the names of all files, and of the files whose names `knows` accepts. Reads no file."""
    try:
        files = list_files(directory)
    except OSError as error:
        return (error.errno,)
    return (files.generation, *((name, _state_of(path) if knows(name) else None) for name, path in files.paths.items()))


def _state_of(path: Path) -> object:
    try:
        status = path.stat()
    except OSError as error:
        return error.errno
    # The inode's change time also changes with permissions, and with a copy that keeps the file's time.
    return status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino, status.st_dev


def _is_link_through_data(path: Path) -> bool:
    try:
        return os.readlink(path).startswith(f"{DATA}/")
    except OSError:
        return False
