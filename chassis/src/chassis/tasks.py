"""Work that outlives a request: started anywhere, supervised here, ended in order."""

import asyncio
from collections.abc import Coroutine
from typing import Any

import structlog

from .telemetry import Telemetry

log = structlog.get_logger()


class Tasks:
    """Background tasks of the service.

    A failure is logged with its traceback and counted (`background_tasks_failed_total`). At the end,
    after the last request, tasks get the time that is left to finish and are then cancelled; those
    started with `until_stopped`, loops that never finish, are cancelled at once.
    """

    def __init__(self, telemetry: Telemetry) -> None:
        self._metrics = telemetry.metrics
        self._tasks: dict[asyncio.Task[Any], bool] = {}

    def start(self, work: Coroutine[Any, Any, object], *, name: str, until_stopped: bool = False) -> None:
        """Run `work` beside the requests. `name` labels metrics: name the kind of work, not the item."""
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
        """Await what can finish within `seconds`, cancel the rest, and wait for its cleanup."""
        for task, until_stopped in self._tasks.items():
            if until_stopped:
                task.cancel("the service is stopping")
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=seconds)
        if unfinished := list(self._tasks):
            names = sorted({task.get_name() for task in unfinished})
            log.warning("background tasks cancelled at the end", tasks=names, count=len(unfinished))
            for task in unfinished:
                task.cancel("the service is stopping")
            await asyncio.wait(unfinished, timeout=1.0)
