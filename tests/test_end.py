"""The end: readiness first, then the door, then what is under way, then telemetry; status 0."""

import signal
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from bakery import add_handler, package_of
from collector import Collector
from conftest import Bake, Start
from running import Service

GATE = '''"""Requests that stay under way until they are let go."""

import asyncio

import structlog

from ..chassis import Handler

log = structlog.get_logger()


class Gate(Handler):
    """GET waits until POST opens."""

    def __init__(self) -> None:
        self._open = asyncio.Event()

    async def get(self, seconds: float = 60) -> dict[str, str]:
        """Wait until the gate is open, or so many seconds."""
        log.info("waiting")
        try:
            await asyncio.wait_for(self._open.wait(), seconds)
        except TimeoutError:
            return {"gate": "shut"}
        return {"gate": "open"}

    async def post(self) -> None:
        """Open the gate."""
        self._open.set()
'''

LAST = '''"""Requests that are answered when the door is closed already, and leave work behind."""

import asyncio

import structlog
from starlette.requests import Request

from ..chassis import Handler
from ..chassis.health import State

log = structlog.get_logger()


class Last(Handler):
    """GET waits for the end."""

    async def get(self, request: Request) -> str:
        """Answer after the end has begun."""
        log.info("waiting")
        while request.app.health.state is not State.DRAINING:
            await asyncio.sleep(0.005)
        await asyncio.sleep(0.3)
        request.app.tasks.start(self._work(), name="work")
        return "at last"

    async def _work(self) -> None:
        await asyncio.sleep(1)
        log.info("worked")
'''

SLOW_START = """
class SlowStart:
    async def __aenter__(self) -> None:
        import asyncio

        await asyncio.sleep(60)

    async def __aexit__(self, *_: object) -> None:
        pass
"""


@pytest.fixture
def gated(bake: Bake) -> Path:
    project = bake()
    add_handler(project, "gate", GATE, "from .handlers.gate import Gate", 'Route("/gate", Gate()),')
    return project


@pytest.fixture
def elsewhere() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor() as pool:
        yield pool


def under_way(service: Service, pool: ThreadPoolExecutor, address: str) -> "Future[httpx.Response]":
    """A request that the service is known to have begun."""
    answer = pool.submit(httpx.get, f"{service.http.base_url}{address}", timeout=30, trust_env=False)
    service.event("waiting")
    return answer


def test_sigterm_fails_readiness_at_once_and_serves_on_until_the_request_has_finished(
    gated: Path, start: Start, collector: Collector, elsewhere: ThreadPoolExecutor
) -> None:
    service = start(
        gated,
        APP_DRAIN_SECONDS="2",
        APP_READINESS_CACHE_SECONDS="60",
        OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint,
        OTEL_TRACES_SAMPLER="always_on",
    ).ready()
    assert service.http.get("/readyz").status_code == 200
    waiting = under_way(service, elsewhere, "/gate")

    service.process.send_signal(signal.SIGTERM)

    assert service.event("draining")["seconds"] == 2
    readiness = service.http.get("/readyz")
    assert (readiness.status_code, readiness.json()["status"]) == (503, "draining")
    assert service.http.get("/healthz").status_code == 200
    opened = service.http.post("/gate")
    assert (opened.status_code, opened.headers["connection"]) == (204, "close")
    answer = waiting.result()
    assert (answer.status_code, answer.json()) == (200, {"gate": "open"})
    assert answer.headers["connection"] == "close"
    assert service.process.wait(20) == 0
    assert {"GET /gate", "POST /gate"} <= {one.span.name for one in collector.spans(2)}
    assert service.errors.all() == []


def test_request_under_way_finishes_after_the_door_is_closed(
    gated: Path, start: Start, elsewhere: ThreadPoolExecutor
) -> None:
    service = start(gated).ready()
    waiting = under_way(service, elsewhere, "/gate?seconds=1")

    assert service.end() == 0

    assert waiting.result().json() == {"gate": "shut"}
    with pytest.raises(httpx.TransportError):
        service.http.get("/orders")
    events = [event["event"] for event in service.events()]
    assert events.index("request") < events.index("stopped")


def test_request_that_outlasts_the_shutdown_is_told_503(
    gated: Path, start: Start, elsewhere: ThreadPoolExecutor
) -> None:
    service = start(gated, APP_SHUTDOWN_SECONDS="1").ready()
    waiting = under_way(service, elsewhere, "/gate")

    assert service.end() == 0

    answer = waiting.result()
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert answer.headers["content-type"] == "application/problem+json"


def test_last_spans_metrics_and_lines_are_out(bake: Bake, start: Start, collector: Collector) -> None:
    project = bake()
    add_handler(project, "last", LAST, "from .handlers.last import Last", 'Route("/last", Last()),')
    service = start(
        project,
        APP_ADMIN_PORT="0",
        OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint,
        OTEL_TRACES_SAMPLER="always_on",
    ).ready()
    count, scraped = 30, 0.0

    with ThreadPoolExecutor(count) as pool:
        address = f"{service.http.base_url}/last"
        waiting = [pool.submit(httpx.get, address, timeout=30, trust_env=False) for _ in range(count)]
        service.wait("waiting", count, {})
        service.process.send_signal(signal.SIGTERM)
        with suppress(httpx.TransportError):  # until nobody is there to be asked
            while True:
                scraped = service.metric("http_server_request_duration_seconds_count", http_route="/last")
        answers = [one.result() for one in waiting]

    assert service.process.wait(20) == 0
    assert [one.status_code for one in answers] == [200] * count
    assert scraped == count
    service.output.all()
    events = service.events()
    assert [event["event"] for event in events].count("worked") == count
    lines = [event for event in events if event["event"] == "request"]
    assert sorted(one["request_id"] for one in lines) == sorted(one.headers["x-request-id"] for one in answers)
    traced = [one.trace_id for one in collector.now() if one.span.name == "GET /last"]
    assert sorted(traced) == sorted(one["trace_id"] for one in lines)
    assert service.errors.all() == []


def test_two_ports_end_in_order(gated: Path, start: Start, elsewhere: ThreadPoolExecutor) -> None:
    service = start(gated, APP_ADMIN_PORT="0", APP_DRAIN_SECONDS="2").ready()
    waiting = under_way(service, elsewhere, "/gate")

    service.process.send_signal(signal.SIGTERM)
    service.event("draining")

    assert service.admin.get("/readyz").status_code == 503
    assert service.admin.get("/metrics").status_code == 200
    assert service.http.post("/gate").status_code == 204
    assert waiting.result().status_code == 200
    assert service.process.wait(20) == 0


def test_sigint_skips_the_drain(start: Start, installed: Path) -> None:
    service = start(installed, APP_DRAIN_SECONDS="600").ready()

    assert service.end(signal.SIGINT) == 0

    assert service.event("draining")["seconds"] == 0
    assert service.event("stopped")
    assert service.errors.all() == []


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_second_signal_ends_at_once(start: Start, installed: Path, second: signal.Signals) -> None:
    service = start(installed, APP_DRAIN_SECONDS="600").ready()
    service.process.send_signal(signal.SIGTERM)
    service.event("draining")

    assert service.end(second) == 128 + second
    assert service.errors.all() == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_during_a_slow_start_ends_it(bake: Bake, start: Start, number: signal.Signals) -> None:
    project = bake()
    app = project / "src" / package_of(project) / "app.py"
    text = app.read_text()
    app.write_text(text.replace("resources=[],", "resources=[SlowStart()],") + SLOW_START)
    service = start(project, APP_DRAIN_SECONDS="600").listening()

    assert service.http.get("/healthz").status_code == 200
    readiness = service.http.get("/readyz")
    assert (readiness.status_code, readiness.json()["status"]) == (503, "starting")
    assert service.http.get("/orders").status_code == 503

    assert service.end(number) == 0
    assert service.event("stopped while starting")
    assert service.errors.all() == []


def test_sigterm_while_modules_are_imported_ends_it(bake: Bake, start: Start) -> None:
    project = bake()
    app = project / "src" / package_of(project) / "app.py"
    app.write_text('import time\n\nprint("importing", flush=True)\ntime.sleep(60)\n' + app.read_text())
    service = start(project)
    service.output.wait_for(lambda line: line == "importing")

    # Not by the signal's default, which a container's first process doesn't have.
    assert service.end() == 0
    assert service.errors.all() == []


def test_start_that_fails_is_logged_and_has_a_status(bake: Bake, start: Start) -> None:
    project = bake()
    app = project / "src" / package_of(project) / "app.py"
    failing = SLOW_START.replace("await asyncio.sleep(60)", 'raise OSError("no such database")')
    app.write_text(app.read_text().replace("resources=[],", "resources=[SlowStart()],") + failing)

    service = start(project)

    assert service.process.wait(20) == 1
    assert any("no such database" in line for line in service.output.all())
    assert service.errors.all() == []


def test_connection_that_is_kept_alive_does_not_hold_up_the_end(start: Start, installed: Path) -> None:
    service = start(installed, APP_SHUTDOWN_SECONDS="600").ready()
    assert service.http.get("/orders").status_code == 200

    assert service.end() == 0
