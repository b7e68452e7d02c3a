"""Periodic work that runs once for all instances of a service."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from chassis import MemoryLease
from chassis.periodic import PeriodicTask
from chassis.schedules import Daily, Every, Schedule

from .support.clock import ManualClock
from .support.service import Observed, observed, until


@dataclass
class Instances:
    """Instances of one service with one lease and one time; `runs` has when each of them ran."""

    clock: ManualClock
    lease: MemoryLease
    seen: Observed
    runs: list[tuple[float, int]] = field(default_factory=list[tuple[float, int]])
    draining: list[asyncio.Event] = field(default_factory=list[asyncio.Event])
    failing: set[int] = field(default_factory=set[int])
    loops: list[asyncio.Task[None]] = field(default_factory=list[asyncio.Task[None]])

    async def start(self, schedule: Schedule) -> None:
        """Start another instance."""
        number = len(self.loops)

        async def work() -> None:
            self.runs.append((self.clock.now, number))
            if number in self.failing:
                raise ConnectionRefusedError

        draining = asyncio.Event()
        self.draining.append(draining)
        task = PeriodicTask(
            schedule,
            work,
            self.seen.telemetry,
            draining,
            {"name": "task", "jitter": 0.0, "lease": self.lease},
            clock=self.clock,
        )
        self.loops.append(asyncio.create_task(task.run()))
        await settle()

    async def pass_time(self, seconds: float, step: float = 1.0) -> None:
        """Let time pass in small steps, so that the instances may act at each."""
        for _ in range(int(seconds / step)):
            self.clock.advance(step)
            await settle()

    async def stop(self, number: int) -> None:
        """Stop an instance without a word to the others."""
        self.loops[number].cancel()
        await asyncio.wait({self.loops[number]})


async def settle() -> None:
    """Let all instances run until they wait."""
    for _ in range(12):
        await asyncio.sleep(0)


@asynccontextmanager
async def instances() -> AsyncIterator[Instances]:
    with observed() as seen:
        clock = ManualClock(0.0)
        some = Instances(clock, MemoryLease(clock.monotonic), seen)
        try:
            yield some
        finally:
            for loop in some.loops:
                loop.cancel()
            await asyncio.wait(some.loops)


async def test_one_of_several_instances_runs_at_each_tick() -> None:
    async with instances() as some:
        for first_after in (1, 21, 41):
            await some.start(Every(60, first_after=first_after))
        await some.pass_time(300)
        assert some.runs == [(1, 0), (61, 0), (121, 0), (181, 0), (241, 0)]


async def test_another_instance_takes_over_when_the_first_stops() -> None:
    async with instances() as some:
        for first_after in (1, 51):
            await some.start(Every(100, first_after=first_after))
        await some.pass_time(110)
        await some.stop(0)
        await some.pass_time(400)
        # Its own ticks are at 151, 251, 351: they would come too soon after the first run.
        assert some.runs == [(1, 0), (101, 0), (211, 1), (311, 1), (411, 1)]


async def test_day_is_done_once_by_all_instances() -> None:
    async with instances() as some:
        for _ in range(3):
            await some.start(Daily("00:10"))
        await some.pass_time(3 * 86_400, step=10)
        assert [moment for moment, _ in some.runs] == [600, 87_000, 173_400]


async def test_failed_run_may_be_done_by_another_instance() -> None:
    async with instances() as some:
        some.failing.add(0)
        await some.start(Daily("00:10"))
        await some.start(Daily("00:10"))
        await some.pass_time(700)
        assert [number for _, number in some.runs if number == 1] == [1]
        assert some.runs[-1][1] == 1
        assert some.runs[-1][0] - some.runs[0][0] <= 31


async def test_run_of_an_instance_that_dies_is_done_by_another_one() -> None:
    async with instances() as some:
        assert await some.lease.acquire("task", "an instance that dies at once", 30)
        await some.start(Every(3600))
        await some.pass_time(40)
        assert len(some.runs) == 1
        assert 30 <= some.runs[0][0] <= 31


class FailingLease(MemoryLease):
    """A lease on a database that goes away."""

    def __init__(self) -> None:
        super().__init__()
        self.fails = False
        self.asked = 0
        self.holder = ""

    async def acquire(self, name: str, holder: str, seconds: float) -> bool:
        self.asked += 1
        self.holder = holder
        if self.fails:
            raise ConnectionRefusedError("no database")
        return await super().acquire(name, holder, seconds)

    async def release(self, name: str, holder: str) -> None:
        if self.fails:
            raise ConnectionRefusedError("no database")
        await super().release(name, holder)


@dataclass
class Held:
    """A run that goes on until it is cancelled."""

    lease: FailingLease
    seen: Observed
    began: asyncio.Event
    cancelled: asyncio.Event
    loop: asyncio.Task[None]
    draining: asyncio.Event


@asynccontextmanager
async def held(
    work: Callable[[], object] | None = None, lease_seconds: float = 0.15, *, fails: bool = False
) -> AsyncIterator[Held]:
    began, cancelled, draining, lease = asyncio.Event(), asyncio.Event(), asyncio.Event(), FailingLease()
    lease.fails = fails

    async def wait() -> None:
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    with observed() as seen:
        task = PeriodicTask(
            Every(3600),
            work or wait,
            seen.telemetry,
            draining,
            {"name": "task", "jitter": 0.0, "lease": lease},
            lease_seconds=lease_seconds,
        )
        loop = asyncio.create_task(task.run())
        try:
            yield Held(lease, seen, began, cancelled, loop, draining)
        finally:
            loop.cancel()
            await asyncio.wait({loop})


async def test_lease_is_renewed_while_the_work_runs() -> None:
    async with held() as run:
        await run.began.wait()
        await until(lambda: run.lease.asked > 6)  # longer than the lease lasts
        assert not run.cancelled.is_set()
        assert not await run.lease.acquire("task", "another", 1)


async def test_work_is_cancelled_when_another_instance_has_the_lease() -> None:
    async with held() as run:
        await run.began.wait()
        await run.lease.release("task", run.lease.holder)
        assert await run.lease.acquire("task", "another", 60)
        (line,) = await until(lambda: run.seen.events("periodic task failed"))
        assert run.cancelled.is_set()
        assert "LeaseLostError" in line["exception"]


async def test_work_is_cancelled_before_a_lease_that_cannot_be_renewed_ends() -> None:
    async with held(lease_seconds=0.6) as run:
        await run.began.wait()
        run.lease.fails = True
        await until(lambda: run.seen.events("lease not released"))
        assert run.cancelled.is_set()
        run.lease.fails = False
        assert not await run.lease.acquire("task", "another", 1)
        assert run.seen.events("lease not renewed")


async def test_unavailable_lease_store_is_a_failure() -> None:
    async with held(fails=True) as run:
        (line,) = await until(lambda: run.seen.events("periodic task failed"))
        assert "no database" in line["exception"]
        assert not run.began.is_set()


async def test_lease_of_a_run_that_the_shutdown_cancels_is_released() -> None:
    async with held(lease_seconds=30) as run:
        await run.began.wait()
        run.loop.cancel()
        await asyncio.wait({run.loop})
        assert run.cancelled.is_set()
        assert await run.lease.acquire("task", "another", 1)


async def test_lease_belongs_to_one_holder_until_it_ends_or_is_released() -> None:
    now = 0.0
    lease = MemoryLease(lambda: now)
    assert await lease.acquire("a", "one", 10)
    assert await lease.acquire("b", "two", 10)
    assert not await lease.acquire("a", "two", 10)
    now = 9.0
    assert await lease.acquire("a", "one", 10)
    now = 18.0
    assert not await lease.acquire("a", "two", 10)
    now = 19.0
    assert await lease.acquire("a", "two", 10)
    await lease.release("a", "one")
    assert not await lease.acquire("a", "one", 10)
    await lease.release("a", "two")
    assert await lease.acquire("a", "one", 10)
