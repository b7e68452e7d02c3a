"""The guides to operations are followed to the letter, all in one service, and the result runs."""

import re
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from bakery import package_of, render, run
from checks import check
from collector import Collector
from conftest import Start
from guides import checked, follow
from running import Service

pytestmark = pytest.mark.long

PAGES = (
    *("background-work", "streaming", "logging", "metrics", "tracing", "graceful-shutdown", "calling-services"),
    *("workers", "commands", "operating"),
)
# With these, a service has the metrics of fault injection too.
FAULTS = {"APP_FAULT_INJECTION": "on", "APP_FAULT_INJECTION_NAMESPACE": "local", "APP_ADMIN_PORT": "0"}
# The tests of the database and of the events compare these.
OF_OPTIONAL_PARTS = ("auth_", "db_client_", "messaging_", "outbox_", "rpc_")


@pytest.fixture(scope="module")
def python(client_python: Path) -> Path:
    return client_python


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, python: Path) -> Path:
    """The default service with the code of all pages; its tools accept it."""
    project = render(tmp_path_factory.mktemp("guides"), {})
    for page in (*PAGES, "asgi-servers"):
        follow(project, f"{page}.md")
    (diff,) = re.findall(r"```diff\n(.*?)```", page_of(project, "logging"), re.DOTALL)
    removed, added = ("".join(re.findall(rf"^{sign}(.*\n)", diff, re.MULTILINE)) for sign in ("-", r"\+"))
    change(project, "app.py", removed, added)
    checked(project, python)
    return project


def page_of(project: Path, name: str) -> str:
    """The text of a guide."""
    return (project / f"chassis/docs/{name}.md").read_text()


def table(page: str, header: str) -> list[list[str]]:
    """The cells of the table that begins with this cell, row by row."""
    rows = page.partition(f"\n| {header} |")[2].split("\n\n", 1)[0].splitlines()[2:]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]


def names(cell: str) -> list[str]:
    """The names in backticks."""
    return re.findall("`([^`]+)`", cell)


def change(project: Path, name: str, before: str, after: str) -> None:
    """Replace a part of a module of the service, as its owner would."""
    path = project / "src" / package_of(project) / name
    text = path.read_text()
    assert text.count(before) == 1
    path.write_text(text.replace(before, after))


def test_tests_of_the_guides_pass(project: Path, python: Path) -> None:
    tests = [f"tests/test_{name}.py" for name in ("shout", "prices", "offers", "order_files")]
    check(project, python, ("pytest", "-q", "--no-cov", "-p", "no:cacheprovider", *tests))


def test_commands(project: Path, python: Path, tmp_path: Path) -> None:
    orders = tmp_path / "orders.jsonl"
    orders.write_text('{"customer": "Ada", "lines": [{"sku": "tea", "quantity": 2}], "total_cents": 900}\n')

    def command(*words: str, **variables: str) -> tuple[int, str]:
        done = run(python, "-m", package_of(project), *words, cwd=project, PYTHONPATH="src", **variables)
        return done.returncode, done.stdout

    status, out = command("import-orders", str(orders), "--dry-run", APP_LOG_FORMAT="json")
    assert (status, '"event":"orders read","count":1,"dry_run":true' in out) == (0, True)
    assert "Number of lines to skip. Default: 0." in command("import-orders", "--help")[1]
    assert "import-orders  Import orders from a file\n" in command("--help")[1]
    status, out = command("settings", "--changed", APP_PORT="9000")
    assert (status, out) == (0, example(project, "settings --changed"))
    status, out = command("check")
    assert (status, [line.split()[0] for line in out.splitlines()]) == (0, ["ok"] * out.count("\n"))
    rows = {"application", "resources", "check catalogue"}
    assert all(row in out and row in example(project, "check") for row in rows)


def example(project: Path, words: str) -> str:
    """The output of a command in the guide."""
    pattern = rf"\$ (?:APP_PORT=9000 )?python -m order_service {words}\n(.*?)```"
    (output,) = re.findall(pattern, page_of(project, "commands"), re.DOTALL)
    return str(output)


def test_factory_for_another_server_makes_the_app(project: Path, python: Path) -> None:
    code = f"from {package_of(project)}.asgi import asgi; print(asgi().name)"
    assert run(python, "-c", code, cwd=project, PYTHONPATH="src").stdout == "order-service\n"


def test_operators_of_a_running_service(project: Path, start: Start) -> None:
    service = start(project, APP_ADMIN_PORT="0").ready()
    admin = service.admin
    service.http.get("/nowhere")
    paths = re.findall(r"^\| `GET (/[a-z]+)`", page_of(project, "operating"), re.MULTILINE)
    assert {"/requests", "/logs", "/settings", "/routes", "/gc", "/dependencies"} <= set(paths)
    for path in paths:
        status = 404 if path == "/spans" else 200
        assert (admin.get(path).status_code, service.http.get(path).status_code) == (status, 404), path
    assert "/nowhere" in {request["path"] for request in admin.get("/requests?status=404").json()}
    assert admin.put("/loggers/root", json={"level": "DEBUG", "seconds": 300}).json()["level"] == "DEBUG"
    assert admin.put("/readiness", json={"ready": False, "reason": "a test"}).status_code == 200
    assert admin.get("/readyz").json()["status"] == "disabled"
    assert admin.delete("/readiness").status_code == 204
    assert admin.put("/price-list").json() == {"loads": 1}
    assert admin.post("/profile/heap?seconds=0.2").status_code == 200
    assert "asgi-chassis[profiling]" in admin.post("/profile/cpu?seconds=0.2").json()["detail"]
    assert admin.get("/price-list", headers={"host": "evil.example"}).status_code == 403
    assert service.event("operator changed the service", path="/price-list")["by"] == "127.0.0.1"
    assert service.end() == 0


def test_token_of_operators_of_a_running_service(project: Path, start: Start) -> None:
    token = "of-this-test-and-no-other"  # noqa: S105 - only here
    service = start(project, APP_ADMIN_PORT="0", APP_ADMIN_TOKEN=token).ready()
    admin = service.admin
    assert (admin.get("/readyz").status_code, admin.get("/settings").status_code) == (200, 401)
    settings = admin.get("/settings", headers={"authorization": f"Bearer {token}"})
    assert settings.status_code == 200
    assert token not in settings.text


def test_background_work(project: Path, start: Start) -> None:
    service = start(project).ready()

    response = service.http.post("/letters?to=Ada")
    assert response.status_code == 202
    assert service.event("letter sent", to="Ada")["request_id"] == response.headers["x-request-id"]

    checks = service.http.get("/readyz").json()["checks"]
    assert checks["periodic task count letters"]["status"] == "pass"
    assert checks["background task consumer"]["status"] == "pass"
    assert service.http.post("/outbox?to=Ada").status_code == 202
    sent = service.event("letters sent", count=1)
    done = service.event("periodic task done", task="send letters")
    assert sent["trace_id"] == done["trace_id"]
    assert service.metric("periodic_task_duration_seconds_count", task="send letters") == 1
    assert service.metric("periodic_task_failures_total", task="count letters") == 0

    for order in ("one", "two", "three"):
        assert service.http.post(f"/intake?order={order}").status_code == 202
    assert service.end() == 0
    service.output.all()
    assert [event["order"] for event in service.events() if event["event"] == "order processed"] == ["one"]


def test_streams_files_and_the_end_of_streams(project: Path, start: Start) -> None:
    (project / "reports").mkdir()
    service = start(project, APP_SHUTDOWN_SECONDS="600").ready()

    with service.http.stream("GET", "/squares?count=100000") as stream:
        lines = list(stream.iter_lines())
    assert (len(lines), lines[3]) == (100_000, '{"number":3,"square":9}')

    uploaded = b"size,count\n" + b"1,2\n" * 500_000
    assert service.http.put("/reports/2026", content=uploaded).status_code == 204
    response = service.http.get("/reports/2026", headers={"range": "bytes=0-3"})
    assert (response.status_code, response.text) == (206, "size")
    assert "filename*=UTF-8''Gr%C3%B6%C3%9Fen%202026.csv" in response.headers["content-disposition"]
    assert service.http.get("/reports/2026").content == uploaded
    known = {"if-none-match": response.headers["etag"]}
    assert service.http.get("/reports/2026", headers=known).status_code == 304
    assert [service.http.get(f"/reports/{name}").status_code for name in ("2027", "..%2Fsecret")] == [404, 404]
    assert [path.name for path in (project / "reports").iterdir()] == ["2026.csv"]

    last = {"last-event-id": "7"}
    with service.http.stream("GET", "/ticks", headers=last) as events, service.http.stream("GET", "/uptime") as uptime:
        lines_of_events, lines_of_uptime = events.iter_lines(), uptime.iter_lines()
        assert [next(lines_of_events) for _ in range(5)] == ["retry: 1000", "", "id: 8", 'data: {"number":8}', ""]
        assert next(lines_of_uptime) == "0 s"
        service.process.send_signal(signal.SIGTERM)
        assert len(list(lines_of_events)) + len(list(lines_of_uptime)) < 100
    assert service.process.wait(20) == 0
    assert [line for line in service.access_lines(9) if "shutdown" in line] == []


def test_log_lines_have_the_fields_of_the_guide(project: Path, start: Start) -> None:
    service = start(project).ready()

    assert service.http.post("/visits?page=home&user_id=7&tenant=acme").status_code == 204
    (line,) = service.access_lines(1, route="/visits")
    fields = table(page_of(project, "logging"), "field")
    always = {names(field)[0] for field, present, _ in fields if present == "always"}
    assert line.keys() == always | {"region", "tenant", "user_id"}
    assert service.event("page visited", page="home", tenant="acme")["request_id"] == line["request_id"]
    assert [event for event in service.events() if event["event"] == "visit noted"] == []

    assert service.http.put("/internal/log-level?level=debug").status_code == 204
    assert service.http.post("/visits?page=shop&user_id=7&tenant=acme").status_code == 204
    assert service.event("visit noted", page="shop")["region"] == "eu-west-1"


def test_metrics_are_those_of_the_guide(project: Path, start: Start, collector: Collector) -> None:
    tracing = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint, "OTEL_TRACES_SAMPLER": "always_on"}
    service = start(project, **tracing, **FAULTS).ready()

    assert service.http.post("/sales?kind=tea").status_code == 204
    assert service.http.post("/sales?kind=cocoa").status_code == 422
    assert service.metric("sold_total", kind="tea") == 1
    assert service.http.get("/offers/tea").status_code == 503
    assert service.http.post("/letters?to=Ada").status_code == 202
    assert service.http.post("/outbox?to=Ada").status_code == 202
    service.event("periodic task done")
    open_metrics = service.admin.get("/metrics", headers={"accept": "application/openmetrics-text; version=1.0.0"})
    assert re.search(r'sold_total\{kind="tea"\} 1\.0 # \{trace_id="[0-9a-f]{32}"\}', open_metrics.text)

    families = {
        family.name + "_total" * (family.type == "counter"): family
        for family in text_string_to_metric_families(service.admin.get("/metrics").text)
        if not family.name.endswith("_created")
    }
    documented: dict[str, tuple[str, set[str]]] = {}
    labels: set[str] = set()
    for metric, type_, cell, _ in table(page_of(project, "metrics"), "metric"):
        labels = labels if cell == "the same" else set(names(cell))
        if not names(metric)[0].startswith(OF_OPTIONAL_PARTS):
            documented |= dict.fromkeys(names(metric), (type_, labels))
    assert documented.keys() == families.keys() - {"sold_total"}
    for name, (type_, labels) in documented.items():
        exposed = families[name]
        assert (name, exposed.type) == (name, type_)
        for sample in exposed.samples:
            assert (name, sample.labels.keys() - {"le"}) == (name, labels)
    # The others have labels of their own only after a restart.
    unused = {name for name in documented if not families[name].samples}
    assert unused == {
        "background_tasks_restarted_total",
        "dependency_ejections_total",
        "http_server_rate_limited_requests_total",
    }


READ_VARIABLES = """
from chassis.telemetry.environment import Environment
from chassis.telemetry.tracing import Tracing

read = set()
text = Environment.text
Environment.text = lambda self, *names: (read.update(names), text(self, *names))[1]
Tracing("service", version="1")
print(*sorted(read))
"""


def test_tracing_variables_are_those_of_the_guide(project: Path, python: Path) -> None:
    chosen = {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_TRACES_SAMPLER": "traceidratio"}
    read = run(python, "-c", READ_VARIABLES, cwd=project, PYTHONPATH="src", **chosen).stdout.split()

    documented = {name for row in table(page_of(project, "tracing"), "variable") for name in names(row[0])}
    both = {name.replace("_OTLP_TRACES_", "_OTLP_") for name in read} | {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"}
    assert documented == both


MEGABYTE = b"x" * 1_000_000


class Upstream(BaseHTTPRequestHandler):
    """Counts what is sent to it, and sends as much."""

    left = threading.Semaphore(0)

    def do_POST(self) -> None:
        received = 0
        while size := int(self.rfile.readline(), 16):
            received += len(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        self._begin(received)
        for _ in range(received // len(MEGABYTE)):
            self.wfile.write(MEGABYTE)

    def do_GET(self) -> None:
        self._begin(10**12)
        try:
            while True:
                self.wfile.write(MEGABYTE)
        except OSError:
            self.left.release()

    def _begin(self, size: int) -> None:
        self.close_connection = True
        self.send_response(200)
        for name, value in self.headers.items():
            self.send_header(f"got-{name}", value)
        self.send_header("got-target", self.path)
        self.send_header("content-length", str(size))
        self.send_header("connection", "close, x-hop")
        self.send_header("x-hop", "1")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def upstream() -> Iterator[int]:
    """Another service, and its port."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Upstream) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


def most_resident_bytes(service: Service) -> int:
    """The most memory that the process has had."""
    status = Path(f"/proc/{service.process.pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def test_streaming_proxy(project: Path, start: Start) -> None:
    with upstream() as port:
        change(project, "app.py", "9000", str(port))
        service = start(project).ready()
        service.http.timeout = httpx.Timeout(60)

        hops = {"connection": "x-private", "x-private": "1", "te": "trailers", "x-mine": "1"}
        url = "/warehouse//a%20b//%25?q=%2F&r"
        parts = (MEGABYTE for _ in range(100))
        before = most_resident_bytes(service)
        with service.http.stream("POST", url, content=parts, headers=hops) as response:
            received = sum(len(part) for part in response.iter_raw())
        assert (response.status_code, received) == (200, 100 * len(MEGABYTE))
        assert most_resident_bytes(service) - before < 30_000_000
        # http.server makes one slash of those at the start.
        assert (response.headers["got-target"], response.headers["got-x-mine"]) == ("/a%20b//%25?q=%2F&r", "1")
        assert response.headers["got-host"] == f"127.0.0.1:{port}"
        assert response.headers["got-via"] == "1.1 orders"
        assert response.headers["x-request-id"] in response.headers["got-traceparent"]
        assert not {"got-te", "got-x-private", "x-hop"} & set(response.headers)

        for _ in range(20):
            with service.http.stream("GET", "/warehouse/endless") as response:
                next(response.iter_raw())
        assert all(Upstream.left.acquire(timeout=20) for _ in range(20))
    unreachable = service.http.get("/warehouse/gone")
    assert (unreachable.status_code, unreachable.headers["content-type"]) == (502, "application/problem+json")
    with socket.create_server(("127.0.0.1", port)):
        change(project, "warehouse.py", "timeout=30", "timeout=1")
        slow = start(project).ready()
        assert slow.http.get("/warehouse/slow", timeout=60).status_code == 504
