"""Ends the process in time when its graceful shutdown hangs."""

import asyncio
import faulthandler
import os
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, NoReturn

import structlog
from structlog.typing import FilteringBoundLogger

from .telemetry import Telemetry
from .telemetry.loop_watch import calls_of

if TYPE_CHECKING:
    from multiprocessing.process import BaseProcess

log: FilteringBoundLogger = structlog.get_logger()

LAST_LINES_SECONDS = 1.0
LAST_RESORT_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Order:
    """When the process ends, monotonic seconds, and how; `flush_at` is when its spans are exported before that."""

    flush_at: float
    end_at: float
    status: int


class Watchdog:
    """Ends the process when its shutdown hangs, with telemetry and exit status as if it did not.

    Threads may never end, and the interpreter waits for them; tasks may ignore their cancellation; a child process may
    go on; code may block the event loop. So this waits in a thread of its own. When the time is up, it logs a
    warning that names what is left, writes the last log lines, ends the child processes of `multiprocessing`, and
    calls `os._exit`. Functions of `atexit` are not called then.

    Should native code hold the interpreter, so that no Python code can run, `faulthandler` writes the stacks to
    standard error and ends the process with status 1.
    """

    def __init__(self, telemetry: Telemetry) -> None:
        self._telemetry = telemetry
        self._loop: asyncio.AbstractEventLoop | None = None
        self._orders: SimpleQueue[Order] = SimpleQueue()
        # Started now: a thread cannot be started safely in a signal handler.
        threading.Thread(target=self._watch, name="shutdown watchdog", daemon=True).start()

    def watch(self, loop: asyncio.AbstractEventLoop) -> None:
        """Name the tasks of this event loop as well when they are left."""
        self._loop = loop

    def end_within(self, seconds: float, *, status: int, flush_seconds: float = 0.0) -> None:
        """End the process after `seconds` if it still runs then; the last call counts.

        With `flush_seconds`, spans are exported for at most so long before that. May be called by a signal handler.
        """
        faulthandler.dump_traceback_later(seconds + LAST_RESORT_SECONDS, exit=True, file=2)
        end_at = time.monotonic() + seconds
        self._orders.put(Order(end_at - flush_seconds, end_at, status))  # may interrupt itself, unlike locks

    def _watch(self) -> None:
        order = self._orders.get()
        while True:
            newer = self._newer_by(order.flush_at)
            if newer is None:
                if order.flush_at < order.end_at:
                    with suppress(Exception):  # whatever fails here, the process must end
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
                "shutdown hangs; the process ends now",
                status=status,
                threads=running_threads(),
                tasks=self._tasks(),
                processes=[child.name for child in children],
            )
            self._telemetry.logs.writer.flush(LAST_LINES_SECONDS)
            for child in children:
                child.terminate()
                if child.daemon:  # such a process never outlives its parent, even if it ignores SIGTERM
                    child.kill()
        finally:
            os._exit(status)

    def _tasks(self) -> list[str]:
        if self._loop is None:
            return []
        with suppress(RuntimeError):  # the loop's thread starts and ends tasks meanwhile
            return sorted({task.get_name() for task in asyncio.all_tasks(self._loop)})
        return []


def running_threads() -> list[str]:
    """The threads for which the interpreter waits, each with its innermost calls."""
    frames = sys._current_frames()  # documented, in spite of its name
    own = threading.get_ident()
    threads = [thread for thread in threading.enumerate() if not thread.daemon and thread.ident not in (None, own)]
    return [f"{thread.name}: {', '.join(calls_of(frames.get(thread.ident or 0)))}" for thread in threads]


def child_processes() -> "list[BaseProcess]":
    """The child processes of `multiprocessing` that run."""
    if "multiprocessing" not in sys.modules:  # an import may hang as well
        return []
    import multiprocessing

    return list(multiprocessing.active_children())
