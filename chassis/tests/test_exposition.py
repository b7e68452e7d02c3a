"""`/metrics` while it is made: in a thread, one page at a time, for clients that may leave."""

import asyncio
import gc
import gzip
import threading
from collections.abc import Iterable, Iterator

import pytest
from prometheus_client import CollectorRegistry, Counter
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from chassis.operations.platform_routes import accepts_gzip
from chassis.telemetry.exposition import Exposition

from .support.service import serve, until


class Slow(Collector):
    """A collector that waits until the test releases it."""

    def __init__(self) -> None:
        self.released = threading.Event()
        self.calls = 0
        self.running = 0
        self.most_running = 0
        self.value = 0.0
        self.error: BaseException | None = None

    def describe(self) -> Iterable[Metric]:
        return []

    def collect(self) -> Iterable[Metric]:
        self.calls += 1
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        value = self.value
        try:
            assert self.released.wait(20)
            if self.error is not None:
                raise self.error
        finally:
            self.running -= 1
        return [GaugeMetricFamily("slow", "Slow.", value)]


@pytest.fixture
def slow() -> Iterator[Slow]:
    collector = Slow()
    yield collector
    collector.released.set()


@pytest.fixture
def exposition(slow: Slow) -> Exposition:
    registry = CollectorRegistry()
    registry.register(slow)
    return Exposition(registry)


@pytest.mark.parametrize("accept", ["text/plain", "application/openmetrics-text; version=1.0.0"])
async def test_requests_are_served_while_metrics_are_encoded(slow: Slow, accept: str) -> None:
    async with serve() as service:
        service.app.registry.register(slow)
        scrape = asyncio.create_task(service.client.get("/metrics", headers={"accept": accept}))
        await until(lambda: slow.running)
        for _ in range(3):
            assert (await service.client.get("/docs")).status_code == 200
        assert not scrape.done()
        slow.released.set()
        response = await scrape
        assert (response.status_code, "\nslow 0.0\n" in response.text) == (200, True)


async def test_scrapes_at_the_same_time_make_one_page_at_a_time(slow: Slow, exposition: Exposition) -> None:
    first = asyncio.create_task(exposition.page("", compress=False))
    await until(lambda: slow.running)
    slow.value = 1.0
    others = [asyncio.create_task(exposition.page("", compress=False)) for _ in range(20)]
    other_format = asyncio.create_task(exposition.page("", compress=True))
    await asyncio.sleep(0.05)
    assert slow.calls == 1
    slow.released.set()
    assert b"slow 0.0" in (await first).content
    for other in others:  # each arrived after the change
        assert b"slow 1.0" in (await other).content
    assert b"slow 1.0" in gzip.decompress((await other_format).content)
    assert (slow.calls, slow.most_running) == (3, 1)


async def test_scraper_that_leaves_stops_nothing(slow: Slow, exposition: Exposition) -> None:
    first = asyncio.create_task(exposition.page("", compress=False))
    second = asyncio.create_task(exposition.page("", compress=False))
    await until(lambda: slow.running)
    third = asyncio.create_task(exposition.page("", compress=False))
    fourth = asyncio.create_task(exposition.page("", compress=False))
    await asyncio.sleep(0.01)
    for leaving in (first, third):
        leaving.cancel()
    slow.released.set()
    assert b"slow" in (await second).content
    assert b"slow" in (await fourth).content
    assert b"slow" in (await exposition.page("", compress=False)).content


@pytest.mark.parametrize("error", [LookupError("no"), StopIteration("no"), SystemExit("no")])
async def test_collector_that_fails_fails_its_page_alone(
    slow: Slow, exposition: Exposition, error: BaseException
) -> None:
    slow.error = error
    slow.released.set()
    with pytest.raises(type(error) if isinstance(error, LookupError) else RuntimeError):
        await exposition.page("", compress=False)
    slow.error = None
    assert b"slow" in (await exposition.page("", compress=False)).content
    assert gc.isenabled()


async def test_requests_that_end_meanwhile_do_not_disturb_the_page() -> None:
    async with serve() as service:
        counter = Counter("things", "Things.", ["thing"], registry=service.app.registry)
        for number in range(2_000):
            counter.labels(str(number)).inc()
        observe = service.app.telemetry.metrics.requests.observe
        scrapes = asyncio.gather(*(service.client.get("/metrics") for _ in range(3)))
        for number in range(2_000):
            observe(("GET", f"/{number}", 200, "http", None), 0.1, 0, 0, None, 0.0)
            if number % 20 == 0:
                await asyncio.sleep(0.001)
        assert [response.status_code for response in await scrapes] == [200, 200, 200]


@pytest.mark.parametrize(
    ("field", "accepted"),
    [
        ("gzip", True),
        ("deflate, GZIP;q=0.5", True),
        ("gzip; q=1", True),
        ("gzip;q=0", False),
        ("gzip;q=0.000", False),
        ("identity", False),
        ("", False),
    ],
)
async def test_page_is_compressed_for_clients_that_accept_it(field: str, accepted: bool) -> None:
    assert accepts_gzip(field) is accepted
    async with serve() as service:
        response = await service.client.get("/metrics", headers={"accept-encoding": field})
        assert ("content-encoding" in response.headers) is accepted
        assert response.headers["vary"] == "Accept, Accept-Encoding"
        assert "build_info" in response.text
