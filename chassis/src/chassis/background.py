"""The work that a service does in the background from its start until it stops."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from .health import Check, Health
from .periodic import PeriodicOptions, PeriodicTask, Work
from .schedules import Schedule
from .tasks import BackgroundTask, Tasks
from .telemetry import Telemetry
from .worker_slot import OncePer, is_done_here


class BackgroundWork:
    """The background tasks of an `App`, the periodic ones included. Those that are required are readiness checks."""

    def __init__(self, telemetry: Telemetry, health: Health, draining: asyncio.Event) -> None:
        self._telemetry = telemetry
        self._health = health
        self._draining = draining
        self._tasks: list[BackgroundTask] = []

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
        if not is_done_here(once_per):
            return
        task = BackgroundTask(name, work, self._telemetry, self._draining, restart, ends_when_draining)
        self._tasks.append(task)
        if required:
            self._health.add(Check(f"background task {name}", task.check))

    def add_periodic(self, schedule: Schedule, work: Work, options: PeriodicOptions) -> None:
        """Add a periodic task: see `App.every`."""
        periodic = PeriodicTask(schedule, work, self._telemetry, self._draining, options)
        name = periodic.name
        if any(other.name == name for other in self._tasks):
            raise ValueError(f'two background tasks have the name {name!r}; pass another name to one: name="…"')
        if not is_done_here(options.get("once_per", "worker")):
            return
        self._tasks.append(BackgroundTask(name, periodic.run, self._telemetry, self._draining, True, True))
        if options.get("required"):
            self._health.add(Check(f"periodic task {name}", periodic.check))

    def begin(self, tasks: Tasks) -> None:
        """Start all of them. An exception of a function that makes the work stops the start of the service."""
        for task in self._tasks:
            task.begin()
            tasks.start(task.run(), name=task.name, until_stopped=not task.ends_when_draining)

    def discard(self) -> None:
        """Discard work that was never run."""
        for task in self._tasks:
            task.discard()
