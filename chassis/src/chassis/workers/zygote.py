"""The zygote: a process with the imported service and no thread, from which all workers are forked.

So a worker that replaces another one starts as quickly as the first, and without its state. All workers share the
memory of the imported modules.
"""

import os
import select
import signal
import socket
import time
from contextlib import suppress
from types import FrameType
from typing import NamedTuple, NoReturn

from .messages import EXITED, FORK, FORKED, SIGNAL, Message, receive, send

POLL_SECONDS = 0.05
IGNORED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Assignment(NamedTuple):
    """The slot of a new worker, its link to the supervisor, and its listening sockets."""

    slot: int
    link: socket.socket
    sockets: list[socket.socket]


class ZygoteHandle(NamedTuple):
    """The zygote as its parent sees it."""

    process: int
    socket: socket.socket

    def kill_group(self) -> None:
        """End the zygote and all workers at once, if they have not ended. May be called by a signal handler."""
        with suppress(ProcessLookupError):
            os.killpg(self.process, signal.SIGKILL)


def fork_zygote(end_seconds: float) -> ZygoteHandle | Assignment:
    """Fork the zygote. Returns its handle in this process, and an assignment in each worker that it forks later.

    When this process ends, its workers shut down. Those that still run after `end_seconds` are killed.
    """
    ours, theirs = socket.socketpair()
    process = os.fork()
    if process:
        theirs.close()
        # Here and in the child, because either may run first. A terminal's Ctrl-C is for this process alone, which
        # passes it on.
        _lead_group(process)
        return ZygoteHandle(process, ours)
    ours.close()
    _lead_group(0)
    return Zygote(theirs, end_seconds).run()


def _lead_group(process: int) -> None:
    with suppress(OSError):  # the child did so already, or has ended
        os.setpgid(process, process)


class Zygote:
    """Forks workers when asked, and reports their ends."""

    def __init__(self, supervisor: socket.socket, end_seconds: float) -> None:
        self._supervisor = supervisor
        self._end_seconds = end_seconds
        self._workers: set[int] = set()

    def run(self) -> Assignment:
        """Serve the supervisor until it ends. Returns in a worker only."""
        for number in IGNORED:
            signal.signal(number, signal.SIG_IGN)
        wake_up, waker = _pipe()
        signal.signal(signal.SIGCHLD, _ignore)  # Python writes to the wake-up descriptor
        signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
        while True:
            readable, _, _ = select.select([self._supervisor.fileno(), wake_up], [], [])
            if wake_up in readable:
                os.read(wake_up, 4096)
                self._reap()
            if self._supervisor.fileno() in readable:
                message = receive(self._supervisor)
                if message is None:
                    self._end()
                if message.kind == SIGNAL and message.first in self._workers:
                    os.kill(message.first, message.second)
                elif message.kind == FORK and self._fork(message) == 0:
                    os.close(wake_up)
                    os.close(waker)
                    self._supervisor.close()
                    link, *sockets = message.sockets
                    return Assignment(message.second, link, sockets)

    def _fork(self, message: Message) -> int:
        """Fork a worker. Returns 0 in the worker."""
        # A signal for the worker waits until its handlers are set: this process ignores signals.
        unblocked = signal.pthread_sigmask(signal.SIG_BLOCK, IGNORED)
        try:
            process = os.fork()
        except OSError:  # no memory, or too many processes
            process = -1
        if process == 0:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            # Until the server has its handlers.
            signal.signal(signal.SIGTERM, _exit)
            signal.signal(signal.SIGINT, _exit)
            signal.signal(signal.SIGHUP, _ignore)
        signal.pthread_sigmask(signal.SIG_SETMASK, unblocked)
        if process == 0:
            return 0
        for sock in message.sockets:
            sock.close()
        if process > 0:
            self._workers.add(process)
        self._report(FORKED, message.first, max(0, process))
        return process

    def _reap(self) -> None:
        while self._workers:
            process, status = os.waitpid(-1, os.WNOHANG)
            if process == 0:
                return
            self._workers.discard(process)
            self._report(EXITED, process, os.waitstatus_to_exitcode(status))

    def _report(self, kind: bytes, first: int, second: int) -> None:
        with suppress(OSError):  # the supervisor has ended, which is noticed next
            send(self._supervisor, kind, first, second)

    def _end(self) -> NoReturn:
        """The supervisor has ended. Workers stop, without a drain. Those that hang are killed."""
        for process in self._workers:  # those that still start do not notice it themselves
            os.kill(process, signal.SIGINT)
        end_at = time.monotonic() + self._end_seconds
        while self._workers and time.monotonic() < end_at:
            time.sleep(POLL_SECONDS)
            self._reap()
        if self._workers:
            os.killpg(0, signal.SIGKILL)
        os._exit(0)


def _pipe() -> tuple[int, int]:
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    os.set_blocking(writer, False)
    return reader, writer


def _ignore(_number: int, _frame: FrameType | None) -> None:
    """Nothing. Programs that the process starts do not inherit this, unlike SIG_IGN."""


def _exit(_number: int, _frame: FrameType | None) -> None:
    os._exit(0)
