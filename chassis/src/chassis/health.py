"""Readiness: the state of the service, and the checks of its dependencies."""

import asyncio
import inspect
import time
from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Any, NamedTuple

import structlog
from structlog.typing import FilteringBoundLogger

from .threads import in_thread
from .unavailable import is_unavailable

log: FilteringBoundLogger = structlog.get_logger()


class State(StrEnum):
    """The lifecycle of the service. It should get new requests only in `READY`."""

    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"


class Check(NamedTuple):
    """A readiness check of a dependency.

    The check fails if `probe` raises any exception; the result of `probe` is ignored. An `async def` is cancelled after
    `timeout` seconds. A `def` runs in a thread, which cannot be stopped: after `timeout` seconds it counts as failed.
    It is not started again before it has ended. With `required=False`, a failure is reported, and the service stays
    ready.
    """

    name: str
    probe: Callable[[], object]
    timeout: float = 1.0
    required: bool = True


class Outcome(NamedTuple):
    """The last result of a check. `duration` is in seconds, `at` in monotonic seconds."""

    status: str
    duration: float
    at: float
    error: str | None = None


class Health:
    """The state of the service and the results of its checks.

    Checks run concurrently, each with its own timeout. A result is cached for `cache_seconds`. Requests that arrive
    while a check runs wait for that run, so many probes of Kubernetes do not become many queries of the database.

    `on_add` is called with each check that is added, such as for its metric.
    """

    def __init__(
        self,
        checks: Sequence[Check] = (),
        *,
        cache_seconds: float = 1.0,
        on_add: Callable[[Check], object] = lambda _check: None,
    ) -> None:
        self.state: State = State.STARTING
        self.disabled: str | None = None
        """Why an operator has taken the service out of rotation; None if it is not."""
        self._checks: list[Check] = []
        self._cache_seconds = cache_seconds
        self._on_add = on_add
        self._outcomes: dict[str, Outcome] = {}
        self._running: dict[str, asyncio.Task[None]] = {}
        self._in_thread: set[str] = set()
        for check in checks:
            self.add(check)

    def add(self, check: Check) -> None:
        """Add a check to all later reports. Raises `ValueError` if another check has its name."""
        if any(check.name == other.name for other in self._checks):
            raise ValueError(f"two checks have the name {check.name!r}; give one of them another name")
        self._checks.append(check)
        self._on_add(check)

    @property
    def is_ready(self) -> bool:
        """Whether the service is ready, by the last result of each check. It runs no check, and never waits."""
        return self._may_be_ready and all(self.has_passed(check.name) for check in self._checks if check.required)

    @property
    def _may_be_ready(self) -> bool:
        return self.state is State.READY and self.disabled is None

    def has_passed(self, name: str) -> bool:
        """Whether the last run of a check has passed. A check that has not run yet counts as passed."""
        outcome = self._outcomes.get(name)
        return outcome is None or outcome.status == "pass"

    async def report(self) -> tuple[bool, dict[str, Any]]:
        """Whether the service is ready, and the document that explains it. While it starts, no check runs."""
        if self.state is State.STARTING:  # resources are not open yet; a failed check would be cached
            return False, {"status": self.state, "checks": {}}
        await asyncio.gather(*(self._update(check) for check in self._checks))
        now = time.monotonic()
        ready = self._may_be_ready
        results: dict[str, Any] = {}
        for check in self._checks:
            outcome = self._outcomes[check.name]
            results[check.name] = {
                "status": outcome.status,
                "required": check.required,
                "duration_seconds": round(outcome.duration, 6),
                "age_seconds": round(now - outcome.at, 6),
                **({"error": outcome.error} if outcome.error else {}),
            }
            ready = ready and (outcome.status == "pass" or not check.required)
        return ready, {"status": self._status(ready), "checks": results}

    def _status(self, ready: bool) -> str:
        if ready or self.state is not State.READY:
            return self.state
        return "failing" if self.disabled is None else "disabled"

    async def _update(self, check: Check) -> None:
        outcome = self._outcomes.get(check.name)
        if outcome is not None and time.monotonic() - outcome.at < self._cache_seconds:
            return
        began = time.monotonic()
        task = self._running.get(check.name)
        if task is None:
            task = self._running[check.name] = asyncio.create_task(self._run(check), name=f"check {check.name}")
            task.add_done_callback(lambda _: self._running.pop(check.name, None))
        # `wait_for` would also wait for a task that ignores its cancellation.
        await asyncio.wait({task}, timeout=check.timeout)
        if task.done() and task.cancelled() and self._outcomes.get(check.name) is outcome:
            # Cancelled from inside, for example by a pool that closes and cancels its waiters.
            self._note(check, Outcome("fail", time.monotonic() - began, time.monotonic(), "CancelledError"))
        if not task.done():
            if check.name not in self._in_thread:
                task.cancel("check timeout")
            self._note(check, Outcome("timeout", time.monotonic() - began, time.monotonic(), "timed out"))

    async def _run(self, check: Check) -> None:
        began = time.monotonic()
        try:
            await self._probe(check)
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # noqa: BLE001 - any exception fails the check; SystemExit would stop the loop
            # The message may contain an address or a password, so it is logged, and is not in the response.
            now = time.monotonic()
            self._note(check, Outcome("fail", now - began, now, type(error).__qualname__), error)
        else:
            now = time.monotonic()
            self._note(check, Outcome("pass", now - began, now))

    async def _probe(self, check: Check) -> None:
        if is_async(check.probe):
            result = check.probe()
        else:
            self._in_thread.add(check.name)
            try:
                result = await asyncio.wrap_future(in_thread(check.probe, name="check"))
            finally:
                self._in_thread.discard(check.name)
        if inspect.isawaitable(result):  # such as the result of a lambda that calls an `async def`
            await result

    def _note(self, check: Check, outcome: Outcome, error: BaseException | None = None) -> None:
        """Store the outcome, and log it when the status differs from the last one."""
        previous = self._outcomes.get(check.name)
        self._outcomes[check.name] = outcome
        if (previous.status if previous else "pass") != outcome.status:
            level = log.info if outcome.status == "pass" else log.warning
            facts: dict[str, Any] = {"check": check.name, "status": outcome.status, "required": check.required}
            if error is not None:
                facts["reason"] = f"{type(error).__qualname__}: {error}"
                facts["exc_info"] = None if is_unavailable(error) else error
            level("check changed", **facts)


def is_async(call: Callable[[], object]) -> bool:
    """Whether a function, or the `__call__` of an object, is an `async def`."""
    return inspect.iscoroutinefunction(call) or inspect.iscoroutinefunction(type(call).__call__)
