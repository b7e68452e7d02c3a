"""The last log lines, kept in memory for operators."""

import time
from collections import deque

MAX_LINES = 1000
MAX_BYTES = 1_048_576


class LogTail:
    """Keeps the last `MAX_LINES` lines, and at most `MAX_BYTES` of them, with the number of each.

    It takes the lines as they were written, those of one turn of the event loop together, and splits them when they
    are read. The writer calls `add` while it holds its lock; `lines` may be called in any thread.
    """

    def __init__(self, *, first: int | None = None, max_lines: int = MAX_LINES, max_bytes: int = MAX_BYTES) -> None:
        """`first` is the number of the first line.

        By default that is the time in microseconds. So a process that replaces another one has higher numbers, and so
        has the service after a restart. Clients that read the lines after a number need not know of it.
        """
        self._max_lines = max_lines
        self._max_bytes = max_bytes
        self._chunks: deque[tuple[int, bytes]] = deque()
        """The number of the first line, and the lines."""
        self._bytes = 0
        self._next = time.time_ns() // 1000 if first is None else first

    def add(self, data: bytes, count: int) -> None:
        """Keep so many whole lines, each with its newline."""
        chunks, number = self._chunks, self._next
        self._next += count
        if len(data) > self._max_bytes:
            data = data[data.find(b"\n", len(data) - self._max_bytes - 1) + 1 :]
            number = self._next - data.count(b"\n")
        chunks.append((number, data))
        self._bytes += len(data)
        while len(chunks) > 1 and (self._bytes > self._max_bytes or self._next - chunks[1][0] >= self._max_lines):
            self._bytes -= len(chunks.popleft()[1])

    def lines(self, after: int = 0) -> list[tuple[int, bytes]]:
        """The lines that are kept and have a higher number than `after`, the oldest first."""
        return [
            (number, line)
            for first, data in list(self._chunks)
            for number, line in enumerate(data.split(b"\n")[:-1], first)
            if number > after
        ][-self._max_lines :]
