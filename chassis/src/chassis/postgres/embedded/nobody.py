"""Folders for the user `nobody`, as whom the server of root runs, because PostgreSQL rejects root."""

import hashlib
import stat
from pathlib import Path

from .errors import ALTERNATIVE, EmbeddedServerError

NOBODY = 65_534
# Everybody may enter them, and the first one outlives a restart of the machine.
SHARED_PLACES = (Path("/var/tmp"), Path("/tmp"))  # noqa: S108 - the owner of folders in there is checked


def is_open(folder: Path) -> bool:
    """Whether the user `nobody` may enter a folder, or can when the missing ones on its path are created."""
    found = [path.stat() for path in (folder, *folder.parents) if path.exists()]
    return all(status.st_mode & stat.S_IXOTH or status.st_uid == NOBODY for status in found)


def open_folder(path: Path) -> Path:
    """A folder for `path` that the user `nobody` may enter. Raises `EmbeddedServerError` if another user made it."""
    places = [place for place in SHARED_PLACES if place.is_dir() and is_open(place)]
    if not places:
        raise EmbeddedServerError(f"PostgreSQL does not run as root; run this as another user, {ALTERNATIVE}")
    folder = places[0] / f"chassis-postgres-{hashlib.sha256(str(path).encode()).hexdigest()[:16]}"
    folder.mkdir(mode=0o755, exist_ok=True)
    if folder.is_symlink() or folder.stat().st_uid not in (0, NOBODY):
        raise EmbeddedServerError(f"{folder} belongs to another user; remove it, {ALTERNATIVE}")
    return folder
