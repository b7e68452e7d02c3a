"""An open-loop load on the gateway; a program of its own, so that the test does not disturb what it measures.

    python tests/support/open_load.py <port> <requests a second> <file>

Each request is due at a fixed time, and its latency counts from then, however slow the responses before it are. Four of
five are reads, the others writes with a key. Each gets a line in the file, in the order in which they were due.
"""

import asyncio
import re
import signal
import subprocess
import sys
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from statistics import quantiles
from typing import IO, Self

TIMEOUT_SECONDS = 10.0
WRITE_EVERY = 5
BODY = b'{"quantity": 3}'
LENGTH = re.compile(rb"content-length: (\d+)", re.IGNORECASE)
Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclass(frozen=True)
class Sample:
    """A request: when it was due (seconds of the monotonic clock), its latency in seconds, and how it ended."""

    due: float
    latency: float
    status: int  # 0: no complete response
    retry_after: bool
    error: str

    @property
    def failed(self) -> bool:
        """Whether it is no success."""
        return not 200 <= self.status < 300

    def line(self) -> str:
        return f"{self.due:.6f} {self.latency:.6f} {self.status} {self.retry_after:d} {self.error}\n"

    @classmethod
    def read(cls, line: str) -> Self:
        due, latency, status, retry_after, error = line.rstrip("\n").split(" ", 4)
        return cls(float(due), float(latency), int(status), retry_after == "1", error)


def percentile(samples: list[Sample], percent: int) -> float:
    """A percentile of the latencies in milliseconds; 0 without requests."""
    latencies = [sample.latency for sample in samples]
    return round(quantiles(latencies, n=100, method="inclusive")[percent - 1] * 1e3, 1) if len(latencies) > 1 else 0.0


class OpenLoad:
    """The load as a process, while the context is open."""

    def __init__(self, file: Path, port: int, rate: float) -> None:
        self._file = file
        self._command = [sys.executable, __file__, str(port), str(rate), str(self._file)]

    def __enter__(self) -> Self:
        self._file.write_text("")
        self._process = subprocess.Popen(self._command, stdin=subprocess.DEVNULL)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.send_signal(signal.SIGINT)
        self._process.wait(2 * TIMEOUT_SECONDS)

    def samples(self, since: float, until: float) -> list[Sample]:
        """The requests that were due in this time, as soon as all of them have ended."""
        gave_up = max(time.monotonic(), until) + 2 * TIMEOUT_SECONDS
        while True:
            with self._file.open() as lines:
                samples = [Sample.read(line) for line in lines if line.endswith("\n")]
            if samples and samples[-1].due >= until:
                return [sample for sample in samples if since <= sample.due < until]
            assert self._process.poll() is None, "the load has ended"
            assert time.monotonic() < gave_up, "requests did not end"
            time.sleep(0.05)


class Sender:
    """Sends the requests, on as many kept connections as it needs."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._free: list[Connection] = []

    async def send(self, number: int, due: float) -> Sample:
        """Send one request, and wait for its response."""
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS):
                status, retry_after = await self._ask(request(number, self._port))
        except (OSError, EOFError, TimeoutError, asyncio.IncompleteReadError) as error:
            return Sample(due, time.monotonic() - due, 0, retry_after=False, error=type(error).__name__)
        return Sample(due, time.monotonic() - due, status, retry_after, "")

    async def _ask(self, content: bytes) -> tuple[int, bool]:
        reader, writer = self._free.pop() if self._free else await asyncio.open_connection("127.0.0.1", self._port)
        try:
            writer.write(content)
            headers = (await reader.readuntil(b"\r\n\r\n")).lower()
            length = LENGTH.search(headers)
            await reader.readexactly(int(length[1]) if length else 0)
        except BaseException:
            writer.close()
            raise
        if b"\r\nconnection: close" in headers:
            writer.close()
        else:
            self._free.append((reader, writer))
        return int(headers[9:12]), b"\r\nretry-after: " in headers


def request(number: int, port: int) -> bytes:
    """The request of this number. Loads on other ports have other keys: all gateways reserve at the same backend."""
    path = f"/offers/sku-{number % 100}"
    if number % WRITE_EVERY:
        return f"GET {path} HTTP/1.1\r\nHost: gateway\r\n\r\n".encode()
    headers = f"Idempotency-Key: key-{port}-{number}\r\nContent-Type: application/json\r\nContent-Length: {len(BODY)}"
    return f"POST {path} HTTP/1.1\r\nHost: gateway\r\n{headers}\r\n\r\n".encode() + BODY


async def load(port: int, rate: float, file: IO[str]) -> None:
    """Send until SIGINT."""
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGINT, stopped.set)
    sender, sending, number, began = Sender(port), deque[asyncio.Task[Sample]](), 0, time.monotonic()
    while sending or not stopped.is_set():
        due = began + number / rate
        if due <= time.monotonic() and not stopped.is_set():
            sending.append(asyncio.create_task(sender.send(number, due)))
            number += 1
            continue
        while sending and sending[0].done():
            file.write(sending.popleft().result().line())
        file.flush()
        await asyncio.sleep(min(max(due - time.monotonic(), 0), 0.01) if not stopped.is_set() else 0.01)


if __name__ == "__main__":
    with Path(sys.argv[3]).open("a") as file:
        asyncio.run(load(int(sys.argv[1]), float(sys.argv[2]), file))
