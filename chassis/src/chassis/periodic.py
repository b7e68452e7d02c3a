"""Periodic work: at an interval or once a day; with a lease, on one instance only."""

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from functools import partial
from random import uniform
from typing import Any, Literal, cast

import structlog
from opentelemetry import context as otel_context
from opentelemetry.trace import set_span_in_context
from structlog.typing import FilteringBoundLogger

from .health import is_async
from .lease import HeldLease, LeaseLostError
from .periodic_options import IDLE, PeriodicOptions, Work, checked_seconds, name_of
from .periodic_runs import Run
from .schedules import Clock, Schedule
from .tasks import BackgroundTaskDownError, contained
from .telemetry import Telemetry
from .telemetry.error_type import record_failure
from .threads import in_thread
from .worker_slot import OncePer

log: FilteringBoundLogger = structlog.get_logger()

FIRST_RETRY_SECONDS = 10.0
# The longest delay of a retry is the interval, clamped to these bounds.
MIN_LONGEST_RETRY_SECONDS, MAX_LONGEST_RETRY_SECONDS = 60.0, 900.0
MAX_JITTER_SECONDS = 30.0
MAX_SLEEP_SECONDS = 300.0  # wake up regularly, to notice changes of the wall clock
LEASE_SECONDS = 30.0
# The clocks of instances differ by less than this. Closer to the next tick, an instance does not acquire the lease: by
# another clock, the lease may be for that tick already.
CLOCK_SKEW_SECONDS = 10.0


class PeriodicTask:
    """Calls `work` at the ticks of a schedule, from the start of the service until it drains.

    Runs never overlap: if a run takes longer than the interval, ticks are skipped. An `async def` runs on the event
    loop, and is cancelled after `timeout` seconds. A `def` runs in a thread of its own, which cannot be stopped. After
    `timeout` its run counts as failed, and the next run waits until the thread has ended.

    A failure is logged and counted, and the run is retried with exponential backoff until it succeeds. The delay starts
    at 10 seconds, or at the interval if that is shorter. It doubles up to the interval, but at least to 1 and at most
    to 15 minutes. Up to half of it is subtracted at random. If the next tick comes earlier than the retry, the tick is
    used, unless the interval is shorter than the delay.

    A lease is acquired for 30 seconds and renewed during the run. The run is cancelled if the lease cannot be renewed.
    After a success the lease is kept until the next tick. Other instances try to acquire it every 30 seconds, and
    continue the work if it is free.
    """

    def __init__(
        self,
        schedule: Schedule,
        work: Work,
        telemetry: Telemetry,
        draining: asyncio.Event,
        options: PeriodicOptions,
        *,
        clock: Clock | None = None,
        lease_seconds: float = LEASE_SECONDS,
    ) -> None:
        self.name: str = options.get("name") or name_of(work)
        self.schedule: Schedule = schedule
        self.once_per: OncePer = options.get("once_per", "worker")
        self.failures: int = 0
        """The number of consecutive failures."""
        self.last_run: Run | None = None
        """The run in progress, or else the last one; None before the first one."""
        self._work = work
        self._tracing = telemetry.tracing
        self._draining = draining
        self._clock = clock or Clock()
        self._now: Callable[[], float] = self._clock.time if schedule.uses_wall_clock else self._clock.monotonic
        default_timeout = 3600.0 if schedule.uses_wall_clock else 60.0
        self._timeout = checked_seconds("timeout", options.get("timeout", default_timeout))
        if not self._timeout:
            raise ValueError("timeout is 0; pass a number of seconds above 0")
        default_jitter = min(schedule.seconds / 10, MAX_JITTER_SECONDS)
        self._jitter = checked_seconds("jitter", options.get("jitter", default_jitter), at_most=schedule.seconds)
        lease = options.get("lease")
        self._lease = None if lease is None else HeldLease(lease, self.name, seconds=lease_seconds)
        metrics = telemetry.metrics
        self._succeeded_at = metrics.periodic_task_last_success
        self._duration = metrics.periodic_task_duration.labels(self.name)
        self._failed = metrics.periodic_task_failures.labels(self.name)
        self._tick = 0.0
        self._due: float | None = None
        """The time of the next run, while it is waited for."""
        self._is_standby = False
        """Whether another instance had the lease at the last attempt."""
        self._thread: asyncio.Future[object] | None = None
        """The thread of a `def` that did not end within its timeout."""

    @property
    def has_lease(self) -> bool:
        """Whether only one instance does the work."""
        return self._lease is not None

    @property
    def state(self) -> Literal["waiting", "running", "standby"]:
        """The present activity; `standby` while another instance has the lease."""
        is_running = self.last_run is not None and self.last_run.result is None
        if is_running or self._thread is not None:
            return "running"
        return "standby" if self._is_standby else "waiting"

    @property
    def next_start(self) -> float | None:
        """The time of the next run, or attempt to acquire the lease, in seconds since the epoch; None while it runs."""
        if self._due is None or self.schedule.uses_wall_clock:
            return self._due
        return self._clock.time() + self._due - self._now()

    async def check(self) -> None:
        """Raise `BackgroundTaskDownError` after a failure, until the next success; for readiness."""
        if self.failures:
            raise BackgroundTaskDownError(f"the last run of the periodic task {self.name!r} failed; see its log line")

    async def run(self) -> None:
        """Run the work at each tick. Returns when the service drains, after the current run has completed."""
        due = self._at_tick(self.schedule.begin(self._now()))
        while await self._is_due(due):
            due = await self._begin()

    async def _is_due(self, due: float) -> bool:
        """Wait until the time `due`; False if the service drains before."""
        if self._thread is not None:
            await self._until_ended_or_draining(self._thread)
        self._due = due
        try:
            while not self._draining.is_set():
                remaining = due - self._now()
                if remaining <= 0:
                    return True
                await self._clock.sleep(min(remaining, MAX_SLEEP_SECONDS), self._draining)
            return False
        finally:
            self._due = None

    async def _begin(self) -> float:
        """Run the work now, unless another instance has the lease. Returns the time of the next run."""
        lease = self._lease
        if lease is None:
            return await self._observed(self._call)
        try:
            is_ours = await lease.acquire()
        except Exception as error:  # noqa: BLE001 - the owner's `Lease` may raise any exception
            return self._after_failure(error)
        if not is_ours:
            self._is_standby = True
            self.failures = 0  # the other instance does the work now
            return self._on_standby(lease.seconds)
        if self._is_standby:
            self._is_standby = False
            self.schedule.take_over(self._now())
        is_done = False
        try:
            if self._draining.is_set():
                return self._now()
            due = await self._observed(partial(self._call_with, lease))
            is_done = not self.failures
            if is_done:
                await self._keep(lease)
            return due
        finally:
            # While a thread still works, the lease is not released, but expires.
            if not is_done and self._thread is None:
                await lease.release()

    async def _keep(self, lease: HeldLease) -> None:
        try:
            await lease.keep(max(0.0, self._tick - self._now()))
        except Exception as error:
            log.warning("lease not kept; another instance may repeat the work", task=self.name, exc_info=error)

    async def _observed(self, call: Callable[[], Awaitable[object]]) -> float:
        """Run the work in a span. Returns the time of the next run."""
        span = self._tracing.begin_task(self.name)
        token = otel_context.attach(set_span_in_context(span, otel_context.Context()))
        began = self._clock.monotonic()
        run = self.last_run = Run(self._clock.time())
        try:
            result = await call()
        except asyncio.CancelledError:
            run.end("cancelled", self._clock.monotonic() - began)
            record_failure(span, asyncio.CancelledError("the service has stopped"))
            span.end()
            raise
        except Exception as error:  # noqa: BLE001 - logged and counted
            seconds = self._clock.monotonic() - began
            run.end("failure", seconds, error)
            self._duration.observe(seconds)
            record_failure(span, error)
            span.end()
            return self._after_failure(error)
        else:
            self.failures = 0
            self._succeeded_at.labels(self.name).set(self._clock.time())
            seconds = self._clock.monotonic() - began
            run.end("idle" if result is IDLE else "success", seconds)
            if result is not IDLE:
                self._duration.observe(seconds)
                log.info("periodic task done", task=self.name, duration_ms=round(seconds * 1000, 3))
                span.end()
            return self._at_tick(self._upcoming())
        finally:
            otel_context.detach(token)

    async def _call(self) -> object:
        if is_async(self._work):
            return await self._in_time(cast("Awaitable[object]", self._work()))
        thread = asyncio.wrap_future(in_thread(self._work, name="periodic task"))
        try:
            await asyncio.wait({thread}, timeout=self._timeout)
        finally:
            if not thread.done():
                self._thread = thread
        if not thread.done():
            raise self._timed_out()
        result = thread.result()
        return await self._in_time(result) if inspect.isawaitable(result) else result

    async def _in_time(self, work: Awaitable[object]) -> object:
        timeout = asyncio.timeout(self._timeout)
        try:
            async with timeout:
                return await contained(work)
        except TimeoutError:
            if timeout.expired():
                raise self._timed_out() from None
            raise

    async def _call_with(self, lease: HeldLease) -> object:
        """Run the work while the lease is renewed, and cancel it when the lease is lost."""
        work = asyncio.create_task(self._call(), name=self.name)
        lost = asyncio.create_task(lease.until_lost(), name=f"lease of {self.name}")
        try:
            await asyncio.wait({work, lost}, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                return work.result()
            raise LeaseLostError("another instance may do this work, because the lease could not be renewed")
        finally:
            lost.cancel()
            if not work.done():
                work.cancel("the lease was lost, or the service is stopping")
                await asyncio.wait({work})
                if not work.cancelled():
                    work.exception()  # an exception of its cleanup; the reason of the cancellation is raised instead

    async def _until_ended_or_draining(self, thread: "asyncio.Future[object]") -> None:
        draining = asyncio.create_task(self._draining.wait())
        either: set[asyncio.Future[Any]] = {thread, draining}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        draining.cancel()
        if thread.done():
            thread.exception()  # retrieved and dropped: the run has failed already, with a timeout
            self._thread = None

    # The time of the next run.

    def _upcoming(self) -> float:
        """The next tick. If the clock was set back, ticks are not repeated."""
        return self.schedule.next(max(self._now(), self._tick))

    def _at_tick(self, tick: float) -> float:
        self._tick = tick
        return tick + uniform(0.0, self._jitter)  # noqa: S311 - jitter

    def _after_failure(self, error: Exception) -> float:
        interval = self.schedule.seconds
        longest = min(max(interval, MIN_LONGEST_RETRY_SECONDS), MAX_LONGEST_RETRY_SECONDS)
        delay = min(min(FIRST_RETRY_SECONDS, interval) * 2.0 ** min(self.failures, 30), longest)
        delay *= uniform(0.5, 1.0)  # noqa: S311 - jitter
        self.failures += 1
        self._failed.inc()
        now, tick = self._now(), self._upcoming()
        due = now + delay if now + delay < tick or delay >= interval else self._at_tick(tick)
        log.error("periodic task failed", task=self.name, retry_in_seconds=round(due - now, 3), exc_info=error)
        return due

    def _on_standby(self, lease_seconds: float) -> float:
        next_attempt, tick = self._now() + lease_seconds, self._upcoming()
        return next_attempt if next_attempt + CLOCK_SKEW_SECONDS < tick else self._at_tick(tick)

    def _timed_out(self) -> TimeoutError:
        return TimeoutError(f"the run took longer than its timeout of {self._timeout:g} seconds")
