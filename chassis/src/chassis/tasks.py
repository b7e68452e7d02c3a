"""Background tasks: work that may go on after the request that started it."""

import asyncio
from collections.abc import Coroutine
from typing import Any

import structlog
from structlog.typing import FilteringBoundLogger

from .telemetry import Telemetry

log: FilteringBoundLogger = structlog.get_logger()

CLEANUP_SECONDS = 1.0


class Tasks:
    """Background tasks of the service.

    A failure is logged with its traceback and counted (`background_tasks_failed_total`). During graceful shutdown,
    after the last request, tasks may finish within the remaining time and are then cancelled. Tasks that are started
    with `until_stopped`, such as loops that never finish, are cancelled at once.
    """

    def __init__(self, telemetry: Telemetry) -> None:
        self._metrics = telemetry.metrics
        self._tasks: dict[asyncio.Task[Any], bool] = {}

    def start(self, work: Coroutine[Any, Any, object], *, name: str, until_stopped: bool = False) -> None:
        """Run `work` in the background. `name` is a label of metrics: name the kind of work, not the item."""
        task = asyncio.create_task(work, name=name)
        self._tasks[task] = until_stopped
        self._metrics.background_tasks.labels(name).inc()
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[Any]) -> None:
        del self._tasks[task]
        name = task.get_name()
        self._metrics.background_tasks.labels(name).dec()
        if not task.cancelled() and (error := task.exception()) is not None:
            self._metrics.failed_background_tasks.labels(name).inc()
            log.error("background task failed", task=name, exc_info=error)

    async def stop(self, seconds: float) -> None:
        """Wait at most `seconds` for the tasks, cancel the others, and wait a second for their cleanup."""
        for task, until_stopped in self._tasks.items():
            if until_stopped:
                task.cancel("the service is stopping")
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=seconds)
        # The others are cancelled already; a second time would end their cleanup.
        unfinished = [task for task, until_stopped in self._tasks.items() if not until_stopped]
        if unfinished:
            names = sorted({task.get_name() for task in unfinished})
            log.warning("background tasks cancelled at shutdown", tasks=names, count=len(unfinished))
            for task in unfinished:
                task.cancel("the service is stopping")
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=CLEANUP_SECONDS)
