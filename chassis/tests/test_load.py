"""Requests that load shedding rejects, and those that it doesn't."""

import asyncio
import random
import selectors
import socket
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from heapq import heappop, heappush
from multiprocessing import get_context
from typing import cast

import pytest

from chassis import Handler, Problem, Route
from chassis.middleware.delayed_rejections import PER_SECOND
from chassis.middleware.load_shedder import FREE_REQUESTS, LoadShedder
from chassis.middleware.standing_queue import CALM_SECONDS
from chassis.telemetry.metrics import Metrics

from .support.service import Service, exchange, serve, until

READ_SECONDS = 0.00002
SHED_SECONDS = 0.00005
TURN_SECONDS = 0.00001
Times = list[float | None]


class Machine:
    """An event loop that runs handlers in simulated time: what computes puts the clock forward."""

    def __init__(self, max_requests: int | None = None, *, cpu_share: float = 1.0) -> None:
        """`cpu_share` is the share of the time that the process has the CPU."""
        self.metrics = Metrics("test", version="1", commit="c", chassis_version="1")
        self.now = 1000.0
        self.computed = 0.0
        self.most_in_progress = 0
        self.turns = 0
        self._cpu_share = cpu_share
        self._timers: list[tuple[float, int, asyncio.Future[None]]] = []
        self.shedder = LoadShedder(max_requests, self.metrics, clock=lambda: self.now, processor=lambda: self.computed)
        self.shedder.hurry()

    def compute(self, seconds: float) -> None:
        self.computed += seconds
        self.now += seconds / self._cpu_share

    async def wait(self, seconds: float) -> None:
        due: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heappush(self._timers, (self.now + seconds, id(due), due))
        await due

    async def run(
        self, arrivals: list[float], *handlers: Callable[["Machine"], Awaitable[None]], again: int = 0
    ) -> Times:
        """The time from each arrival to its response, None for one that was shed; handlers take turns.

        Clients send so many further requests, each as soon as one has its response.
        """
        times: Times = [None] * len(arrivals)
        due = deque((self.now + arrival, number) for number, arrival in enumerate(arrivals))
        tasks: set[asyncio.Task[None]] = set()

        async def respond(arrival: float, read_at: float, number: int) -> None:
            waits = self.shedder.enter(read_at)
            if waits is not None and await waits is not None:
                self.compute(SHED_SECONDS)
                return
            leave = self.shedder.leave if waits is None else self.shedder.leaver()
            self.most_in_progress = max(self.most_in_progress, self.shedder.in_progress)
            await handlers[number % len(handlers)](self)
            leave()
            times[number] = self.now - arrival
            if len(times) < len(arrivals) + again:
                due.append((self.now, len(times)))
                times.append(None)

        while due or tasks:
            if not tasks:
                self.now = max(self.now, due[0][0])
            began = self.now
            while due and due[0][0] <= self.now:
                self.compute(READ_SECONDS)
                arrival, number = due.popleft()
                task = asyncio.create_task(respond(arrival, self.now, number))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
            while self._timers and self._timers[0][0] <= self.now:
                heappop(self._timers)[2].set_result(None)
            await asyncio.sleep(0)
            self.turns += 1
            if self.now == began:
                self.compute(TURN_SECONDS)
        return times

    def shed(self, reason: str) -> float:
        return self.metrics.registry.get_sample_value("http_server_shed_requests_total", {"reason": reason}) or 0.0


async def piece(machine: Machine) -> None:
    machine.compute(0.005)


async def quick(machine: Machine) -> None:
    machine.compute(0.0005)


async def slow(machine: Machine) -> None:
    machine.compute(0.1)


async def slices(machine: Machine) -> None:
    for _ in range(25):
        machine.compute(0.0002)
        await asyncio.sleep(0)


async def waits(machine: Machine) -> None:
    for _ in range(5):
        machine.compute(0.001)
        await machine.wait(0.01)


async def waits_first(machine: Machine) -> None:
    await machine.wait(0.02)
    machine.compute(0.005)


async def only_waits(machine: Machine) -> None:
    await machine.wait(0.5)


def poisson(rate: float, seconds: float) -> list[float]:
    """Random arrivals, so many a second on average."""
    rng = random.Random(1)  # noqa: S311 - no secret
    arrivals = [0.0]
    while arrivals[-1] < seconds:
        arrivals.append(arrivals[-1] + rng.expovariate(rate))
    return arrivals


def percentile(times: Times, percent: int) -> float:
    served = sorted(seconds for seconds in times if seconds is not None)
    return served[round(len(served) * percent / 100) - 1]


def shape_id(value: object) -> str:
    """The names of the handlers, so that every process gives a test the same name."""
    return "+".join(handler.__name__ for handler in value) if isinstance(value, tuple) else str(value)


# Each with the CPU time of a request, the share of the CPU that serves under overload, and the longest time of a
# response. Shedding takes CPU as well, here 70 µs with reading.
SHAPES: list[tuple[tuple[Callable[[Machine], Awaitable[None]], ...], float, float, float]] = [
    ((piece,), 0.005, 0.95, 0.1),
    ((slices,), 0.005, 0.95, 0.1),
    ((waits,), 0.005, 0.9, 0.2),
    ((waits_first,), 0.005, 0.75, 0.4),
    ((slow,), 0.1, 0.95, 3.0),
    ((piece, quick), 0.00275, 0.7, 0.1),
    ((slices, quick), 0.00275, 0.7, 0.1),
    ((waits, slow, quick), 0.0352, 0.8, 2.0),
]


@pytest.mark.parametrize(("handlers", "cpu", "share", "longest"), SHAPES, ids=shape_id)
@pytest.mark.parametrize("load", [2, 8])
async def test_overload_is_served_at_the_possible_rate_and_in_time(
    handlers: tuple[Callable[[Machine], Awaitable[None]], ...], cpu: float, share: float, longest: float, load: int
) -> None:
    machine = Machine()
    times = await machine.run(poisson(load / cpu, max(8, 400 * cpu)), *handlers)
    shed = times.count(None)
    assert machine.shed("delay") == shed
    reading = len(times) * READ_SECONDS + shed * SHED_SECONDS
    assert (len(times) - shed) * cpu > share * (machine.now - 1000 - reading)
    assert percentile(times[len(times) // 3 :], 99) < longest
    assert percentile(times, 98) < 2 * longest  # before the overload was noticed as well


@pytest.mark.parametrize(("handlers", "cpu"), [shape[:2] for shape in SHAPES], ids=shape_id)
async def test_no_request_is_shed_at_four_fifths_of_the_possible_rate(
    handlers: tuple[Callable[[Machine], Awaitable[None]], ...], cpu: float
) -> None:
    assert None not in await Machine().run(poisson(0.8 / cpu, max(20, 400 * cpu)), *handlers)


@pytest.mark.parametrize("handler", [piece, slices, waits, waits_first])
async def test_burst_is_served(handler: Callable[[Machine], Awaitable[None]]) -> None:
    machine = Machine()
    for _ in range(3):
        # Ten times the possible rate for a tenth of a second.
        assert None not in await machine.run([number * 0.0005 for number in range(200)], handler)
        machine.now += 10


async def test_clients_that_retry_at_once_do_not_keep_the_queue_long() -> None:
    machine = Machine()
    # Four hundred at once, and then as many as are served, as from a fixed number of connections.
    times = await machine.run([0.0] * 400 + [number * 0.005 for number in range(1, 1000)], slices)
    assert times.count(None) > 300
    assert percentile(times[500:], 99) < 0.1


async def test_clients_that_keep_quick_handlers_busy_are_all_served_without_many_turns() -> None:
    machine = Machine()
    requests = 0

    async def very_quick(machine: Machine) -> None:
        nonlocal requests
        requests += 1
        machine.compute(0.06 if requests == 1000 else 0.0001)  # once, something holds everything up

    times = await machine.run([0.0] * 64, very_quick, again=40_000)
    assert None not in times
    assert percentile(times, 99) < 0.01
    assert machine.turns * 8 < len(times)


async def test_requests_that_wait_are_not_held_back_by_quick_ones_before_them() -> None:
    machine = Machine()

    async def very_quick(machine: Machine) -> None:
        machine.compute(0.0001)

    async def query(machine: Machine) -> None:
        machine.compute(0.00005)
        await machine.wait(0.002)
        machine.compute(0.00005)

    await machine.run([0.0] * 64, very_quick, again=5_000)
    began = machine.now
    times = await machine.run([0.0] * 64, query, again=5_000)
    assert len(times) / (machine.now - began) > 2_500  # four at a time would be 1,900


async def test_requests_that_only_wait_are_not_limited() -> None:
    machine = Machine()
    assert None not in await machine.run([number * 0.0005 for number in range(4000)], only_waits)
    assert machine.most_in_progress > 900


async def test_process_that_others_delayed_catches_up() -> None:
    # Each request takes ten times as long as it needs, so that a queue stays for seconds.
    machine = Machine(cpu_share=0.1)
    assert None not in await machine.run([0.001 * number for number in range(190)], quick, quick, slices)


async def test_shedding_ends_with_the_overload() -> None:
    machine = Machine()
    assert None in await machine.run(poisson(2000, 5), slices)
    machine.now += CALM_SECONDS
    assert None not in await machine.run([0.007 * number for number in range(1, 200)], slices)


async def test_fewest_requests_that_keep_the_cpu_busy_are_in_progress() -> None:
    machine = Machine()
    await machine.run(poisson(1000, 5), slices)
    assert machine.most_in_progress <= FREE_REQUESTS


async def test_requests_in_progress_are_bounded() -> None:
    machine = Machine(max_requests=2)
    for _ in range(2):
        assert machine.shedder.enter(machine.now) is None
    for _ in range(3):
        waits = machine.shedder.enter(machine.now)
        assert waits is not None
        assert isinstance(await waits, Problem)
    machine.shedder.leave()
    assert machine.shedder.enter(machine.now) is None
    assert (machine.shed("concurrency"), machine.shed("delay")) == (3, 0)
    assert machine.metrics.registry.get_sample_value("http_server_max_requests") == 2


async def test_place_of_a_waiting_request_that_is_cancelled_is_free_again() -> None:
    machine = Machine()
    for _ in range(FREE_REQUESTS):
        assert machine.shedder.enter(machine.now) is None
    tasks = []
    for _ in range(3):
        waits = machine.shedder.enter(machine.now - 1)
        assert waits is not None
        tasks.append(asyncio.ensure_future(waits))
    await asyncio.sleep(0)
    tasks[0].cancel()  # while it waits
    machine.shedder.leave()
    while machine.shedder.in_progress < FREE_REQUESTS:
        await asyncio.sleep(0)
    tasks[1].cancel()  # admitted, but not running yet
    for _ in range(FREE_REQUESTS - 1):
        machine.shedder.leave()
    await asyncio.wait(tasks)
    assert [task.cancelled() for task in tasks] == [True, True, False]
    assert machine.shedder.in_progress == 1


WORK_SECONDS = 0.01
REQUESTS = 400
POST = b"POST /work HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n"


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


async def test_requests_beyond_the_limit_get_503(work: Work, service: Service) -> None:
    waiting = [asyncio.create_task(service.client.get("/work")) for _ in range(3)]
    await service.under_way(3)
    answer = await service.client.get("/work")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert answer.headers["content-type"] == "application/problem+json"
    # Probes are never shed.
    for path in ("/healthz", "/readyz", "/metrics", "/info"):
        assert (await service.client.get(path)).status_code == 200
    work.gate.set()
    assert [one.status_code for one in await asyncio.gather(*waiting)] == [200] * 3
    assert (await service.client.get("/work")).status_code == 200
    assert await service.sample("http_server_shed_requests_total", reason="concurrency") == 1
    (line,) = [line for line in await service.access_lines(5) if line["status"] == 503]
    assert (line["route"], line["level"]) == ("unmatched", "warning")


def ask_at_once(port: int, count: int) -> list[int]:
    """The statuses of requests over forty connections, each of which asks again as soon as it has its response."""
    statuses: list[int] = []
    with ExitStack() as stack:
        selector = stack.enter_context(selectors.DefaultSelector())
        for _ in range(40):
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
            selector.register(connection, selectors.EVENT_READ)
            connection.sendall(POST)
        while len(statuses) < count:
            for key, _ in selector.select():
                connection = cast("socket.socket", key.fileobj)
                statuses.append(int(connection.recv(4096)[9:12]))
                connection.sendall(POST)
    return statuses


async def test_requests_that_wait_too_long_for_the_cpu_are_shed(work: Work) -> None:
    async with serve(Route("/work", work)) as service:
        # A process, since a thread would wait for the interpreter while the handlers compute.
        with ProcessPoolExecutor(1, get_context("spawn")) as pool:
            loop = asyncio.get_running_loop()
            statuses = await loop.run_in_executor(pool, ask_at_once, service.server.port, REQUESTS)
        assert set(statuses) == {200, 503}
        assert statuses[-100:].count(200) >= 1
        # Some had no response yet when the client left.
        assert await service.sample("http_server_shed_requests_total", reason="delay") >= statuses.count(503)
        await service.under_way(0)
        await asyncio.sleep(CALM_SECONDS)
        assert (await service.client.post("/work")).status_code == 200


def get(number: int) -> bytes:
    return b"GET /work HTTP/1.1\r\nhost: x\r\nx-request-id: %d\r\n\r\n" % number


async def test_many_rejections_are_delayed_until_the_service_stops(work: Work) -> None:
    async with serve(Route("/work", work), max_requests=1) as service:
        port, shedder = service.server.port, service.app.load_shedder
        first = asyncio.create_task(exchange(port, get(0)))
        await service.under_way(1)
        rejected = [asyncio.create_task(exchange(port, get(number))) for number in range(1, PER_SECOND)]
        await until(lambda: shedder.delayed_rejections > PER_SECOND // 2)
        # A client that leaves meanwhile is noticed.
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(get(PER_SECOND))
        await asyncio.sleep(0.05)
        writer.close()
        await until(lambda: any(line["status"] == 499 for line in service.seen.events("request")))

        service.server.stop(drain=False)
        await until(lambda: shedder.delayed_rejections == 0)
        assert all(response.startswith(b"HTTP/1.1 503 ") for response in await asyncio.gather(*rejected))
        work.gate.set()
        assert (await first).startswith(b"HTTP/1.1 200 ")
        statuses = [line["status"] for line in await service.access_lines(PER_SECOND + 1)]
        assert (statuses.count(503), statuses.count(499), statuses.count(200)) == (PER_SECOND - 1, 1, 1)
