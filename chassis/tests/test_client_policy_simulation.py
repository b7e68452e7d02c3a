"""Calls to a dependency of which many attempts fail: the budget bounds the attempts, whatever happens."""

import asyncio
import random

import pytest

from chassis.client import DependencyError
from chassis.client.retries import EXPIRY_SECONDS, FLOOR_SECONDS, RetryBudget
from chassis.client.transport import OutboundRequest

from .support.clock import ManualClock
from .support.network import Network, Reply, client_of, responds

CALLS_PER_SECOND = 200
FLOOR_PER_SECOND = 1.0
MAX_ATTEMPTS = 3


def attempts_in_each_second(failing: float, ratio: float, seconds: int) -> list[int]:
    """Make calls at a constant rate; each is retried while attempts fail and the budget allows it."""
    chance = random.Random(22)  # noqa: S311 - failures
    clock = ManualClock()
    budget = RetryBudget(ratio, floor_per_second=FLOOR_PER_SECOND, clock=clock.monotonic)
    result = []
    for _ in range(seconds):
        attempts = 0
        for _ in range(CALLS_PER_SECOND):
            clock.now += 1 / CALLS_PER_SECOND
            budget.deposit()
            for number in range(1, MAX_ATTEMPTS + 1):
                attempts += 1
                if chance.random() >= failing or number == MAX_ATTEMPTS or not budget.withdraw():
                    break
        result.append(attempts)
    return result


@pytest.mark.parametrize("failing", [0.3, 1.0])
def test_budget_of_a_tenth_never_gives_more_than_a_tenth_more_attempts(failing: float) -> None:
    seconds = 120
    attempts = attempts_in_each_second(failing, 0.1, seconds)
    allowed = 1.1 * CALLS_PER_SECOND * seconds + FLOOR_PER_SECOND * (seconds + FLOOR_SECONDS)
    assert sum(attempts) <= allowed
    assert sum(attempts) > 1.09 * CALLS_PER_SECOND * seconds


def test_few_failures_are_all_retried() -> None:
    attempts = attempts_in_each_second(0.05, 0.1, 60)
    assert sum(attempts) / (60 * CALLS_PER_SECOND) == pytest.approx(1 / 0.95, rel=0.01)


def test_outage_after_a_quiet_time_begins_with_no_more_than_the_calls_of_a_few_seconds() -> None:
    clock = ManualClock()
    budget = RetryBudget(0.1, floor_per_second=FLOOR_PER_SECOND, clock=clock.monotonic)
    for _ in range(600 * CALLS_PER_SECOND):
        clock.now += 1 / CALLS_PER_SECOND
        budget.deposit()
    retries = next(count for count in range(10_000) if not budget.withdraw())
    assert retries <= 0.1 * CALLS_PER_SECOND * EXPIRY_SECONDS + FLOOR_PER_SECOND * FLOOR_SECONDS


async def test_retries_at_once_are_bounded_when_all_replicas_fail_together() -> None:
    network = Network(**dict.fromkeys("abc", responds(500)))
    calls = 2_000
    loop = asyncio.get_running_loop()
    began = loop.time()
    # Without the circuit breaker, which would end the calls.
    async with client_of(network, breaker_ratio=1.0) as catalogue:
        for _ in range(calls):
            with pytest.raises(DependencyError):
                await catalogue.get("/products")
    floor = FLOOR_PER_SECOND * (loop.time() - began + FLOOR_SECONDS)
    assert 1.05 * calls < network.asked.total() <= 1.1 * calls + floor


async def test_no_call_waits_or_fails_while_one_of_three_replicas_fails_a_third_of_its_calls() -> None:
    chance = random.Random(22)  # noqa: S311 - failures

    async def fail_often(_: OutboundRequest) -> Reply:
        return Reply(500 if chance.random() < 1 / 3 else 200)

    network = Network(a=fail_often, b=responds(), c=responds())
    # A call that waited would nearly always be too late.
    async with client_of(network, backoff_seconds=10.0, timeout_seconds=0.5) as catalogue:
        for _ in range(500):
            await catalogue.get("/products")
    assert network.asked.total() > 500
