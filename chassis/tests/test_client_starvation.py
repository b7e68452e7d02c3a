"""Whether a service is late itself: the timer while calls are in progress, and what others note."""

import asyncio
import time
from collections.abc import Callable
from contextvars import Context
from typing import TypeVarTuple

import pytest

from chassis.client.starvation import LATE_SECONDS, MEMORY_SECONDS, PERIOD_SECONDS, Starvation

from .support.clock import ManualClock
from .support.service import until

Ts = TypeVarTuple("Ts")


class Timers(asyncio.SelectorEventLoop):
    """An event loop whose timers fire when a test lets them."""

    def __init__(self) -> None:
        super().__init__()
        self.timers: list[Callable[[], object]] = []

    def call_later(
        self, delay: float, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.TimerHandle:
        self.timers.append(lambda: callback(*args))
        return super().call_later(3_600, callback, *args, context=context)

    def fire(self) -> None:
        self.timers.pop(0)()


def in_loop(test: Callable[[Timers], None]) -> None:
    """Run a function inside of a loop with such timers."""

    async def run() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, Timers)
        test(loop)

    with asyncio.Runner(loop_factory=Timers) as runner:
        runner.run(run())


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def starvation(clock: ManualClock) -> Starvation:
    return Starvation(clock=clock.monotonic)


def test_idle_service_has_no_timer(starvation: Starvation) -> None:
    def test(loop: Timers) -> None:
        assert not loop.timers
        starvation.begin()
        starvation.end()
        loop.fire()
        assert not loop.timers

    in_loop(test)


def test_timer_repeats_while_calls_are_in_progress(starvation: Starvation) -> None:
    def test(loop: Timers) -> None:
        starvation.begin()
        loop.fire()
        loop.fire()
        starvation.end()
        loop.fire()
        assert not loop.timers
        starvation.begin()
        assert len(loop.timers) == 1

    in_loop(test)


def test_calls_share_one_timer(starvation: Starvation) -> None:
    def test(loop: Timers) -> None:
        for _ in range(10):
            starvation.begin()
            starvation.begin()
            starvation.end()
            starvation.end()
        assert len(loop.timers) == 1

    in_loop(test)


def test_timer_of_another_loop_does_not_count(clock: ManualClock, starvation: Starvation) -> None:
    def begin(_: Timers) -> None:
        starvation.begin()
        starvation.end()

    def test(loop: Timers) -> None:
        clock.now += 60
        starvation.begin()
        assert len(loop.timers) == 1
        assert not starvation.is_starved

    in_loop(begin)
    in_loop(test)


def test_loop_that_is_on_time_is_not_starved(clock: ManualClock, starvation: Starvation) -> None:
    def test(loop: Timers) -> None:
        starvation.begin()
        for _ in range(5):
            clock.now += PERIOD_SECONDS + LATE_SECONDS / 2
            assert not starvation.is_starved
            loop.fire()
            assert not starvation.is_starved

    in_loop(test)


def test_loop_whose_timer_is_overdue_is_starved_before_the_timer_fires(
    clock: ManualClock, starvation: Starvation
) -> None:
    def test(_: Timers) -> None:
        starvation.begin()
        clock.now += PERIOD_SECONDS + 2 * LATE_SECONDS
        assert starvation.is_starved

    in_loop(test)


def test_loop_that_was_late_is_starved_for_a_moment(clock: ManualClock, starvation: Starvation) -> None:
    def test(loop: Timers) -> None:
        starvation.begin()
        clock.now += PERIOD_SECONDS + 2 * LATE_SECONDS
        loop.fire()
        starvation.end()
        loop.fire()
        clock.now += 0.9 * MEMORY_SECONDS
        assert starvation.is_starved
        clock.now += 0.2 * MEMORY_SECONDS
        assert not starvation.is_starved

    in_loop(test)


def test_expired_timer_of_a_call_tells_that_the_loop_is_late(clock: ManualClock, starvation: Starvation) -> None:
    starvation.note_late(LATE_SECONDS / 2)
    assert not starvation.is_starved
    starvation.note_late(2 * LATE_SECONDS)
    assert starvation.is_starved
    clock.now += 1.1 * MEMORY_SECONDS
    assert not starvation.is_starved


async def test_blocked_loop_is_starved_and_recovers() -> None:
    starvation = Starvation()
    starvation.begin()
    time.sleep(PERIOD_SECONDS + 2 * LATE_SECONDS)  # noqa: ASYNC251 - it blocks the loop
    assert starvation.is_starved
    await asyncio.sleep(PERIOD_SECONDS)
    assert starvation.is_starved
    starvation.end()
    await until(lambda: not starvation.is_starved)
