"""Writes log lines to standard output without blocking."""

import asyncio
import os
import select
import stat
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, ClassVar
from weakref import WeakSet

from .log_tail import LogTail

if sys.platform == "linux":
    from fcntl import F_GETPIPE_SZ, fcntl, ioctl
    from termios import FIONREAD

if TYPE_CHECKING:
    from .shared_output import SharedOutput

MAX_HELD_BYTES = 8_388_608
RETRY_SECONDS = 0.02
GATHER_SECONDS = 0.005
MAX_GATHERED = 64
NOTHING_UNREAD = bytes(4)  # a C int
NEWLINE = 10
PIPE_BUF = 512 if sys.platform == "win32" else select.PIPE_BUF

Write = Callable[["LineWriter", bytes | str], None]


class LineWriter:
    """Writes lines to a file descriptor and never waits for its reader.

    The lines of one turn of the event loop are written together. Access lines (`gather`) also wait a little for those
    of later turns, since a write that wakes its reader is dear. Each other line takes them along. When the pipe is
    full, up to `max_held_bytes` of lines are kept. Each turn with new lines, or else a timer, writes as much as fits.
    Further lines are dropped: `on_drop` is called for each, and `on_recovery` with their number when the reader reads
    again.

    If poll(2) reports a pipe as writable, a write of at most PIPE_BUF bytes does not block. It is not mixed with the
    output of other processes on the same pipe (POSIX.1-2017, write). So the descriptor, which child processes share,
    stays blocking. An empty pipe of Linux takes its whole capacity in one piece (pipe(7)). Few large writes are cheaper
    than many small ones.

    With `shared_output`, other processes that write to the descriptor take turns with this one. While it is the turn of
    another one, lines are kept as for a full pipe.
    """

    shared_output: "SharedOutput | None" = None

    def __init__(self, fd: int, *, max_held_bytes: int = MAX_HELD_BYTES) -> None:
        self.on_drop: Callable[[], object] = lambda: None
        self.on_recovery: Callable[[int], object] = lambda dropped: None
        self._fd = fd
        self._max_held_bytes = max_held_bytes
        self._capacity = _capacity_of(fd)
        self.begin_empty()
        _writers.add(self)

    def redirect(self, fd: int) -> int:
        """Write to another descriptor from now on; returns the one before. For tests that read the lines."""
        self.flush()
        with self._lock:
            before, self._fd = self._fd, fd
            self._capacity = _capacity_of(fd)
        return before

    def begin_empty(self) -> None:
        """Discard all lines, also in a forked child: its parent writes those that it inherits."""
        self.tail: LogTail = LogTail()
        self._lines: list[bytes] = []
        self._data = b""  # lines that are being written, up to `_written`
        self._written = 0
        self._flush_is_due = False
        self._gathered_until = 0.0  # in the time of the loop
        self._gathering: asyncio.AbstractEventLoop | None = None  # that has a timer for the lines that wait
        self._is_full = False
        self._retry_is_due = False
        # The lines since the pipe is full, copied into one buffer: kept results of orjson would waste memory.
        self._held = bytearray()
        self._dropped = 0  # since the pipe is full
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lock = threading.Lock()

    def write(self: "LineWriter", line: bytes | str) -> None:
        """Add one line, without its newline."""
        data = line if isinstance(line, bytes) else line.encode("utf-8", "backslashreplace")
        if not (self._is_full and self._hold(data)):
            self._lines.append(data)
        if self._flush_is_due:
            return
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            self.flush()  # in another thread, or without a loop
        else:
            self._loop = loop
            self._flush_is_due = True
            loop.call_soon(self.flush)

    def gather(self, line: bytes) -> None:
        """Add one line that may wait until `GATHER_SECONDS` after the last one that did not, or for `MAX_GATHERED`.

        So a line is written at the end of its turn when there are few, and under load there are few writes. Call it on
        the event loop.
        """
        if not (self._is_full and self._hold(line)):
            self._lines.append(line)
        if self._flush_is_due:
            return
        loop = asyncio.get_running_loop()
        waits = self._gathering is loop  # not an earlier loop, which has closed
        if waits and len(self._lines) < MAX_GATHERED:
            return
        self._loop = loop
        if waits or loop.time() >= self._gathered_until:
            self._gathered_until = loop.time() + GATHER_SECONDS
            self._flush_is_due = True
            loop.call_soon(self.flush)
        else:
            self._gathering = loop
            loop.call_at(self._gathered_until, self._end_gathering)

    def _end_gathering(self) -> None:
        self._gathering = None
        if self._lines:
            self._gathered_until += GATHER_SECONDS
            self.flush()

    # structlog calls the method of the level's name.
    msg: ClassVar[Write] = write
    log: ClassVar[Write] = write
    debug: ClassVar[Write] = write
    info: ClassVar[Write] = write
    warning: ClassVar[Write] = write
    warn: ClassVar[Write] = write
    error: ClassVar[Write] = write
    exception: ClassVar[Write] = write
    critical: ClassVar[Write] = write

    def flush(self, seconds: float = 0.0) -> None:
        """Write the kept lines as far as they fit, and wait for the reader for at most `seconds`."""
        deadline = time.monotonic() + seconds if seconds else 0.0
        dropped = 0
        with self._lock:
            self._flush_is_due = False
            if self._drain_in_turn(deadline):
                if self._is_full:
                    self._is_full = False
                    dropped, self._dropped = self._dropped, 0
            else:
                self._note_full()
        if dropped:
            self.on_recovery(dropped)

    def _drain_in_turn(self, deadline: float) -> bool:
        shared = self.shared_output
        if shared is None:
            return self._drain(deadline)
        if not shared.begin(deadline):
            return False
        if shared.has_cut_line and not self._is_in_line():
            self._data, self._written = b"\n" + self._data[self._written :], 0
        try:
            return self._drain(deadline)
        finally:
            # After a part of a line, its rest must be next.
            is_in_line = self._is_in_line()
            if shared.has_cut_line != is_in_line:
                shared.has_cut_line = is_in_line
            if not is_in_line:
                shared.end()

    def _is_in_line(self) -> bool:
        """Whether a part of a line was written, and its rest was not."""
        return 0 < self._written < len(self._data) and self._data[self._written - 1] != NEWLINE

    def _drain(self, deadline: float) -> bool:
        """Write; whether everything could be written."""
        while True:
            if self._written == len(self._data):
                # Other threads only append, so as many lines as are counted here may be removed.
                count = len(self._lines)
                self._written = 0
                if count:
                    self._data = b"\n".join(self._lines[:count]) + b"\n"
                    del self._lines[:count]
                else:
                    self._data, self._held = bytes(self._held), bytearray()
                    if not self._data:
                        return True
                    count = self._data.count(b"\n")
                self.tail.add(self._data, count)
            wait_ms = max(0.0, deadline - time.monotonic()) * 1000 if deadline else 0
            free_bytes = self._capacity(wait_ms)
            if not free_bytes:
                return False
            end = self._written + free_bytes
            # Whole lines, unless one line alone is too long.
            part = self._data[self._written : self._data.rfind(b"\n", self._written, end) + 1 or end]
            try:
                size = os.write(self._fd, part)
            except BlockingIOError:
                # Another process has made the shared output non-blocking, and has filled it meanwhile.
                return False
            except OSError:
                # A reader that has closed the pipe is not an error of the service.
                self._lines.clear()
                self._held.clear()
                self._data, self._written = b"", 0
                return True
            self._written += size

    def _note_full(self) -> None:
        """Retry on a timer; the event loop's own writers would make the descriptor non-blocking for all processes."""
        self._is_full = True
        loop = self._loop
        if loop is not None and not self._retry_is_due:
            with suppress(RuntimeError):  # the loop is closed; the last flush follows
                loop.call_soon_threadsafe(lambda: loop.call_later(RETRY_SECONDS, self._retry))
                self._retry_is_due = True

    def _retry(self) -> None:
        self._retry_is_due = False
        self.flush()

    def _hold(self, line: bytes) -> bool:
        """Keep or drop a line while the pipe is full; False when it is not."""
        with self._lock:
            if not self._is_full:
                return False
            if len(self._data) - self._written + len(self._held) + len(line) < self._max_held_bytes:
                self._held += line + b"\n"
                return True
            self._dropped += 1
        self.on_drop()
        return True


def _is(has_type: Callable[[int], bool], fd: int) -> bool:
    """Whether the descriptor is a file of this type: `has_type` is a test of `stat`."""
    try:
        return has_type(os.fstat(fd).st_mode)
    except OSError:  # closed, which is not an error of the service either
        return False


def _begin_empty_in_child() -> None:
    for writer in _writers:
        writer.begin_empty()


_writers: WeakSet[LineWriter] = WeakSet()
if sys.platform != "win32":
    os.register_at_fork(after_in_child=_begin_empty_in_child)

Capacity = Callable[[float], int]
"""Waits that many milliseconds for the reader; returns how many bytes can be written without blocking."""


def _capacity_of(fd: int) -> Capacity:
    return _file_capacity if _is(stat.S_ISREG, fd) else _pipe_capacity(fd) if _is(stat.S_ISFIFO, fd) else _capacity(fd)


def _file_capacity(_milliseconds: float) -> int:
    return sys.maxsize


def _capacity(fd: int) -> Capacity:
    if sys.platform == "win32":
        return lambda milliseconds: PIPE_BUF
    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    return lambda milliseconds: PIPE_BUF if poll.poll(milliseconds) else 0


def _pipe_capacity(fd: int) -> Capacity:
    least = _capacity(fd)
    if sys.platform != "linux":
        return least

    def capacity(milliseconds: float) -> int:
        try:
            # The free capacity of a pipe that is not empty is unknown, since its pages may be partly used.
            if ioctl(fd, FIONREAD, NOTHING_UNREAD) == NOTHING_UNREAD:
                return fcntl(fd, F_GETPIPE_SZ)
        except OSError:
            pass  # closed; `write` will report it
        return least(milliseconds)

    return capacity
