"""`/schedules`: periodic work, with the last run and the next one of each."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

from ..api.handler import Handler
from ..periodic import PeriodicTask
from ..telemetry.redaction import Redactor

MAX_ERROR = 300
"""Characters of the text of an exception."""


class Schedules(Handler):
    """The periodic work that this process does: `app.every` and `app.daily`, in the order in which they were added."""

    def __init__(self, tasks: Callable[[], Sequence[PeriodicTask]], redactor: Redactor) -> None:
        self._tasks = tasks
        self._redactor = redactor

    async def get(self) -> list[dict[str, Any]]:
        return [self._document(task) for task in self._tasks()]

    def _document(self, task: PeriodicTask) -> dict[str, Any]:
        run = task.last_run
        return {
            "name": task.name,
            "schedule": str(task.schedule),
            "interval_seconds": task.schedule.seconds,
            "once_per": task.once_per,
            "has_lease": task.has_lease,
            "state": task.state,
            "last_start": _timestamp(run.started) if run else None,
            "last_duration_seconds": round(run.seconds, 6) if run and run.seconds is not None else None,
            "last_result": run.result if run else None,
            "last_error": self._redactor.redact_text(run.error)[:MAX_ERROR] if run and run.error else None,
            "failures": task.failures,
            "next_start": None if (at := task.next_start) is None else _timestamp(at),
        }


def _timestamp(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
