"""The delay of hedges: a quantile of recent latencies, and never less."""

import asyncio
import math
import random
import time
from time import monotonic

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chassis.client.hedge import Hedge
from chassis.client.hedging import LONGEST_SECONDS, SHORTEST_SECONDS, LatencyQuantile
from chassis.client.replicas import Outcome
from chassis.client.results import Result

DELAY = 0.0054


def test_there_is_no_value_before_there_are_enough_observations() -> None:
    latency = LatencyQuantile(min_count=50)
    for _ in range(49):
        latency.observe(0.01)
    assert latency.value is None
    latency.observe(0.01)
    assert latency.value == pytest.approx(0.01, rel=0.07)


@settings(max_examples=20)
@given(st.sampled_from([0.5, 0.9, 0.95, 0.99]), st.integers())
def test_value_is_the_quantile_or_up_to_six_percent_more(quantile: float, seed: int) -> None:
    chance = random.Random(seed)  # noqa: S311 - latencies
    latencies = [chance.lognormvariate(-4, 1) for _ in range(800)]
    latency = LatencyQuantile(quantile, min_count=len(latencies))
    for seconds in latencies:
        latency.observe(seconds)
    assert latency.value is not None
    rank = math.ceil(len(latencies) * quantile)
    exact, longer = sorted(latencies)[rank - 1 : rank + 1]
    assert 0.999 * exact <= latency.value <= 1.06 * longer


def test_value_follows_a_dependency_that_becomes_slower_within_a_twentieth_of_the_memory() -> None:
    latency = LatencyQuantile(memory=1_000)
    for _ in range(5_000):
        latency.observe(0.01)
    for _ in range(90):
        latency.observe(0.2)
    assert latency.value is not None
    assert latency.value > 0.2


def test_value_follows_a_dependency_that_becomes_quick_again() -> None:
    latency = LatencyQuantile(memory=1_000)
    for _ in range(5_000):
        latency.observe(0.2)
    for _ in range(4_000):
        latency.observe(0.01)
    assert latency.value == pytest.approx(0.01, rel=0.07)


@given(st.lists(st.floats(allow_nan=True, allow_infinity=True), min_size=1))
def test_any_number_is_observed(values: list[float]) -> None:
    latency = LatencyQuantile(min_count=1, memory=4)
    for value in values:
        latency.observe(value)
    assert latency.value is not None
    assert SHORTEST_SECONDS <= latency.value <= LONGEST_SECONDS * 1.06


@pytest.mark.parametrize("seconds", [SHORTEST_SECONDS, math.nextafter(LONGEST_SECONDS, 0), LONGEST_SECONDS])
def test_ends_of_the_histogram_are_observed(seconds: float) -> None:
    latency = LatencyQuantile(min_count=1)
    latency.observe(seconds)
    assert latency.value == pytest.approx(seconds, rel=0.07)


def test_share_of_hedges_stays_if_cancelled_attempts_are_observed() -> None:
    chance = random.Random(7)  # noqa: S311 - latencies
    latency = LatencyQuantile()
    hedges = 0
    for _ in range(20_000):
        seconds = chance.expovariate(100)
        if latency.value is not None and seconds > latency.value:
            hedges += 1
            seconds = min(seconds, latency.value + chance.expovariate(100))
        latency.observe(seconds)
    assert 0.02 < hedges / 20_000 < 0.07


async def test_second_attempt_does_not_begin_before_its_time() -> None:
    loop = asyncio.get_running_loop()
    early: list[float] = []
    for number in range(30):
        response: asyncio.Future[Result] = loop.create_future()
        await asyncio.sleep(0.0007 * (number % 5))
        time.sleep(0.001)  # noqa: ASYNC251 - the clock of the loop stands still meanwhile
        due = monotonic() + DELAY

        def start_second(response: asyncio.Future[Result] = response, due: float = due) -> None:
            early.append(due - monotonic())
            response.set_result(Result(Outcome.OK))

        hedge = Hedge(start_second, lambda _: True)
        hedge.begin(DELAY)
        result = await response
        hedge.end(result)
    assert max(early) <= 0
