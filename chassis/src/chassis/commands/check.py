"""`check`: whether the service could start here: its configuration, its resources, and its readiness checks."""

import asyncio
import time
from collections.abc import Coroutine
from dataclasses import asdict, dataclass, field
from typing import Any

import structlog
from structlog.typing import FilteringBoundLogger

from ..app import App
from ..unavailable import is_unavailable
from .execution import arguments_of
from .output import json_text, table_text, write

log: FilteringBoundLogger = structlog.get_logger()

PASS, FAIL, TIMEOUT, SKIP = "pass", "fail", "timeout", "skip"
MARKS = {PASS: "ok", FAIL: "FAILED", TIMEOUT: "FAILED", SKIP: "skipped"}


@dataclass(frozen=True, slots=True)
class Step:
    """A step of the check, and its result."""

    name: str
    status: str
    """`pass`, `fail`, `timeout`, or `skip` because of the step before."""
    required: bool = True
    """Whether the service cannot serve without it."""
    duration_seconds: float = 0.0
    error: str | None = None

    def row(self) -> tuple[str, ...]:
        """The step as a row of a table."""
        has_warning = not self.required and self.status != PASS
        duration = f"{self.duration_seconds:.3f} s" if self.status in (PASS, FAIL) else ""
        return "warning" if has_warning else MARKS[self.status], self.name, duration, self.error or ""


@dataclass(slots=True)
class Report:
    """The steps so far."""

    steps: list[Step] = field(default_factory=list)

    @property
    def is_ready(self) -> bool:
        """Whether all required steps have passed."""
        return all(step.status == PASS for step in self.steps if step.required)

    async def add(self, name: str, work: Coroutine[Any, Any, object], limit: asyncio.Timeout) -> None:
        """Do a step, and note its result. After a failure, further steps are skipped."""
        if not self.is_ready:
            work.close()
            self.steps.append(Step(name, SKIP))
            return
        began = time.monotonic()
        error: str | None = None
        try:
            await work
        except asyncio.CancelledError:
            if limit.expired():
                self.steps.append(Step(name, TIMEOUT, error="not complete in time; see --timeout"))
            raise
        except Exception as failure:
            error = f"{type(failure).__qualname__}: {failure}"
            log.error("check failed", step=name, reason=error, exc_info=None if is_unavailable(failure) else failure)
        seconds = round(time.monotonic() - began, 6)
        self.steps.append(Step(name, PASS if error is None else FAIL, True, seconds, error))

    def text(self, *, as_json: bool) -> str:
        """The steps as a table or as JSON."""
        if not as_json:
            return table_text([step.row() for step in self.steps])
        status = "ready" if self.is_ready else "failing"
        return json_text({"status": status, "steps": [asdict(step) for step in self.steps]})


async def check(app: App, *, seconds: float, as_json: bool) -> int:
    """Build the app, open its resources, and run each readiness check once. Prints the result.

    Returns the exit status, 0 or 1. All of it may take `seconds`. The caller closes the app.
    """
    report = Report()
    limit = asyncio.timeout(seconds)
    try:
        async with limit:
            await report.add("application", _build(app), limit)
            await report.add("resources", app.open(background=False), limit)
            if report.is_ready:
                report.steps += await _readiness(app)
    except TimeoutError:
        if not limit.expired():
            raise
    written = write(report.text(as_json=as_json))
    return written or int(not report.is_ready)


async def _build(app: App) -> None:
    """Find what would stop the start before a resource is opened: in handlers, dependencies and commands."""
    _ = app.openapi
    for command in app.commands.values():
        arguments_of(app, command)


async def _readiness(app: App) -> list[Step]:
    _, document = await app.health.report()
    return [
        Step(f"check {name}", check["status"], check["required"], check["duration_seconds"], check.get("error"))
        for name, check in document["checks"].items()
    ]
