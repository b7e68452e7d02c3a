"""Dependencies fail in every way; the service goes on, and reports it."""

import os
import resource
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from datetime import UTC, datetime, timedelta
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import httpx
import pytest

from bakery import add_handler
from conftest import Bake, Start
from running import PATIENCE_SECONDS, Service, needs

# The readiness check of this service does what a file says, and writes down when it begins and ends.
FLAKY = '''"""A dependency that behaves as a file says."""

import asyncio
import os
import time
from pathlib import Path

from chassis import Handler


class Flaky(Handler):
    """Blocks the event loop, as careless code does."""

    async def get(self, seconds: float) -> str:
        """Block."""
        time.sleep(seconds)  # noqa: ASYNC251
        return "done"


async def probe() -> None:
    """Answer, fail, or not."""
    folder = Path(os.environ["FLAKY"])
    with (folder / "runs").open("a") as runs:
        runs.write("begin\\\\n")
        runs.flush()
        try:
            match (folder / "mode").read_text():
                case "fails":
                    raise ConnectionError("no route to host")
                case "hangs":
                    await asyncio.Event().wait()
                case "ignores":
                    while (folder / "mode").read_text() == "ignores":
                        try:
                            await asyncio.sleep(0.05)
                        except asyncio.CancelledError:
                            continue
                case "slow":
                    await asyncio.sleep(0.3)
        finally:
            runs.write("end\\\\n")
'''.replace("\\\\", "\\")
PERIOD_SECONDS = 0.5
CHECK_SECONDS = 1.0  # the default timeout of a check


class Dependency:
    """The content of the file, and how often it was read."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._runs = folder / "runs"
        self._runs.touch()
        self.be("well")

    def be(self, mode: str) -> None:
        new = self.folder / "new"
        new.write_text(mode)
        new.replace(self.folder / "mode")

    @property
    def most_at_once(self) -> int:
        under_way = most = 0
        for line in self._runs.read_text().split():
            under_way += 1 if line == "begin" else -1
            most = max(most, under_way)
        return most


@pytest.fixture
def dependency(tmp_path: Path) -> Dependency:
    (tmp_path / "flaky").mkdir()
    return Dependency(tmp_path / "flaky")


@pytest.fixture
def flaky(bake: Bake, start: Start, dependency: Dependency) -> Service:
    project = bake()
    lines = 'app.add_route("/blocking", Flaky())\napp.add_check("flaky", probe)'
    add_handler(project, "flaky", FLAKY, "from .flaky import Flaky, probe", lines)
    return start(project, FLAKY=str(dependency.folder), APP_READINESS_CACHE_SECONDS=str(PERIOD_SECONDS)).ready()


@pytest.mark.parametrize(
    ("mode", "told"), [("fails", "fail"), ("hangs", "timeout"), ("ignores", "timeout"), ("slow", "pass")]
)
def test_readiness_is_right_within_a_period_whatever_a_check_does(
    flaky: Service, dependency: Dependency, mode: str, told: str
) -> None:
    def ask() -> tuple[int, str, float]:
        began = time.monotonic()
        answer = flaky.http.get("/readyz", timeout=PATIENCE_SECONDS)
        return answer.status_code, answer.json()["checks"]["flaky"]["status"], time.monotonic() - began

    def asked_until(status: str) -> float:
        """Ask as a kubelet does until the check has this status; returns the seconds it took."""
        began = time.monotonic()
        while True:
            code, said, seconds = ask()
            # Its own time: that of the check, and what a busy machine adds.
            assert seconds < CHECK_SECONDS + 2
            assert code == (200 if said == "pass" else 503)
            if said == status:
                return time.monotonic() - began
            assert time.monotonic() - began < PATIENCE_SECONDS

    assert ask()[:2] == (200, "pass")
    for _ in range(2):  # it flaps
        dependency.be(mode)
        assert asked_until(told) < PERIOD_SECONDS + CHECK_SECONDS + 2
        # Many at once don't start it many times, also when it still runs.
        with ThreadPoolExecutor(8) as pool:
            assert {code for code, *_ in pool.map(lambda _: ask(), range(16))} == {200 if told == "pass" else 503}
        assert flaky.http.get("/healthz").status_code == 200
        assert flaky.http.get("/orders").status_code == 200
        dependency.be("well")
        assert asked_until("pass") < PERIOD_SECONDS + CHECK_SECONDS + 2
    assert dependency.most_at_once == 1
    expected = [] if told == "pass" else [told, "pass"] * 2
    if expected:
        flaky.wait("check changed", len(expected), {})  # a line is written a moment after the response
    assert [event["status"] for event in flaky.events() if event["event"] == "check changed"] == expected


class Refusing(BaseHTTPRequestHandler):
    """Has no time for spans."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(503)
        self.send_header("retry-after", "1")
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def endpoint(kind: str) -> Iterator[int]:
    """The port of an OTLP endpoint that is of no use."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port: int = listening.getsockname()[1]
        if kind == "hangs":  # connections are taken by the system, and nobody reads
            yield port
            return
    if kind == "absent":
        yield port
        return
    with ThreadingHTTPServer(("127.0.0.1", port), Refusing) as server:
        thread = Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield port
        server.shutdown()


REQUESTS = 3000
QUEUE = 256
FLUSH_SECONDS = 5.0


@pytest.mark.parametrize("kind", ["absent", "hangs", "answers 503"])
def test_useless_span_endpoint_costs_spans_and_nothing_else(installed: Path, start: Start, kind: str) -> None:
    with endpoint(kind) as port:
        service = start(
            installed,
            OTEL_EXPORTER_OTLP_ENDPOINT=f"http://127.0.0.1:{port}",
            OTEL_EXPORTER_OTLP_TIMEOUT="2000",
            OTEL_TRACES_SAMPLER="always_on",
            OTEL_BSP_MAX_QUEUE_SIZE=str(QUEUE),
            OTEL_BSP_SCHEDULE_DELAY="100",
        ).ready()
        ask_often(service.port, REQUESTS // 3)
        memory = service.metric("process_resident_memory_bytes")
        ask_often(service.port, REQUESTS * 2 // 3)
        assert service.metric("process_resident_memory_bytes") - memory < 10_000_000
        assert service.metric("spans_dropped_total", reason="queue_full") > 0
        began = time.monotonic()
        assert service.end() == 0
        assert time.monotonic() - began < FLUSH_SECONDS + 3
        service.output.all()
        warned = [event["event"] for event in service.events() if event["level"] != "info"]
        # That it doesn't work, that spans are dropped, that the last ones weren't out in time: once each at most.
        assert 1 <= len(warned) <= 3, warned
        assert len({event.partition(":")[0] for event in warned}) == len(warned)


def ask_often(port: int, count: int) -> None:
    """Send requests on one connection; each is served. It takes a fifth of the CPU time of httpx."""
    with closing(HTTPConnection("127.0.0.1", port, timeout=PATIENCE_SECONDS)) as connection:
        for _ in range(count):
            connection.request("GET", "/orders")
            with connection.getresponse() as response:
                response.read()
                assert response.status == 200


def test_full_file_table_is_survived(installed: Path, start: Start) -> None:
    service = start(installed).ready()
    kept = service.http
    assert kept.get("/orders").status_code == 200
    used = len(os.listdir(f"/proc/{service.process.pid}/fd"))
    resource.prlimit(service.process.pid, resource.RLIMIT_NOFILE, (used + 10, used + 10))

    with ExitStack() as stack:
        for _ in range(40):
            stack.enter_context(socket.create_connection(("127.0.0.1", service.port)))
        stranger = stack.enter_context(httpx.Client(base_url=kept.base_url, trust_env=False))
        with pytest.raises(httpx.TransportError):
            ask_for_ever(stranger)
        # Connected clients are served, and the process uses no CPU in a busy loop.
        before = cpu_seconds(service)
        began = time.monotonic()
        while time.monotonic() - began < 1:
            assert kept.get("/orders").status_code == 200
            time.sleep(0.05)
        assert cpu_seconds(service) - before < 0.5

    until = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            assert httpx.get(f"{kept.base_url}/orders", trust_env=False).status_code == 200
            break
        except httpx.TransportError:
            assert time.monotonic() < until
    assert service.end() == 0
    service.output.all()
    assert len(service.events()) < 200
    assert [event for event in service.events() if event["level"] not in ("info", "warning")] == []


def ask_for_ever(client: httpx.Client) -> None:
    while True:
        client.get("/orders", headers={"connection": "close"})


def cpu_seconds(service: Service) -> float:
    fields = Path(f"/proc/{service.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_handler_that_blocks_the_loop_is_named(flaky: Service) -> None:
    answer = flaky.http.get("/blocking?seconds=1.2", timeout=PATIENCE_SECONDS)

    assert answer.status_code == 200
    warning = flaky.event("event loop is blocked")
    assert (warning["level"], warning["route"]) == ("warning", "/blocking")
    assert warning["request_id"] == answer.headers["x-request-id"]
    assert warning["at"][0].endswith("Flaky.get")
    until = time.monotonic() + PATIENCE_SECONDS
    while not flaky.metric("event_loop_lag_seconds_count") > flaky.metric("event_loop_lag_seconds_bucket", le="0.5"):
        assert time.monotonic() < until
    flaky.access_lines(1, route="/blocking")
    assert len([event for event in flaky.events() if event["event"] == "event loop is blocked"]) == 1


def test_jump_of_the_clock_has_no_effect(installed: Path, start: Start, tmp_path: Path) -> None:
    needs("faketime")
    (library,) = Path("/usr/lib").glob("*/faketime/libfaketime.so.1")
    clock = tmp_path / "clock"
    clock.write_text("+0")
    service = start(
        installed,
        LD_PRELOAD=str(library),
        FAKETIME_TIMESTAMP_FILE=str(clock),
        FAKETIME_NO_CACHE="1",
        FAKETIME_DONT_FAKE_MONOTONIC="1",  # a jump of the wall clock, as by NTP or an administrator
    ).ready()

    for offset_days in (0, 30, -30, 0):
        clock.write_text(f"{offset_days:+}d")
        answer = service.http.get("/orders", timeout=PATIENCE_SECONDS)
        assert answer.status_code == 200
        (line,) = service.access_lines(1, request_id=answer.headers["x-request-id"])
        assert 0 <= line["duration_ms"] < 5000
        off = datetime.fromisoformat(line["timestamp"]) - datetime.now(UTC)
        assert abs(off - timedelta(days=offset_days)) < timedelta(seconds=PATIENCE_SECONDS)
        check = service.http.get("/readyz").json()["checks"]["catalogue"]
        assert check["status"] == "pass"
        assert 0 <= check["age_seconds"] < 5
    total = service.metric("http_server_request_duration_seconds_sum", http_route="/orders")
    assert 0 < total < PATIENCE_SECONDS
    assert service.end() == 0
    assert [event["event"] for event in service.events() if event["level"] != "info"] == []
