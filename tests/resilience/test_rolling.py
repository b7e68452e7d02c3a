"""Rolling restarts behind a balancer, under load: no request fails, none is reset, each has its line."""

import hashlib
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import datetime, timedelta
from pathlib import Path

import httpx
import pytest

from bakery import add_handler
from balancer import Balancer, server_name
from conftest import Bake, Start
from load import CONNECTIONS, Load, ask_slowly, clients
from running import PATIENCE_SECONDS, Event, Service, fixed_port, needs

pytestmark = pytest.mark.long

REQUESTS_PER_RESTART = 1_500
MARGIN_SECONDS = 0.6  # of a drain, after the load balancer's check is due
MOST_MARGIN_SECONDS = 2.0
SLOW_CLIENTS = 6
UPLOADING_CLIENTS = 3
CHUNK = b"0123456789abcdef" * 4_096
CHUNKS = 20  # 1.25 MiB

SLOW = '''"""What takes its time: an answer, and an upload."""

import asyncio
import hashlib

import structlog
from starlette.requests import Request

from chassis import Handler

log = structlog.get_logger()


class Slow(Handler):
    """GET answers late; POST reads whatever comes."""

    async def get(self, seconds: float = 1.5) -> str:
        """Answer late."""
        log.info("begun", method="GET")
        await asyncio.sleep(seconds)
        return "at last"

    async def post(self, request: Request) -> str:
        """Answer with the digest of the body."""
        log.info("begun", method="POST")
        digest = hashlib.sha256()
        async for chunk in request.stream():
            digest.update(chunk)
        return digest.hexdigest()
'''


@pytest.fixture
def slow(bake: Bake) -> Path:
    project = bake()
    add_handler(project, "slow", SLOW, "from .slow import Slow", 'app.add_route("/slow", Slow())')
    return project


def upload(client: httpx.Client) -> None:
    """1.25 MiB over about half a second; every other time without Content-Length."""
    digest = hashlib.sha256()

    def body() -> Iterator[bytes]:
        for _ in range(CHUNKS):
            digest.update(CHUNK)
            yield CHUNK
            time.sleep(0.025)

    length = {"content-length": str(len(CHUNK) * CHUNKS)} if random.random() < 0.5 else {}  # noqa: S311 - no secret
    answer = client.post("/slow", content=body(), headers=length)
    assert (answer.status_code, answer.json()) == (200, digest.hexdigest())


@pytest.mark.parametrize(
    ("restarts", "check_seconds"), [pytest.param(5, 0.2, id="noticed-soon"), pytest.param(2, 1.5, id="noticed-late")]
)
def test_rolling_restarts_lose_nothing(
    slow: Path, start: Start, tmp_path: Path, restarts: int, check_seconds: float
) -> None:
    needs("haproxy")
    needs("wrk")
    seed = int(os.environ.get("ROLLING_SEED") or random.randrange(2**32))  # noqa: S311 - no secret
    print(f"ROLLING_SEED={seed}")
    rng = random.Random(seed)  # noqa: S311 - no secret

    def start_on(port: int, margin_seconds: float) -> Service:
        drain_seconds = check_seconds + margin_seconds
        limits = {"APP_DRAIN_SECONDS": str(drain_seconds), "APP_MAX_BODY_BYTES": str(len(CHUNK) * CHUNKS)}
        return start(slow, APP_PORT=str(port), **limits).ready()

    ports = [fixed_port(rng) for _ in range(2)]
    began = time.monotonic()
    running = {ports[0]: start_on(ports[0], MOST_MARGIN_SECONDS)}
    # The slower the machine, the later a load balancer has the result of its check.
    margin_seconds = min(max(MARGIN_SECONDS, time.monotonic() - began), MOST_MARGIN_SECONDS)
    running[ports[1]] = start_on(ports[1], margin_seconds)
    ended: list[Service] = []
    requests = restarts * REQUESTS_PER_RESTART
    began = time.monotonic()

    with ExitStack() as stack:
        balancer = stack.enter_context(Balancer(tmp_path, ports, check_seconds=check_seconds))
        for port in ports:
            balancer.wait_for(port, "UP")
        stop_slow = stack.enter_context(clients(SLOW_CLIENTS, ask_slowly, balancer.url))
        stop_uploads = stack.enter_context(clients(UPLOADING_CLIENTS, upload, balancer.url))
        load = Load(tmp_path, f"{balancer.url}/orders")
        stack.callback(load.close)

        for number in range(restarts):
            port = ports[number % 2]
            running[port].event("begun", method="GET")
            time.sleep(rng.uniform(0, 0.4))  # a random moment
            assert running[port].end() == 0
            ended.append(running[port])
            balancer.wait_for(port, "DOWN")
            running[port] = start_on(port, margin_seconds)
            balancer.wait_for(port, "UP")
        restarted_seconds = time.monotonic() - began
        balancer.wait_for_answers(requests + 1_000)  # some of them are the others'
        counted = load.stop()
        asked_slowly, uploads = stop_slow(), stop_uploads()
        figures, handed = balancer.figures(), balancer.handed()

    assert [service.end(signal.SIGINT) for service in running.values()] == [0, 0]  # nobody asks any more: no drain
    events = [events_of(service) for service in (*ended, *running.values())]
    under_way = Counter(line["method"] for one in events for line in slow_ones_at_the_signal(one))
    connections = {name: figures["BACKEND"][name] for name in ("connect", "reuse")}
    print(f"restarts: {restarted_seconds:.1f} s, slow: {asked_slowly}, uploads: {uploads}, {connections}")
    print(f"under way at the signals: {under_way}")

    assert counted.pop("requests") >= requests
    assert not any(counted.values()), counted
    trouble = ("econ", "eresp", "wretr", "wredis", "srv_abrt", "hrsp_4xx", "hrsp_5xx")
    assert {name: figures["BACKEND"][name] for name in trouble} == dict.fromkeys(trouble, "0")
    assert all(int(figures[server_name(port)]["hrsp_2xx"]) for port in ports)

    # The connections to the services were kept alive, too.
    assert int(figures["BACKEND"]["reuse"]) > int(figures["BACKEND"]["connect"])

    # Compares the responses with the log.
    answered = {one.request_id: one.status for one in handed if one.end == "--"}
    abandoned = {one.request_id for one in handed if one.end.startswith("C")}
    assert set(answered.values()) == {200}
    assert sum(one.status == 200 for one in handed) == int(figures["BACKEND"]["hrsp_2xx"])
    assert len(answered) + len(abandoned) == len(handed)
    assert len(abandoned) <= CONNECTIONS
    logged = Counter(line["request_id"] for one in events for line in access_lines(one))
    assert set(logged.values()) == {1}
    assert answered.keys() - logged.keys() == set()
    assert logged.keys() - answered.keys() <= abandoned
    # The test's own proof: at the signals there was something to lose.
    assert under_way["GET"] >= restarts
    assert under_way["POST"] >= 1


def test_request_that_outlasts_the_shutdown_gets_503_through_the_load_balancer(
    slow: Path, start: Start, tmp_path: Path
) -> None:
    service = start(slow, APP_DRAIN_SECONDS="1", APP_SHUTDOWN_SECONDS="1", APP_MAX_BODY_BYTES=str(2**30)).ready()

    def body() -> Iterator[bytes]:
        while service.process.poll() is None:
            yield CHUNK
            time.sleep(0.025)

    with Balancer(tmp_path, [service.port], check_seconds=0.3) as balancer, ThreadPoolExecutor() as pool:
        address = f"{balancer.url}/slow"
        waiting = pool.submit(httpx.get, f"{address}?seconds=60", timeout=PATIENCE_SECONDS, trust_env=False)
        uploading = pool.submit(httpx.post, address, content=body(), timeout=PATIENCE_SECONDS, trust_env=False)
        service.wait("begun", 2, {})

        assert service.end() == 0

        for answer in (waiting.result(), uploading.result()):
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
            assert (answer.headers["content-type"], answer.json()["status"]) == ("application/problem+json", 503)
            # The service's response, not the load balancer's.
            assert service.event("request", request_id=answer.headers["x-request-id"])["status"] == 503
        assert [(one.status, one.server) for one in balancer.handed()] == [(503, server_name(service.port))] * 2


def events_of(service: Service) -> list[Event]:
    """Everything that it has logged, after its end."""
    service.output.all()
    assert service.errors.all() == []
    return service.events()


def access_lines(events: list[Event]) -> Iterator[Event]:
    """The lines of requests; those of health checks, which fail at the end, aside."""
    return (event for event in events if event["event"] == "request" and event["path"] != "/readyz")


def slow_ones_at_the_signal(events: list[Event]) -> Iterator[Event]:
    """The slow requests that had begun before the end did, and finished after."""
    (draining,) = (event for event in events if event["event"] == "draining")
    signalled = datetime.fromisoformat(draining["timestamp"])
    for line in access_lines(events):
        if line["path"] == "/slow":
            finished = datetime.fromisoformat(line["timestamp"])
            if finished - timedelta(milliseconds=line["duration_ms"]) < signalled < finished:
                yield line
