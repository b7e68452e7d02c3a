"""Log lines on their way out of the process."""

import asyncio
import os
import select
import threading


class LineWriter:
    """Writes lines to a file descriptor, all of one turn of the event loop in a single `write`.

    A `write` per line is what makes logging expensive on a pipe. Lines from other threads, or while
    no loop runs, are written at once; at the end of the process `flush` runs a last time.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._lines: list[bytes] = []
        self._flush_is_due = False
        self._lock = threading.Lock()

    def write(self, line: bytes | str) -> None:
        """Add one line, without its newline."""
        self._lines.append(line if isinstance(line, bytes) else line.encode())
        if self._flush_is_due:
            return
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            self.flush()
        else:
            self._flush_is_due = True
            loop.call_soon(self.flush)

    # structlog calls its logger by the level's name.
    msg = debug = info = warning = warn = error = critical = exception = log = write

    def flush(self) -> None:
        """Write what has gathered; a reader that has gone away is not an error of the service."""
        self._flush_is_due = False
        with self._lock:
            # Other threads only append, so what is counted here is what may be taken away.
            count = len(self._lines)
            if not count:
                return
            data = memoryview(b"\n".join(self._lines[:count]) + b"\n")
            del self._lines[:count]
            while data:
                try:
                    data = data[os.write(self._fd, data) :]
                except BlockingIOError:
                    # Somebody who shares our output has made it non-blocking.
                    select.select([], [self._fd], [])
                except OSError:
                    return
