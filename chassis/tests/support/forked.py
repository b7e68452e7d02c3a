"""Python programs in processes of their own that tests start, forked from one that has imported their libraries."""

import asyncio
import atexit
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from asyncio.subprocess import PIPE
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import IO, Any

PRELOADED = f"{__package__}.preloaded"
ROOT = Path(__file__).parents[2]
LIBRARIES = (
    *("chassis.server", "chassis.watchdog", "chassis.commands.main", "chassis.workers.start"),
    *("chassis.client", "chassis.delivery", "chassis.nats", "chassis.postgres", "chassis.testing"),
    *("chassis.migrations.commands", "chassis.migrations.connection", "chassis.migrations.service"),
    *("argparse", "concurrent.futures.thread", "encodings.idna", "multiprocessing.context", "uvloop"),
)


class ForkServer:
    """A process that forks others, for the rest of the tests of this process."""

    def __init__(self) -> None:
        self._link, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-W", "error", "-m", PRELOADED, str(theirs.fileno()), *LIBRARIES],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
            )
        atexit.register(self.close)

    def close(self) -> None:
        """End the process, and those that it has forked."""
        self._link.close()
        self._process.wait()

    def start(
        self,
        module: str,
        arguments: Sequence[str],
        files: Sequence[int],
        *,
        folder: Path,
        environment: Mapping[str, str],
        warnings: str = "error",
        new_session: bool = False,
    ) -> tuple[int, socket.socket]:
        """Start `python -m module`. Returns its number, and the socket that its exit status will arrive at."""
        status, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        request: dict[str, Any] = {"warnings": warnings, "new_session": new_session}
        request |= {"module": module, "arguments": [*arguments], "folder": str(folder), "environment": {**environment}}
        message = json.dumps(request).encode()
        with theirs:
            socket.send_fds(self._link, [message], [*files, theirs.fileno()])
        number = int(status.recv(100) or 0)
        assert number, "the process that forks others has ended"
        return number, status


@cache
def fork_server() -> ForkServer:
    """The process that has imported the libraries, started when a test needs it."""
    return ForkServer()


class ForkedProcess:
    """A process with the attributes of `asyncio.subprocess.Process` that tests use."""

    def __init__(self, number: int, status: socket.socket) -> None:
        self.pid = number
        self.returncode: int | None = None
        self.stdout: asyncio.StreamReader | None = None
        self.stderr: asyncio.StreamReader | None = None
        self._status = status
        self._ended = asyncio.Event()
        self._transports: list[asyncio.BaseTransport] = []
        asyncio.get_running_loop().add_reader(status, self._on_status)

    def _on_status(self) -> None:
        asyncio.get_running_loop().remove_reader(self._status)
        with self._status:
            self.returncode = int(self._status.recv(100))
        self._ended.set()

    async def read_from(self, pipe: int, limit: int) -> asyncio.StreamReader:
        """A reader of a pipe."""
        reader = asyncio.StreamReader(limit)
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(pipe, "rb", buffering=0)
        )
        self._transports.append(transport)
        return reader

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self.returncode is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        """Kill it."""
        self.send_signal(signal.SIGKILL)

    async def wait(self) -> int:
        """Its exit status, when it has ended."""
        await self._ended.wait()
        assert self.returncode is not None
        return self.returncode

    async def communicate(self) -> tuple[bytes, bytes]:
        """The rest of its output, and of its errors."""
        out, err, _ = await asyncio.gather(rest_of(self.stdout), rest_of(self.stderr), self.wait())
        for transport in self._transports:
            transport.close()
        return out, err


async def rest_of(reader: asyncio.StreamReader | None) -> bytes:
    """The rest of a pipe, until its end."""
    return b"" if reader is None else await reader.read()


async def start_forked(
    module: str,
    *arguments: str,
    environment: Mapping[str, str],
    folder: Path = ROOT,
    stdout: int = PIPE,
    warnings: str = "error",
    new_session: bool = False,
    limit: int = 2**16,
) -> ForkedProcess:
    """Start `python -m module` with pipes; `stdout` may be a descriptor."""
    reader, writer = os.pipe() if stdout == PIPE else (-1, stdout)
    error_reader, error_writer = os.pipe()
    null = os.open(os.devnull, os.O_RDONLY)
    try:
        process = ForkedProcess(
            *fork_server().start(
                module,
                arguments,
                [null, writer, error_writer],
                folder=folder,
                environment=environment,
                warnings=warnings,
                new_session=new_session,
            )
        )
    finally:
        for file in (null, error_writer, *([writer] if stdout == PIPE else [])):
            os.close(file)
    process.stderr = await process.read_from(error_reader, limit)
    if stdout == PIPE:
        process.stdout = await process.read_from(reader, limit)
    return process


def run_forked(
    module: str,
    *arguments: str,
    environment: Mapping[str, str],
    folder: Path,
    timeout: float = 60.0,
) -> "subprocess.CompletedProcess[str]":
    """Run `python -m module` to its end."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err, open(os.devnull) as null:
        files: list[IO[str]] = [null, out, err]
        number, status = fork_server().start(
            module, arguments, [file.fileno() for file in files], folder=folder, environment=environment
        )
        with status:
            status.settimeout(timeout)
            try:
                code = int(status.recv(100))
            except TimeoutError:
                os.kill(number, signal.SIGKILL)
                raise
        for file in (out, err):
            file.seek(0)
        return subprocess.CompletedProcess([module, *arguments], code, out.read(), err.read())
