"""A command as a process: signals cancel it, and it ends in bounded time."""

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any

import structlog
from structlog.typing import FilteringBoundLogger

from ..app import FLUSH_SECONDS, App
from ..server import END_SECONDS, EXIT_SECONDS, loop_factory
from ..signals import stop_signals
from ..watchdog import LAST_LINES_SECONDS, Watchdog

log: FilteringBoundLogger = structlog.get_logger()

Work = Callable[[], Coroutine[Any, Any, int]]
SIGNALLED = 128  # and the number of the signal: the exit status, as a shell reports it


def run_process(app: App, name: str, work: Work, *, seconds: float | None = None) -> int:
    """Do the work of a command, which opens the app, and close the app. Returns the exit status of the process.

    A signal cancels the work. It gets `shutdown_seconds` for its cleanup, then the resources are closed. A second
    signal ends the process at once. If the end hangs, a `Watchdog` ends the process. With `seconds`, it also ends work
    that does not end by then.
    """
    process = _Process(app, name, seconds)
    try:
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            return runner.run(process.run(work))
    finally:
        app.telemetry.logs.writer.flush()


class _Process:
    def __init__(self, app: App, name: str, seconds: float | None) -> None:
        self._app = app
        self._name = name
        self._shutdown_seconds = app.settings.shutdown_seconds
        self._watchdog = Watchdog(app.telemetry)
        self._signal = 0
        self._stop_by = 0.0
        """The time by which work and background tasks must end, in monotonic seconds; 0 while the work goes on."""
        if seconds is not None:
            self._watchdog.end_within(seconds + END_SECONDS, status=1, flush_seconds=FLUSH_SECONDS)

    async def run(self, work: Work) -> int:
        """Do the work, and close the app."""
        loop = asyncio.get_running_loop()
        self._watchdog.watch(loop)
        task = asyncio.create_task(work(), name=f"command {self._name}")

        def on_signal(number: int) -> None:
            self._signal = number
            self._end_in_time(SIGNALLED + number)
            loop.call_soon_threadsafe(self._stop, task)

        status = 1
        with stop_signals(on_signal):
            try:
                status = await self._ended(task)
            finally:
                self._end_in_time(status)
                try:
                    status = await self._closed(status)
                finally:
                    await self._app.telemetry.shutdown(FLUSH_SECONDS)
                    self._watchdog.end_within(EXIT_SECONDS, status=status)
        return status

    def _stop(self, task: asyncio.Task[int]) -> None:
        self._app.begin_draining()
        task.cancel("stopped by a signal")

    async def _ended(self, task: asyncio.Task[int]) -> int:
        """Wait for the work; after a signal for `shutdown_seconds` at most."""
        stopped = asyncio.create_task(self._app.draining.wait())
        await asyncio.wait({task, stopped}, return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        if not task.done():
            await asyncio.wait({task}, timeout=self._remaining_seconds())
        if not task.done():
            log.warning("command ignores its cancellation", command=self._name, seconds=self._shutdown_seconds)
        elif not task.cancelled():
            error = task.exception()
            if error is None:
                return task.result()
            log.error("command failed", command=self._name, exc_info=error)
            return 1
        log.warning("command interrupted", command=self._name, signal=self._signal)
        return SIGNALLED + self._signal

    async def _closed(self, status: int) -> int:
        """Wait for the background tasks that the command has started, and close the app."""
        self._app.begin_draining()
        try:
            await self._app.tasks.stop(self._remaining_seconds())
            await self._app.close()
        except Exception:
            log.exception("resources failed to close", command=self._name)
            return status or 1
        return status

    def _end_in_time(self, status: int) -> None:
        """Limit the time of the end from now on. May be called by a signal handler."""
        if not self._stop_by:
            self._stop_by = time.monotonic() + self._shutdown_seconds
            seconds = self._shutdown_seconds + END_SECONDS - LAST_LINES_SECONDS
            self._watchdog.end_within(seconds, status=status, flush_seconds=FLUSH_SECONDS)

    def _remaining_seconds(self) -> float:
        return max(0.0, self._stop_by - time.monotonic())
