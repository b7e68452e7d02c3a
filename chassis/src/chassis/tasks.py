"""Background tasks: work that outlives the request that started it, or runs as long as the service."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from contextvars import copy_context
from random import uniform
from time import monotonic
from typing import Any, TypeVar

import structlog
from structlog.typing import FilteringBoundLogger

from .telemetry import Telemetry

log: FilteringBoundLogger = structlog.get_logger()

Result = TypeVar("Result")

CLEANUP_SECONDS = 1.0
FIRST_RESTART_SECONDS = 1.0
MAX_RESTART_SECONDS = 60.0


class Tasks:
    """Background tasks of the service.

    A failure is logged with its traceback and counted (`background_tasks_failed_total`). At graceful shutdown, after
    the last request, tasks get the remaining time to finish, and are then cancelled. Tasks that are started with
    `until_stopped`, such as infinite loops, are cancelled at once.
    """

    def __init__(self, telemetry: Telemetry) -> None:
        self._metrics = telemetry.metrics
        self.stopping: asyncio.Event = asyncio.Event()
        """Set when the drain is over: whatever else accepts work, such as a port of another protocol, stops too."""
        self._tasks: dict[asyncio.Task[object], bool] = {}
        self._loop: asyncio.AbstractEventLoop | None = None

    def use_loop(self, loop: asyncio.AbstractEventLoop) -> None:
        """Run the tasks on this event loop, from whichever thread they are started. The service calls it at start."""
        self._loop = loop

    def start(self, work: Coroutine[Any, Any, object], *, name: str, until_stopped: bool = False) -> None:
        """Run `work` in the background. `name` is a label of metrics, so name the type of work, not the item.

        May be called in any thread, such as that of a `def` handler. Raises `RuntimeError` if no event loop runs.
        """
        loop = _running_loop()
        if loop is not None and (self._loop is None or loop is self._loop):
            self._start(work, name, until_stopped)
            return
        try:
            if self._loop is None:
                raise RuntimeError(
                    f"the service has not started, so it cannot run the background task {name!r}; "
                    "use App.add_background_task for work that begins at the start"
                )
            self._loop.call_soon_threadsafe(self._start, work, name, until_stopped, context=copy_context())
        except RuntimeError:
            work.close()  # avoids Python's warning about a coroutine that was never awaited
            raise

    def _start(self, work: Coroutine[Any, Any, object], name: str, until_stopped: bool) -> None:
        task = asyncio.create_task(contained(work), name=name)
        self._tasks[task] = until_stopped
        self._metrics.background_tasks.labels(name).inc()
        self._metrics.failed_background_tasks.labels(
            name
        )  # 0 from now on: `increase` counts no series that begins at 1
        task.add_done_callback(self._done)
        task.add_done_callback(lambda _: work.close())  # if the task was cancelled before it began

    def _done(self, task: asyncio.Task[object]) -> None:
        del self._tasks[task]
        name = task.get_name()
        self._metrics.background_tasks.labels(name).dec()
        if not task.cancelled() and (error := task.exception()) is not None:
            self._metrics.failed_background_tasks.labels(name).inc()
            log.error("background task failed", task=name, exc_info=error)

    async def stop(self, seconds: float) -> None:
        """Wait at most `seconds` for the tasks, cancel the unfinished ones, and wait a second for their cleanup."""
        self.stopping.set()
        for task, until_stopped in self._tasks.items():
            if until_stopped:
                task.cancel("the service is stopping")
        try:
            if self._tasks:
                await asyncio.wait(self._tasks, timeout=seconds)
        finally:
            # Those started with `until_stopped` are cancelled already. A second cancellation would abort their cleanup.
            unfinished = [task for task, until_stopped in self._tasks.items() if not until_stopped]
            if unfinished:
                names = sorted({*map(_name, unfinished)})
                log.warning("background tasks cancelled at shutdown", tasks=names, count=len(unfinished))
                for task in unfinished:
                    task.cancel("the service is stopping")
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=CLEANUP_SECONDS)
        if self._tasks:
            log.warning("background tasks ignore cancellation", tasks=sorted({*map(_name, self._tasks)}))


class BackgroundTask:
    """Work that runs from the start of the service until it stops, and is restarted when it fails.

    Restarts use exponential backoff: the delay starts at `FIRST_RESTART_SECONDS` and doubles up to
    `MAX_RESTART_SECONDS`. Up to half of it is subtracted at random, so that many instances do not call a dependency at
    the same time. After a run that is longer than the longest delay, the delay starts over. Each failure is logged and
    counted.

    After a failure the task is down until it has run for as long as the last delay. So work that fails repeatedly does
    not count as up right after each restart.
    """

    def __init__(
        self,
        name: str,
        work: Callable[[], Coroutine[Any, Any, object]],
        telemetry: Telemetry,
        draining: asyncio.Event,
        restart: bool,
        ends_when_draining: bool,
    ) -> None:
        self.name: str = name
        self.ends_when_draining: bool = ends_when_draining
        self._work = work
        self._metrics = telemetry.metrics
        self._draining = draining
        self._restart = restart
        self._first: Coroutine[Any, Any, object] | None = None
        self._up_at = 0.0
        """The time from which the task counts as up, monotonic seconds."""

    def begin(self) -> None:
        """Create the coroutine for `run`. An exception of the function stops the start of the service."""
        self._first = self._work()

    def discard(self) -> None:
        """Close the coroutine if `run` has not begun it, to avoid Python's warning."""
        if self._first is not None:
            self._first.close()
            self._first = None

    async def run(self) -> None:
        """Run the work until it returns or is cancelled. Raises its exception if it is not restarted."""
        delay = FIRST_RESTART_SECONDS
        while True:
            began = monotonic()
            try:
                work, self._first = self._first or self._work(), None
                await contained(work)
                return
            except Exception as error:
                self._up_at = float("inf")
                if not self._restart or self._draining.is_set():
                    raise
                if monotonic() - began > MAX_RESTART_SECONDS:
                    delay = FIRST_RESTART_SECONDS
                seconds = delay * uniform(0.5, 1.0)  # noqa: S311 - jitter
                self._metrics.failed_background_tasks.labels(self.name).inc()
                log.error(
                    "background task failed", task=self.name, restart_in_seconds=round(seconds, 3), exc_info=error
                )
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._draining.wait()
            if self._draining.is_set():
                return
            self._metrics.restarted_background_tasks.labels(self.name).inc()
            self._up_at = monotonic() + seconds
            delay = min(delay * 2, MAX_RESTART_SECONDS)

    async def check(self) -> None:
        """Raise `BackgroundTaskDownError` while the task is down; for readiness."""
        if monotonic() < self._up_at:
            raise BackgroundTaskDownError(f"the background task {self.name!r} failed; see its log line")


class BackgroundTaskDownError(Exception):
    """A background task that the service requires has failed, and has not recovered yet."""


async def contained(work: Awaitable[Result]) -> Result:
    """Await `work`, and convert exceptions that would end the event loop, or look like a cancellation, to failures."""
    try:
        return await work
    except (SystemExit, KeyboardInterrupt) as error:
        raise RuntimeError(f"{type(error).__qualname__} was raised") from error
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        raise RuntimeError("a task or future that the work awaits was cancelled") from error


def _name(task: asyncio.Task[object]) -> str:
    return task.get_name()


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
