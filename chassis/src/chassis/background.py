"""The work that a service does in the background from its start until it stops."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import structlog
from structlog.typing import FilteringBoundLogger

from .health import Check, Health
from .periodic import PeriodicTask
from .periodic_options import PeriodicOptions, Work
from .schedules import Schedule
from .tasks import BackgroundTask, Tasks
from .telemetry import Telemetry
from .worker_slot import OncePer, is_assigned

log: FilteringBoundLogger = structlog.get_logger()


class BackgroundWork:
    """The background tasks of an `App`, the periodic ones included. Those that are required are readiness checks."""

    def __init__(self, telemetry: Telemetry, health: Health, draining: asyncio.Event) -> None:
        self._telemetry = telemetry
        self._health = health
        self._draining = draining
        self._tasks: list[BackgroundTask] = []
        self._pod_tasks: list[BackgroundTask] = []
        """Those that one of several workers does."""
        self._periodic: list[tuple[PeriodicTask, bool]] = []
        """Each with whether one of several workers does it."""
        self._does_pod_work = False

    def add(
        self,
        name: str,
        work: Callable[[], Coroutine[Any, Any, object]],
        *,
        restart: bool,
        required: bool,
        ends_when_draining: bool,
        once_per: OncePer,
    ) -> None:
        """Add a task: see `App.add_background_task`."""
        task = BackgroundTask(name, work, self._telemetry, self._draining, restart, ends_when_draining)
        self._add(task, once_per)
        if required:
            self._health.add(Check(f"background task {name}", task.check))

    def add_periodic(self, schedule: Schedule, work: Work, options: PeriodicOptions) -> None:
        """Add a periodic task: see `App.every`."""
        periodic = PeriodicTask(schedule, work, self._telemetry, self._draining, options)
        name = periodic.name
        if any(other.name == name for other in (*self._tasks, *self._pod_tasks)):
            raise ValueError(f'two background tasks have the name {name!r}; pass another name to one: name="…"')
        task = BackgroundTask(name, periodic.run, self._telemetry, self._draining, True, True)
        self._add(task, periodic.once_per)
        self._periodic.append((periodic, task in self._pod_tasks))
        if options.get("required"):
            self._health.add(Check(f"periodic task {name}", periodic.check))

    def _add(self, task: BackgroundTask, once_per: OncePer) -> None:
        (self._pod_tasks if is_assigned(once_per) else self._tasks).append(task)

    @property
    def periodic(self) -> list[PeriodicTask]:
        """The periodic work that this process does, without that of another worker."""
        return [task for task, is_for_pod in self._periodic if not is_for_pod or self._does_pod_work]

    def begin(self, tasks: Tasks) -> None:
        """Start all of them; in one of several workers, those of the pod are left to `begin_pod_work`.

        An exception of a function that makes the work stops the start of the service.
        """
        for task in self._tasks:
            task.begin()
            tasks.start(task.run(), name=task.name, until_stopped=not task.ends_when_draining)

    def begin_pod_work(self, tasks: Tasks) -> None:
        """Start those that one of several workers does, because it is this one."""
        self._does_pod_work = True
        for task in self._pod_tasks:
            tasks.start(task.run(), name=task.name, until_stopped=not task.ends_when_draining)
        if self._pod_tasks:
            log.info("doing the work of the pod", tasks=[task.name for task in self._pod_tasks])

    def discard(self) -> None:
        """Discard work that was never run."""
        for task in self._tasks:
            task.discard()
