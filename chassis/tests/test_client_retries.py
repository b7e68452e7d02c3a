"""Retries of calls to other services: the budget, the delays, `Retry-After`, and the failures that may be retried."""

from datetime import UTC, datetime
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chassis.client.retries import (
    EXPIRY_SECONDS,
    FLOOR_SECONDS,
    MAX_RETRY_AFTER_SECONDS,
    RetryBudget,
    full_jitter,
    may_retry,
    retry_after_seconds,
)
from chassis.client.transport import ConnectionLostError, NotSentError, ResponseTooLargeError, TransportError

from .support.clock import ManualClock

NOON = datetime(2026, 11, 27, 12, tzinfo=UTC).timestamp()


# The budget.


def spend(budget: RetryBudget) -> int:
    """Withdraw all that is left."""
    return next(count for count in range(10_000) if not budget.withdraw())


def test_one_retry_for_ten_calls_is_allowed_without_a_floor() -> None:
    budget = RetryBudget(0.1, floor_per_second=0, clock=ManualClock().monotonic)
    for _ in range(9):
        budget.deposit()
    assert not budget.withdraw()
    budget.deposit()
    assert budget.withdraw()
    assert not budget.withdraw()


def test_quiet_service_may_retry_a_few_calls() -> None:
    clock = ManualClock()
    budget = RetryBudget(0.1, floor_per_second=1, clock=clock.monotonic)
    for _ in range(10):
        clock.now += 60
        budget.deposit()
        assert [budget.withdraw(), budget.withdraw()] == [True, True]


def test_floor_returns_by_the_second() -> None:
    clock = ManualClock()
    budget = RetryBudget(0.1, floor_per_second=2, clock=clock.monotonic)
    spend(budget)
    clock.now += 1.5
    assert spend(budget) == 3


def test_calls_of_a_quiet_hour_cannot_be_spent_at_once() -> None:
    clock = ManualClock()
    budget = RetryBudget(0.1, floor_per_second=0, clock=clock.monotonic)
    for _ in range(36_000):
        clock.now += 0.1
        budget.deposit()
    assert spend(budget) <= 10 * EXPIRY_SECONDS * 0.1


def test_calls_from_before_a_pause_are_no_budget() -> None:
    clock = ManualClock()
    budget = RetryBudget(0.1, floor_per_second=0, clock=clock.monotonic)
    for _ in range(1_000):
        budget.deposit()
    clock.now += EXPIRY_SECONDS
    assert not budget.withdraw()


def test_retries_are_paid_with_the_oldest_calls() -> None:
    clock = ManualClock()
    budget = RetryBudget(0.5, floor_per_second=0, clock=clock.monotonic)
    budget.deposit()
    budget.deposit()
    clock.now += EXPIRY_SECONDS / 2
    budget.deposit()
    budget.deposit()
    assert budget.withdraw()
    clock.now += EXPIRY_SECONDS / 2
    assert budget.withdraw()


def test_budget_without_a_ratio_has_only_its_floor() -> None:
    budget = RetryBudget(0, floor_per_second=0.5, clock=ManualClock().monotonic)
    for _ in range(1_000):
        budget.deposit()
    assert spend(budget) == 5


@given(
    st.floats(0, 1),
    st.sampled_from([0.0, 0.5, 3.0]),
    st.lists(st.tuples(st.integers(0, 30), st.integers(0, 10), st.sampled_from([0.0, 0.3, 2.5, 7.0]))),
)
def test_no_period_has_more_retries_than_ratio_and_floor_allow(
    ratio: float, floor: float, steps: list[tuple[int, int, float]]
) -> None:
    clock = ManualClock()
    budget = RetryBudget(ratio, floor_per_second=floor, clock=clock.monotonic)
    history = []
    for calls, retries, pause in steps:
        for _ in range(calls):
            budget.deposit()
        history.append((clock.now, calls, sum(budget.withdraw() for _ in range(retries))))
        clock.now += pause
    for first, (start, _, _) in enumerate(history):
        for last in range(first, len(history)):
            end = history[last][0]
            calls = sum(count for at, count, _ in history[: last + 1] if at > start - EXPIRY_SECONDS)
            retries = sum(count for _, _, count in history[first : last + 1])
            assert retries <= calls * ratio + floor * (end - start + FLOOR_SECONDS) + 1e-6


# The delays.


@given(st.integers(0, 10**6), st.floats(0.001, 10))
def test_delay_is_random_below_a_bound_that_doubles(retry: int, base: float) -> None:
    delay = full_jitter(retry, base)
    assert 0 <= delay <= base * 2.0 ** min(retry, 40)
    assert delay <= max(base, 1)


def test_later_retries_wait_longer_on_the_average() -> None:
    means = [sum(full_jitter(retry, 0.025) for _ in range(2_000)) / 2_000 for retry in (1, 2, 3)]
    assert means == pytest.approx([0.0125, 0.025, 0.05], rel=0.15)


# `Retry-After`.


@pytest.mark.parametrize(("value", "seconds"), [("0", 0), ("7", 7), (" 120\t", 120), ("007", 7), ("999999999", 86_400)])
def test_retry_after_in_seconds(value: str, seconds: float) -> None:
    assert retry_after_seconds(value, NOON) == seconds


@pytest.mark.parametrize(
    "value",
    ["Fri, 27 Nov 2026 12:00:30 GMT", "Friday, 27-Nov-26 12:00:30 GMT", "Fri Nov 27 12:00:30 2026"],
)
def test_retry_after_as_a_date_in_each_format(value: str) -> None:
    assert retry_after_seconds(value, NOON) == 30


def test_date_in_the_past_is_now() -> None:
    assert retry_after_seconds("Sun, 06 Nov 1994 08:49:37 GMT", NOON) == 0


def test_date_in_the_far_future_is_bounded() -> None:
    assert retry_after_seconds("Fri, 31 Dec 9999 23:59:59 GMT", NOON) == MAX_RETRY_AFTER_SECONDS


@pytest.mark.parametrize(
    "value",
    [
        None,
        "",
        "-1",
        "+1",
        "1.5",
        "1e3",
        "0x10",
        "1_000",
        "nan",
        "inf",
        "1" + "0" * 400,
        "9" * 5_000,
        "٣",
        "³",
        "5, 10",
        "soon",
        "2026-11-27T12:00:30Z",
        "Fri, 99 Nov 2026 12:00:30 GMT",
        "Fri, 27 Nov 2026 99:00:30 GMT",
        "Fri, 27 Nov 99999 12:00:30 GMT",
        "27 Nov 2026 12:00:30 GMT",
        "Fri, 27 Nov 2026 12:00:30 GMT\r\nx: y",
    ],
)
def test_invalid_retry_after_is_none(value: str | None) -> None:
    assert retry_after_seconds(value, NOON) is None


@given(st.text() | st.from_regex("(Mon|Sunday),? [0-9A-Za-z: -]{0,30}", fullmatch=True) | st.integers().map(str))
def test_any_retry_after_is_none_or_within_a_day(value: str) -> None:
    seconds = retry_after_seconds(value, NOON)
    assert seconds is None or 0 <= seconds <= MAX_RETRY_AFTER_SECONDS


@given(st.integers(0, 86_400))
def test_date_and_seconds_mean_the_same(seconds: int) -> None:
    date = format_datetime(datetime.fromtimestamp(NOON + seconds, UTC), usegmt=True)
    assert retry_after_seconds(date, NOON) == retry_after_seconds(str(seconds), NOON) == seconds


# The failures that may be retried.


@pytest.mark.parametrize("is_idempotent", [True, False])
def test_request_that_was_not_sent_is_retried(is_idempotent: bool) -> None:
    assert may_retry(NotSentError("refused"), is_idempotent=is_idempotent)


@pytest.mark.parametrize("failure", [ConnectionLostError("reset"), TransportError("slow"), 429, 500, 502, 503, 504])
def test_request_that_may_have_been_executed_is_retried_only_if_it_is_idempotent(failure: TransportError | int) -> None:
    assert may_retry(failure, is_idempotent=True)
    assert not may_retry(failure, is_idempotent=False)


def test_503_with_retry_after_says_that_the_request_was_not_begun() -> None:
    assert may_retry(503, is_idempotent=False, retry_after=0.0)
    assert not may_retry(500, is_idempotent=False, retry_after=1.0)
    assert not may_retry(429, is_idempotent=False, retry_after=1.0)


@pytest.mark.parametrize("failure", [200, 304, 400, 401, 404, 409, 422, 501, 505, ResponseTooLargeError("large")])
def test_failure_that_would_come_again_is_not_retried(failure: TransportError | int) -> None:
    assert not may_retry(failure, is_idempotent=True, retry_after=1.0)
