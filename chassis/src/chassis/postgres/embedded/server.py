"""The server as a process: its data are created, it is started, and stopped."""

import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, ClassVar, Self

from .errors import ALTERNATIVE, EmbeddedServerError
from .nobody import NOBODY, is_open, open_folder
from .wheel import open_copy, programs, version_of

HOST = "127.0.0.1"
START_SECONDS = 30.0
STOP_SECONDS = 10.0
POLL_SECONDS = 0.01
RETRY_SECONDS = 0.1
PORT_ATTEMPTS = 3
# The first process of a server that was killed still has its number, or another process of it still has the memory.
STILL_ENDING = ('lock file "postmaster.pid" already exists', "pre-existing shared memory block")
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


class _PortTakenError(Exception):
    """Another process has taken the port since it was free."""


class _EarlierServerError(Exception):
    """A process of the server of an earlier run, which was killed, has not ended yet."""


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
        self.version: int = version_of(self.programs / "postgres")
        self.folder: Path = folder.absolute()
        self.data: Path = self.folder / f"data-{self.version}"  # another version cannot read it
        self.options: tuple[str, ...] = options
        self.port: int = free_port()
        self.user: dict[str, Any] = {}
        if os.geteuid() == 0:
            self.user = {"user": NOBODY, "group": NOBODY, "extra_groups": []}
            if not is_open(self.programs):
                self.programs = open_copy(self.programs)
            if not is_open(self.folder.parent):
                self.folder = open_folder(self.folder)
                self.data = self.folder / self.data.name
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """The URL of its database."""
        return f"postgresql://postgres:{self.password}@{HOST}:{self.port}/postgres"

    @property
    def password(self) -> str:
        """The password of its user `postgres`."""
        return self.password_file.read_text(encoding="utf-8")

    @property
    def password_file(self) -> Path:
        """The file with the password."""
        return self.folder / "password"

    @property
    def pid(self) -> int:
        """The first process of the server."""
        if self._process is None:
            raise RuntimeError("the server does not run; start it")
        return self._process.pid

    def create(self) -> None:
        """Create the data, if there are none. Raises `EmbeddedServerError`."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.user and not (is_open(self.folder.parent) and is_open(self.programs)):
            raise self._rejected()
        if self.data.exists():
            return
        password = self.password_file
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
        """Start the server, and wait until it accepts connections. Raises `EmbeddedServerError`.

        If the server of an earlier run was killed and has not ended yet, it is tried again for 10 seconds.
        """
        self.create()
        self._clean_up()
        ports = 1
        deadline = time.monotonic() + STOP_SECONDS
        while True:
            try:
                self._start()
            except _PortTakenError:
                if ports == PORT_ATTEMPTS:
                    raise EmbeddedServerError(f"PostgreSQL found no free port; {ALTERNATIVE}") from None
                ports += 1
                self.port = free_port()
            except _EarlierServerError:
                if time.monotonic() > deadline:
                    raise EmbeddedServerError(
                        f"the server of an earlier run with the data in {self.data} was killed and is still ending; "
                        f"wait until its processes have ended, {ALTERNATIVE}"
                    ) from None
                time.sleep(RETRY_SECONDS)
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
                    if any(reason in text for reason in STILL_ENDING):
                        raise _EarlierServerError
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
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGINT)
            deadline = time.monotonic() + STOP_SECONDS
            while _command_of(pid):
                if time.monotonic() > deadline:
                    raise EmbeddedServerError(f"the server of an earlier run, process {pid}, does not end; kill it")
                time.sleep(POLL_SECONDS)
        elif Path(command.partition(" ")[0]).name.startswith("postgres"):
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


def _command_of(pid: int) -> str:
    """The command line of a process; empty if there is no such process."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:  # macOS
        done = subprocess.run(["ps", "-o", "command=", "-p", str(pid)], capture_output=True, text=True, check=False)  # noqa: S603, S607
        return done.stdout
