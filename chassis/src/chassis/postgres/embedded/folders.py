"""Servers with data that are kept for the next `make run`, and with data that are removed at the end."""

import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .errors import EmbeddedServerError
from .server import EmbeddedServer
from .settings import variables_of
from .wheel import programs

FOLDER = Path(".cache/postgres")
# For data that nobody needs after the process.
TEMPORARY = ("fsync=off", "full_page_writes=off", "synchronous_commit=off", "autovacuum=off")
TEMPORARY_PREFIX = "postgres-of-chassis-"
# A folder that is younger may belong to a process that has not locked it yet.
TEMPORARY_SECONDS = 60.0


@contextmanager
def kept_server(folder: Path = FOLDER) -> Iterator[EmbeddedServer]:
    """The server of `make run`, whose data are kept. Raises `EmbeddedServerError` if another process uses them."""
    server = EmbeddedServer(folder)
    folder.mkdir(parents=True, exist_ok=True)
    address = folder / "url"
    with _locked(folder) as is_locked:
        if not is_locked:
            raise EmbeddedServerError(
                f"another process uses the database in {folder}; stop it, "
                f"or use the same database: APP_DATABASE_URL={_read(address)}"
            )
        with server:
            address.touch(mode=0o600)
            address.write_text(server.url, encoding="utf-8")
            try:
                yield server
            finally:
                address.unlink(missing_ok=True)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:  # it is starting
        return "<its URL>"


def running_variables(folder: Path = FOLDER) -> dict[str, str] | None:
    """The variables for the server of `make run`, if it runs."""
    address = folder / "url"
    if not address.exists():
        return None
    with _locked(folder) as is_locked:
        # A process that was killed has left the file, but not the lock.
        return None if is_locked else variables_of(_read(address), EmbeddedServer(folder).password_file)


@contextmanager
def temporary_server(*options: str) -> Iterator[EmbeddedServer]:
    """A server without data, which are removed at the end."""
    programs()  # before anything is created
    with temporary_folder() as folder:
        server = EmbeddedServer(folder, *TEMPORARY, *options)
        try:
            with server:
                yield server
        finally:
            shutil.rmtree(server.folder, ignore_errors=True)  # may be another one, which the user nobody may enter


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """A folder for the data of a server, which is removed at the end.

    If a process is killed, its server runs on. The next call of this function stops that server, and removes its data.
    """
    for abandoned in Path(tempfile.gettempdir()).glob(f"{TEMPORARY_PREFIX}*"):
        with suppress(OSError):  # of another user, or removed meanwhile
            if time.time() - abandoned.stat().st_mtime > TEMPORARY_SECONDS:
                with _locked(abandoned) as is_locked:
                    if is_locked:
                        EmbeddedServer(abandoned).remove()
                        shutil.rmtree(abandoned, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=TEMPORARY_PREFIX))
    with _locked(folder):
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _locked(folder: Path) -> Iterator[bool]:
    """Lock a folder as long as this process lives. Yields whether no other process had locked it."""
    import fcntl  # not on Windows, which `programs` rejects

    with (folder / "lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
