"""An output that several processes write to: one writes at a time, so that their lines are not mixed."""

import fcntl
import mmap
import os
import sys
import tempfile
import time

RETRY_SECONDS = 0.001


class SharedOutput:
    """Whose turn it is to write; made before the processes are forked.

    A pipe keeps pieces of at most PIPE_BUF bytes together, but not more, and a write of more may block while another
    process writes too. The lock belongs to the process that holds it, and the system frees it when that process ends.
    """

    def __init__(self) -> None:
        # A file without a name: the file system may be read-only.
        if sys.platform == "linux":
            self._fd = os.memfd_create("log output")
        else:
            with tempfile.TemporaryFile() as file:
                self._fd = os.dup(file.fileno())
        os.ftruncate(self._fd, 1)
        self._shared = mmap.mmap(self._fd, 1)

    @property
    def has_cut_line(self) -> bool:
        """Whether a part of a line was written, and its rest was not. Set it only while it is this process's turn.

        A process keeps its turn until it has written the rest. So for another one it is true if that has ended before.
        """
        return self._shared[0] == 1

    @has_cut_line.setter
    def has_cut_line(self, value: bool) -> None:
        self._shared[0] = int(value)

    def begin(self, deadline: float) -> bool:
        """Whether this process may write; waits until `deadline`, monotonic seconds, or with 0 not at all."""
        while True:
            try:
                fcntl.lockf(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                if time.monotonic() >= deadline:
                    return False
                time.sleep(RETRY_SECONDS)
            else:
                return True

    def end(self) -> None:
        """Let other processes write."""
        fcntl.lockf(self._fd, fcntl.LOCK_UN)
