"""The circuit breaker of calls to another service."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from chassis.client.breaker import BreakerState, CircuitBreaker

from .support.clock import ManualClock

OPEN_SECONDS = 5.0


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


def breaker_with(clock: ManualClock, ratio: float = 0.5, min_calls: int = 20) -> CircuitBreaker:
    return CircuitBreaker(ratio, OPEN_SECONDS, min_calls=min_calls, clock=clock.monotonic)


def state_of(breaker: CircuitBreaker) -> BreakerState:
    """A property would not change, as a type checker sees it."""
    return breaker.state


def attempt(breaker: CircuitBreaker, *, failed: bool) -> bool:
    """Make an attempt that ends at once; whether it was admitted."""
    permit = breaker.admit()
    if permit:
        breaker.record(failed, permit)
    return bool(permit)


def opened(clock: ManualClock) -> CircuitBreaker:
    """A breaker that has opened just now."""
    breaker = breaker_with(clock)
    while breaker.state is BreakerState.CLOSED:
        attempt(breaker, failed=True)
    return breaker


def half_open(clock: ManualClock) -> CircuitBreaker:
    """A breaker that will admit probes."""
    breaker = opened(clock)
    clock.now += OPEN_SECONDS * 1.25
    return breaker


# Closed.


def test_breaker_opens_when_half_of_the_attempts_fail(clock: ManualClock) -> None:
    breaker = breaker_with(clock)
    for number in range(100):
        attempt(breaker, failed=number % 5 in {0, 1})
    assert state_of(breaker) is BreakerState.CLOSED
    while attempt(breaker, failed=True):
        pass
    assert state_of(breaker) is BreakerState.OPEN


def test_breaker_does_not_open_before_there_are_enough_attempts(clock: ManualClock) -> None:
    breaker = breaker_with(clock, min_calls=20)
    for _ in range(19):
        attempt(breaker, failed=True)
    assert state_of(breaker) is BreakerState.CLOSED
    attempt(breaker, failed=True)
    assert state_of(breaker) is BreakerState.OPEN


def test_breaker_of_a_service_with_one_call_a_minute_never_opens(clock: ManualClock) -> None:
    breaker = breaker_with(clock)
    for _ in range(1_000):
        clock.now += 60
        assert attempt(breaker, failed=True)


def test_attempts_leave_the_window_a_slot_at_a_time(clock: ManualClock) -> None:
    breaker = breaker_with(clock)
    for _ in range(19):
        attempt(breaker, failed=True)
    clock.now += 9.9
    for _ in range(18):
        attempt(breaker, failed=False)
    assert state_of(breaker) is BreakerState.CLOSED
    clock.now += 0.2
    for _ in range(17):
        attempt(breaker, failed=True)
    assert state_of(breaker) is BreakerState.CLOSED
    attempt(breaker, failed=True)
    assert state_of(breaker) is BreakerState.OPEN


def test_attempts_from_before_a_pause_do_not_count(clock: ManualClock) -> None:
    breaker = breaker_with(clock)
    for _ in range(19):
        attempt(breaker, failed=True)
    clock.now += 3_600
    attempt(breaker, failed=True)
    assert state_of(breaker) is BreakerState.CLOSED


def test_burst_whose_failures_end_first_does_not_open_the_breaker(clock: ManualClock) -> None:
    breaker = breaker_with(clock)
    permits = [breaker.admit() for _ in range(60)]
    for permit in permits[:20]:
        breaker.record(True, permit)
    assert state_of(breaker) is BreakerState.CLOSED


def test_ratio_of_one_never_opens_the_breaker(clock: ManualClock) -> None:
    breaker = breaker_with(clock, ratio=1)
    for _ in range(1_000):
        clock.now += 0.01
        assert attempt(breaker, failed=True)


def test_breaker_opens_also_while_the_clock_stands_still(clock: ManualClock) -> None:
    breaker = breaker_with(clock)
    attempts = 0
    while attempt(breaker, failed=True):
        attempts += 1
    assert attempts == 20


def test_released_attempts_are_no_failures(clock: ManualClock) -> None:
    breaker = breaker_with(clock)
    for _ in range(100):
        breaker.release(breaker.admit())
    assert state_of(breaker) is BreakerState.CLOSED


# Open.


def test_open_breaker_admits_nothing_until_its_time_is_over(clock: ManualClock) -> None:
    breaker = opened(clock)
    assert 0.75 * OPEN_SECONDS <= breaker.seconds_until_probe <= 1.25 * OPEN_SECONDS
    clock.now += 0.74 * OPEN_SECONDS
    assert not breaker.admit()
    clock.now += 0.52 * OPEN_SECONDS
    assert breaker.seconds_until_probe == 0
    assert breaker.admit()


def test_breakers_that_open_together_do_not_probe_together(clock: ManualClock) -> None:
    assert len({opened(clock).seconds_until_probe for _ in range(10)}) > 1


def test_open_breaker_without_calls_is_half_open_when_its_time_is_over(clock: ManualClock) -> None:
    breaker = opened(clock)
    clock.now += 1.25 * OPEN_SECONDS
    assert state_of(breaker) is BreakerState.HALF_OPEN


# Half-open.


def test_half_open_breaker_admits_a_few_probes(clock: ManualClock) -> None:
    breaker = half_open(clock)
    assert [bool(breaker.admit()) for _ in range(5)] == [True, True, True, False, False]


def test_breaker_closes_when_all_probes_have_succeeded(clock: ManualClock) -> None:
    breaker = half_open(clock)
    for _ in range(2):
        assert attempt(breaker, failed=False)
        assert state_of(breaker) is BreakerState.HALF_OPEN
    attempt(breaker, failed=False)
    assert state_of(breaker) is BreakerState.CLOSED


def test_closed_breaker_has_forgotten_the_failures_that_opened_it(clock: ManualClock) -> None:
    breaker = half_open(clock)
    for _ in range(3):
        attempt(breaker, failed=False)
    for _ in range(19):
        assert attempt(breaker, failed=True)
    assert state_of(breaker) is BreakerState.CLOSED


def test_one_failed_probe_opens_the_breaker_for_the_same_time(clock: ManualClock) -> None:
    breaker = half_open(clock)
    permits = [breaker.admit(), breaker.admit()]
    breaker.record(True, permits[0])
    assert state_of(breaker) is BreakerState.OPEN
    assert 0.75 * OPEN_SECONDS <= breaker.seconds_until_probe <= 1.25 * OPEN_SECONDS
    breaker.record(False, permits[1])
    assert state_of(breaker) is BreakerState.OPEN


def test_released_probe_is_replaced_at_once(clock: ManualClock) -> None:
    breaker = half_open(clock)
    permits = [breaker.admit() for _ in range(3)]
    breaker.release(permits[0])
    assert breaker.admit()
    assert not breaker.admit()


def test_probes_that_never_report_are_replaced_in_time(clock: ManualClock) -> None:
    breaker = half_open(clock)
    for _ in range(3):
        breaker.admit()
    clock.now += 0.9 * OPEN_SECONDS
    assert not breaker.admit()
    clock.now += 0.2 * OPEN_SECONDS
    for _ in range(3):
        assert attempt(breaker, failed=False)
    assert state_of(breaker) is BreakerState.CLOSED


@pytest.mark.parametrize("failed", [True, False])
def test_attempt_from_before_the_breaker_opened_is_no_probe(clock: ManualClock, failed: bool) -> None:
    breaker = breaker_with(clock)
    early = [breaker.admit() for _ in range(5)]
    while attempt(breaker, failed=True):
        pass
    clock.now += 1.25 * OPEN_SECONDS
    breaker.admit()
    for permit in early:
        breaker.record(failed, permit)
        breaker.release(permit)
    assert state_of(breaker) is BreakerState.HALF_OPEN
    assert [bool(breaker.admit()) for _ in range(3)] == [True, True, False]


def test_each_change_is_reported_once(clock: ManualClock) -> None:
    changes: list[BreakerState] = []
    breaker = CircuitBreaker(0.5, OPEN_SECONDS, clock=clock.monotonic, on_change=changes.append)
    while attempt(breaker, failed=True):
        pass
    clock.now += 1.25 * OPEN_SECONDS
    for _ in range(3):
        attempt(breaker, failed=False)
    assert changes == ["open", "half-open", "closed"]


class AnyHistory(RuleBasedStateMachine):
    """The state is explained after any outcomes in any order, and the breaker can always close again."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = ManualClock()
        self.changes: list[BreakerState] = [BreakerState.CLOSED]
        self.breaker = CircuitBreaker(
            0.5, OPEN_SECONDS, min_calls=5, clock=self.clock.monotonic, on_change=self.changes.append
        )
        self.permits: list[tuple[int, int]] = []

    @rule(count=st.integers(1, 10))
    def admit(self, count: int) -> None:
        for _ in range(count):
            state = self.breaker.state
            permit = self.breaker.admit()
            assert permit or state is not BreakerState.CLOSED
            assert not permit or state is not BreakerState.OPEN
            if permit:
                self.permits.append((permit, len(self.changes)))

    @precondition(lambda self: self.permits)
    @rule(data=st.data(), failed=st.booleans())
    def record(self, data: st.DataObject, failed: bool) -> None:
        permit, epoch = self.permits.pop(data.draw(st.integers(0, len(self.permits) - 1)))
        before = len(self.changes)
        self.breaker.record(failed, permit)
        if len(self.changes) > before:
            assert epoch == before, "an attempt of another state has changed this one"
            assert self.changes[-1] is (BreakerState.OPEN if failed else BreakerState.CLOSED)

    @precondition(lambda self: self.permits)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        permit, _ = self.permits.pop(data.draw(st.integers(0, len(self.permits) - 1)))
        before = len(self.changes)
        self.breaker.release(permit)
        assert len(self.changes) == before

    @precondition(lambda self: self.permits)
    @rule()
    def lose(self) -> None:
        self.permits.pop()

    @rule(seconds=st.sampled_from([0.01, 0.9, 4.0, 6.3, 100.0]))
    def wait(self, seconds: float) -> None:
        self.clock.now += seconds

    @invariant()
    def changes_are_those_of_a_breaker(self) -> None:
        allowed = {("closed", "open"), ("open", "half-open"), ("half-open", "open"), ("half-open", "closed")}
        assert set(zip(self.changes, self.changes[1:], strict=False)) <= allowed

    def teardown(self) -> None:
        for _ in range(3):
            self.clock.now += 1.25 * OPEN_SECONDS
            for _ in range(3):
                attempt(self.breaker, failed=False)
        assert state_of(self.breaker) is BreakerState.CLOSED


TestAnyHistory = AnyHistory.TestCase
TestAnyHistory.settings = settings(max_examples=40, stateful_step_count=30)
