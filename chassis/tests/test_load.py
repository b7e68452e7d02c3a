"""Whom load control turns away, and whom it doesn't."""

import asyncio
import random
import socket
import time
from bisect import bisect_right
from collections.abc import AsyncIterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from math import ceil
from multiprocessing import get_context

import pytest

from chassis import Handler, Problem, Route
from chassis.middleware.load_shedder import CALM_SECONDS, QUEUE_REQUESTS, QUEUE_SECONDS, LoadShedder
from chassis.telemetry.metrics import Metrics

from .support.service import Service, serve

SHED_SECONDS = 0.00005


class Loop:
    """An event loop that runs handlers which compute, in simulated time."""

    def __init__(self, max_requests: int | None = None) -> None:
        self.metrics = Metrics("test", version="1", commit="c", chassis_version="1")
        self.now = 1000.0
        self.computed = 0.0
        self.control = LoadShedder(max_requests, self.metrics, clock=lambda: self.now, processor=lambda: self.computed)

    def run(
        self, arrivals: list[float], service_seconds: float, processor_seconds: float | None = None
    ) -> list[float | None]:
        """The time from arrival to answer of each request, None for one that was turned away.

        `processor_seconds` is what a request needs, when others use the processor meanwhile.
        """
        answers: list[float | None] = []
        due = [self.now + arrival for arrival in arrivals]
        while len(answers) < len(due):
            self.now += 0.000_001  # to read takes its time, too
            read_at = self.now = max(self.now, due[len(answers)])
            for arrival in due[len(answers) : bisect_right(due, read_at)]:
                if self.enters(read_at):
                    self.now += service_seconds
                    self.computed += service_seconds if processor_seconds is None else processor_seconds
                    self.control.leave()
                    answers.append(self.now - arrival)
                else:
                    self.now += SHED_SECONDS
                    self.computed += SHED_SECONDS
                    answers.append(None)
        return answers

    def enters(self, read_at: float) -> bool:
        try:
            self.control.enter(read_at)
        except Problem as problem:
            return problem.status_code != 503
        return True

    def shed(self, reason: str) -> float:
        return self.metrics.registry.get_sample_value("http_server_shed_requests_total", {"reason": reason}) or 0.0


def poisson(rate: float, seconds: float) -> list[float]:
    """Arrivals at random, so many a second on average."""
    rng = random.Random(1)  # noqa: S311 - no secret
    arrivals = [0.0]
    while arrivals[-1] < seconds:
        arrivals.append(arrivals[-1] + rng.expovariate(rate))
    return arrivals


@pytest.mark.parametrize("service_seconds", [0.002, 0.005, 0.02])
@pytest.mark.parametrize("times", [2, 10])
def test_overload_is_answered_at_the_rate_that_is_possible_and_in_time(service_seconds: float, times: int) -> None:
    loop = Loop()
    answers = loop.run(poisson(times / service_seconds, 20), service_seconds)
    served = [seconds for seconds in answers if seconds is not None]
    shed = answers.count(None)
    # All of the processor that turning away has left.
    assert len(served) * service_seconds > 0.97 * (loop.now - 1000 - shed * SHED_SECONDS)
    assert loop.shed("delay") == shed
    # After the time that it takes to see that the queue stays: a turn before it is read, a turn until it begins.
    later = sorted(served[len(served) // 3 :])
    share = max(1 / times, 1 / QUEUE_REQUESTS)
    turn = max(share * QUEUE_SECONDS, ceil(share * QUEUE_REQUESTS) * service_seconds) + service_seconds
    assert later[round(len(later) * 0.99)] < 3 * turn


@pytest.mark.parametrize("service_seconds", [0.0005, 0.002])
def test_nobody_is_turned_away_while_there_is_enough_for_all(service_seconds: float) -> None:
    loop = Loop()
    assert None not in loop.run(poisson(0.8 / service_seconds, 20), service_seconds)


def test_process_that_others_held_up_catches_up() -> None:
    loop = Loop()
    # Each takes ten times as long as it needs, so that a queue stays for seconds.
    assert None not in loop.run([0.001 * number for number in range(200)], 0.005, 0.0004)


def test_burst_is_answered() -> None:
    loop = Loop()
    for _ in range(5):
        assert None not in loop.run([0.0] * 100, 0.001)
        loop.now += 10


def test_it_is_over_when_it_is_over() -> None:
    loop = Loop()
    assert None in loop.run(poisson(2000, 5), 0.005)
    assert None not in loop.run([0.01 * number for number in range(1, 200)], 0.005)


def test_number_under_way_is_bounded() -> None:
    loop = Loop(max_requests=2)
    for _ in range(2):
        loop.control.enter(loop.now)
    for _ in range(3):
        with pytest.raises(Problem):
            loop.control.enter(loop.now)
    loop.control.leave()
    loop.control.enter(loop.now)
    assert (loop.shed("concurrency"), loop.shed("delay")) == (3, 0)
    assert loop.metrics.registry.get_sample_value("http_server_max_requests") == 2


WORK_SECONDS = 0.01
ROUNDS = 8


class Work(Handler):
    """GET waits for the gate, POST computes."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()

    async def get(self) -> str:
        await self.gate.wait()
        return "done"

    async def post(self) -> str:
        until = time.thread_time() + WORK_SECONDS
        while time.thread_time() < until:
            pass
        return "done"


@pytest.fixture
def work() -> Work:
    return Work()


@pytest.fixture
async def service(work: Work) -> AsyncIterator[Service]:
    async with serve(Route("/work", work), max_requests=3) as service:
        yield service


async def test_too_many_at_once_are_told_to_come_again(work: Work, service: Service) -> None:
    waiting = [asyncio.create_task(service.client.get("/work")) for _ in range(3)]
    await service.under_way(3)
    answer = await service.client.get("/work")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert answer.headers["content-type"] == "application/problem+json"
    # Who runs the service is never turned away.
    for path in ("/healthz", "/readyz", "/metrics", "/info"):
        assert (await service.client.get(path)).status_code == 200
    work.gate.set()
    assert [one.status_code for one in await asyncio.gather(*waiting)] == [200] * 3
    assert (await service.client.get("/work")).status_code == 200
    assert await service.sample("http_server_shed_requests_total", reason="concurrency") == 1
    (line,) = [line for line in await service.access_lines(5) if line["status"] == 503]
    assert (line["route"], line["level"]) == ("unmatched", "warning")


def ask_in_rounds(port: int, rounds: int) -> list[int]:
    """The statuses of requests that arrive twenty at once, the next when all are answered."""
    statuses: list[int] = []
    with ExitStack() as stack:
        connections = [stack.enter_context(socket.create_connection(("127.0.0.1", port))) for _ in range(20)]
        for _ in range(rounds):
            for connection in connections:
                connection.sendall(b"POST /work HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n")
            statuses += [int(connection.recv(4096)[9:12]) for connection in connections]
    return statuses


async def test_requests_that_wait_too_long_for_the_processor_are_turned_away(work: Work) -> None:
    async with serve(Route("/work", work)) as service:
        # A process, since a thread would wait for the interpreter while the handlers compute.
        with ProcessPoolExecutor(1, get_context("spawn")) as pool:
            loop = asyncio.get_running_loop()
            statuses = await loop.run_in_executor(pool, ask_in_rounds, service.server.port, ROUNDS)
        assert set(statuses) == {200, 503}
        assert statuses[-20:].count(200) >= 1
        shed = await service.sample("http_server_shed_requests_total", reason="delay")
        assert shed == statuses.count(503)
        await asyncio.sleep(CALM_SECONDS)
        assert (await service.client.post("/work")).status_code == 200
