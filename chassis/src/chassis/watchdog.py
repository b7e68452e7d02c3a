"""Ends the process in time if its graceful shutdown hangs."""

import asyncio
import faulthandler
import os
import sys
import threading
import time
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, NamedTuple, NoReturn

import structlog
from structlog.typing import FilteringBoundLogger

from .telemetry import Telemetry
from .telemetry.stacks import calls_of

if TYPE_CHECKING:
    from multiprocessing.process import BaseProcess

log: FilteringBoundLogger = structlog.get_logger()

LAST_LINES_SECONDS = 1.0
LAST_RESORT_SECONDS = 2.0


class Order(NamedTuple):
    """When the process ends, and with which exit status. Spans are exported at `flush_at`. Monotonic seconds."""

    flush_at: float
    end_at: float
    status: int


class Watchdog:
    """Ends the process if its shutdown hangs, with the same telemetry and exit status as a normal shutdown.

    A shutdown hangs if a thread never ends, a task ignores its cancellation, a child process keeps running, or code
    blocks the event loop. So the watchdog waits in its own thread. When the time is up, it logs a warning that names
    the remaining threads, tasks and processes, and writes the last log lines. Then it ends the child processes of
    `multiprocessing`, and calls `os._exit`. Functions of `atexit` are not called.

    If native code blocks the interpreter, no Python code can run. Then `faulthandler` writes the stacks to standard
    error and ends the process with status 1.
    """

    def __init__(self, telemetry: Telemetry) -> None:
        self._telemetry = telemetry
        self._loop: asyncio.AbstractEventLoop | None = None
        self._orders: SimpleQueue[Order] = SimpleQueue()
        # Started here, because a thread cannot be started safely in a signal handler.
        threading.Thread(target=self._watch, name="shutdown watchdog", daemon=True).start()

    def watch(self, loop: asyncio.AbstractEventLoop) -> None:
        """Include the remaining tasks of this event loop in the warning."""
        self._loop = loop

    def end_within(self, seconds: float, *, status: int, flush_seconds: float = 0.0) -> None:
        """End the process after `seconds` if it still runs then. A later call replaces an earlier one.

        Spans are exported in the last `flush_seconds` before that. May be called by a signal handler.
        """
        faulthandler.dump_traceback_later(seconds + LAST_RESORT_SECONDS, exit=True, file=2)
        end_at = time.monotonic() + seconds
        self._orders.put(Order(end_at - flush_seconds, end_at, status))  # reentrant, unlike a lock

    def _watch(self) -> None:
        order = self._orders.get()
        while True:
            newer = self._newer_by(order.flush_at)
            if newer is None:
                if order.flush_at < order.end_at:
                    with suppress(Exception):  # the process must end even if this fails
                        self._telemetry.begin_flush()
                newer = self._newer_by(order.end_at)
            if newer is None:
                self._end(order.status)
            order = newer

    def _newer_by(self, moment: float) -> Order | None:
        try:
            return self._orders.get(timeout=max(0.0, moment - time.monotonic()))
        except Empty:
            return None

    def _end(self, status: int) -> NoReturn:
        try:
            children = child_processes()
            log.warning(
                "shutdown hangs; ending the process",
                status=status,
                threads=running_threads(),
                tasks=self._tasks(),
                processes=[child.name for child in children],
            )
            self._telemetry.logs.writer.flush(LAST_LINES_SECONDS)
            for child in children:
                child.terminate()
                if child.daemon:  # a daemon process must not outlive its parent, even if it ignores SIGTERM
                    child.kill()
        finally:
            os._exit(status)

    def _tasks(self) -> list[str]:
        if self._loop is None:
            return []
        with suppress(RuntimeError):  # the set may change meanwhile, because the loop runs in another thread
            return sorted({task.get_name() for task in asyncio.all_tasks(self._loop)})
        return []


def running_threads() -> list[str]:
    """The threads for which the interpreter waits at exit, each with its innermost calls."""
    frames = sys._current_frames()  # documented, despite its name
    own = threading.get_ident()
    threads = [thread for thread in threading.enumerate() if not thread.daemon and thread.ident not in (None, own)]
    return [f"{thread.name}: {', '.join(calls_of(frames.get(thread.ident or 0)))}" for thread in threads]


def child_processes() -> "list[BaseProcess]":
    """The running child processes of `multiprocessing`."""
    if "multiprocessing" not in sys.modules:  # not imported here, because an import may hang as well
        return []
    import multiprocessing

    return list(multiprocessing.active_children())
