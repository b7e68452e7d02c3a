"""A service in a process of its own, to be sent signals and read line by line."""

import asyncio
import os
import signal
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import orjson

from .forked import ForkedProcess, start_forked
from .service import Line, connect

PROGRAM = f"{__package__}.program"
ROOT = Path(__file__).parents[2]
PATIENCE_SECONDS = 60.0  # on a machine that does much else


class Process:
    """A running Python, and what it has written to its standard output."""

    def __init__(self, process: asyncio.subprocess.Process | ForkedProcess) -> None:
        self._process = process
        self._client: httpx.AsyncClient | None = None
        self.output = b""

    async def line(self, event: str) -> Line:
        """The next line that says `event`; fails when the process ends before it."""
        assert self._process.stdout is not None
        async with asyncio.timeout(PATIENCE_SECONDS):
            while raw := await self._process.stdout.readline():
                self.output += raw
                if (line := self.lines[-1])["event"] == event:
                    return line
        raise AssertionError(f"ended without {event!r}: {self.output!r}")

    async def client(self) -> httpx.AsyncClient:
        """A client, as soon as the service is ready."""
        port = (await self.line("listening"))["port"]
        await self.line("ready")
        self._client = connect(port)
        return self._client

    async def close(self) -> None:
        """Leave nothing behind."""
        if self._client is not None:
            await self._client.aclose()
        if self._process.returncode is None:
            self._process.kill()
            await self._process.communicate()

    def send(self, number: signal.Signals) -> None:
        """Send a signal."""
        self._process.send_signal(number)

    async def end(self) -> tuple[int, str]:
        """Wait for the end: the exit status, and what was written to standard error."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            out, err = await self._process.communicate()
        self.output += out or b""
        assert self._process.returncode is not None
        return self._process.returncode, err.decode()

    @property
    def lines(self) -> list[Line]:
        """Every log line until now."""
        return [orjson.loads(line) for line in self.output.splitlines()]

    @property
    def events(self) -> list[str]:
        """The events of the lines, in order."""
        return [line["event"] for line in self.lines]


def inherited_environment() -> dict[str, str]:
    """The environment for other processes, without what `conftest.py` sets for its own."""
    return {name: value for name, value in os.environ.items() if name != "GRPC_ENABLE_FORK_SUPPORT"}


@asynccontextmanager
async def run(
    *arguments: str, stdout: int = PIPE, warnings: str = "error", forked: bool = True, **environment: str
) -> AsyncIterator[Process]:
    """Run Python with `arguments`, and kill it at the end of the block if it still runs; warnings are errors.

    With `-m` and `forked`, the process is forked from one that has imported the libraries, but not the program.
    """
    variables = {**inherited_environment(), "APP_HOST": "127.0.0.1", "APP_PORT": "0", "APP_LOG_FORMAT": "json"}
    variables |= environment
    started: asyncio.subprocess.Process | ForkedProcess
    if arguments[0] == "-m" and forked:
        started = await start_forked(*arguments[1:], environment=variables, stdout=stdout, warnings=warnings)
    else:
        started = await asyncio.create_subprocess_exec(
            *(sys.executable, "-W", warnings, *arguments), cwd=ROOT, env=variables, stdout=stdout, stderr=PIPE
        )
    process = Process(started)
    try:
        yield process
    finally:
        await process.close()
