"""The end of the process: nothing that was observed is lost, and a signal is obeyed from the first import on."""

import signal
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import httpx

from bakery import add_handler, extend_app, package_of
from collector import Collector
from conftest import Bake, Start

LAST = '''"""Requests that are answered when the door is closed already, and leave work behind."""

import asyncio

import structlog
from starlette.requests import Request

from chassis import Handler
from chassis.health import State

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

SLOW_START = '''"""A resource that takes its time."""

import asyncio


class SlowStart:
    """Is not there for a minute."""

    async def __aenter__(self) -> None:
        await asyncio.sleep(60)

    async def __aexit__(self, *_: object) -> None:
        pass
'''


def test_last_spans_metrics_and_lines_are_out(bake: Bake, start: Start, collector: Collector) -> None:
    project = bake()
    add_handler(project, "last", LAST, "from .last import Last", 'app.add_route("/last", Last())')
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


def test_sigint_during_a_slow_start_ends_it(bake: Bake, start: Start) -> None:
    project = bake()
    (project / "src/order_service/slow_start.py").write_text(SLOW_START)
    extend_app(project, "from .slow_start import SlowStart\napp.add_resource(SlowStart())")
    service = start(project, APP_DRAIN_SECONDS="600").listening()

    assert service.end(signal.SIGINT) == 0
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
