"""Log lines on their way out of the process."""

import asyncio
import os
import select
import stat
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress

if sys.platform == "linux":
    from fcntl import F_GETPIPE_SZ, fcntl, ioctl
    from termios import FIONREAD

MAX_HELD_BYTES = 8_388_608
RETRY_SECONDS = 0.02
NOTHING_UNREAD = bytes(4)  # a C int
PIPE_BUF = 512 if sys.platform == "win32" else select.PIPE_BUF


class LineWriter:
    """Writes lines to a file descriptor and never waits for whoever reads them.

    Lines of one turn of the event loop leave together: a `write` for each is what makes logging expensive
    on a pipe. What a full pipe doesn't take is held, up to `max_held_bytes`, and each turn with new lines
    writes what there is room for; without new lines, a timer does. Lines beyond that are dropped,
    `on_drop` is called for each, and `on_recovery` with their number when the reader is back.

    Where poll(2) says that there is room, a write of at most PIPE_BUF bytes doesn't block, and isn't mixed
    with what others write to the same pipe (POSIX.1-2017, write). So the descriptor, which our children
    share, needn't be made non-blocking. An empty pipe of Linux takes all that it holds in one piece (pipe(7)):
    each write wakes a reader that sleeps, and that costs more than the write itself.
    """

    def __init__(self, fd: int, *, max_held_bytes: int = MAX_HELD_BYTES) -> None:
        self.on_drop: Callable[[], object] = lambda: None
        self.on_recovery: Callable[[int], object] = lambda dropped: None
        self._fd = fd
        self._max_held_bytes = max_held_bytes
        self._room = _file_room if _is(stat.S_ISREG, fd) else _pipe_room(fd) if _is(stat.S_ISFIFO, fd) else _room(fd)
        self._lines: list[bytes] = []
        self._data = b""  # lines that are being written, up to `_written`
        self._written = 0
        self._flush_is_due = False
        self._is_full = False
        self._retry_is_due = False
        # Lines since it is full, in one piece: between orjson's results, if they are kept, are holes of kilobytes.
        self._held = bytearray()
        self._dropped = 0  # since it is full
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lock = threading.Lock()

    def write(self, line: bytes | str) -> None:
        """Add one line, without its newline."""
        data = line if isinstance(line, bytes) else line.encode()
        if not (self._is_full and self._hold(data)):
            self._lines.append(data)
        if self._flush_is_due:
            return
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            self.flush()  # of another thread, or there is no loop
        else:
            self._loop = loop
            self._flush_is_due = True
            loop.call_soon(self.flush)

    # structlog calls its logger by the level's name.
    msg = debug = info = warning = warn = error = critical = exception = log = write

    def flush(self, seconds: float = 0.0) -> None:
        """Write what has gathered as far as there is room, and wait for room for at most `seconds`."""
        deadline = time.monotonic() + seconds if seconds else 0.0
        dropped = 0
        with self._lock:
            self._flush_is_due = False
            if self._drain(deadline):
                if self._is_full:
                    self._is_full = False
                    dropped, self._dropped = self._dropped, 0
            else:
                self._note_full()
        if dropped:
            self.on_recovery(dropped)

    def _drain(self, deadline: float) -> bool:
        """Whether everything could be written."""
        while True:
            if self._written == len(self._data):
                # Other threads only append, so what is counted here is what may be taken away.
                count = len(self._lines)
                self._written = 0
                if count:
                    self._data = b"\n".join(self._lines[:count]) + b"\n"
                    del self._lines[:count]
                else:
                    self._data, self._held = bytes(self._held), bytearray()
                    if not self._data:
                        return True
            wait_ms = max(0.0, deadline - time.monotonic()) * 1000 if deadline else 0
            room = self._room(wait_ms)
            if not room:
                return False
            end = self._written + room
            # Whole lines, where one isn't too long by itself.
            part = self._data[self._written : self._data.rfind(b"\n", self._written, end) + 1 or end]
            try:
                size = os.write(self._fd, part)
            except BlockingIOError:
                # Somebody who shares our output has made it non-blocking, and was faster.
                return False
            except OSError:
                # A reader that has gone away is not an error of the service.
                self._lines.clear()
                self._held.clear()
                self._data, self._written = b"", 0
                return True
            self._written += size

    def _note_full(self) -> None:
        """Try again after a while; a watch by the event loop would make the descriptor non-blocking for all."""
        self._is_full = True
        loop = self._loop
        if loop is not None and not self._retry_is_due:
            with suppress(RuntimeError):  # it is closed: the last flush is still to come
                loop.call_soon_threadsafe(lambda: loop.call_later(RETRY_SECONDS, self._retry))
                self._retry_is_due = True

    def _retry(self) -> None:
        self._retry_is_due = False
        self.flush()

    def _hold(self, line: bytes) -> bool:
        """Keep or drop a line that can't leave; False when it can."""
        with self._lock:
            if not self._is_full:
                return False
            if len(self._data) - self._written + len(self._held) + len(line) < self._max_held_bytes:
                self._held += line + b"\n"
                return True
            self._dropped += 1
        self.on_drop()
        return True


def _is(kind: Callable[[int], bool], fd: int) -> bool:
    """Whether the descriptor is of that kind, as `stat` tells."""
    try:
        return kind(os.fstat(fd).st_mode)
    except OSError:  # closed, which is no error of the service either
        return False


Room = Callable[[float], int]
"""Waits for room for so many milliseconds; returns how many bytes can be written without waiting."""


def _file_room(_milliseconds: float) -> int:
    return sys.maxsize


def _room(fd: int) -> Room:
    if sys.platform == "win32":
        return lambda milliseconds: PIPE_BUF
    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    return lambda milliseconds: PIPE_BUF if poll.poll(milliseconds) else 0


def _pipe_room(fd: int) -> Room:
    some = _room(fd)
    if sys.platform != "linux":
        return some

    def room(milliseconds: float) -> int:
        try:
            # In one that isn't empty, how full its pages are is not to be known.
            if ioctl(fd, FIONREAD, NOTHING_UNREAD) == NOTHING_UNREAD:
                return fcntl(fd, F_GETPIPE_SZ)
        except OSError:
            pass  # closed; `write` will say so
        return some(milliseconds)

    return room
