"""The guides are followed to the letter, and the result runs."""

import signal
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from bakery import package_of
from checks import check
from conftest import Bake, Start
from guides import checked, follow
from running import Service

pytestmark = pytest.mark.long


@pytest.fixture
def project(bake: Bake) -> Path:
    """The default service."""
    return bake()


def test_setting(project: Path, python: Path, start: Start) -> None:
    follow(project, "configuration.md", "A setting")
    checked(project, python)

    assert start(project).ready().http.get("/greetings/Ada").json() == "Hello, Ada!"
    assert start(project, APP_GREETING="Hi").ready().http.get("/greetings/Ada").json() == "Hi, Ada!"
    broken = start(project, APP_GREETING="Hello" * 9)
    assert broken.process.wait(20) != 0


def test_parameters(project: Path, python: Path, start: Start) -> None:
    follow(project, "handlers.md", "What a method may ask for")
    checked(project, python)
    service = start(project).ready()

    files = {"photo": ("cat.png", b"x" * 2_000_000, "image/png")}
    answer = service.http.post("/photos", files=files, data={"title": "A cat"}, headers={"x-album": "cats"})
    assert (answer.status_code, answer.headers["location"]) == (201, "/photos/cats/cat.png")
    assert answer.json() == {"name": "cat.png", "size_bytes": 2_000_000, "title": "A cat"}
    assert service.http.post("/photos", files=files, data={"title": "x" * 81}).status_code == 422


def test_dependencies(project: Path, python: Path, start: Start) -> None:
    follow(project, "dependencies.md")
    checked(project, python)
    service = start(project).ready()

    assert service.http.post("/entries?text=one").status_code == 401
    ada = {"x-user": "ada"}
    assert service.http.post("/entries?text=one", headers=ada).json() == ["one"]
    assert service.event("committed", user="ada")["entries"] == ["one"]
    assert service.http.post("/entries?text=forbidden", headers=ada).status_code == 409
    assert service.event("rolled back")["user"] == "ada"


def test_errors(project: Path, python: Path, start: Start) -> None:
    follow(project, "errors.md")
    checked(project, python)
    service = start(project).ready()

    sold_out, down = service.http.get("/stock/tea"), service.http.get("/stock/coffee")
    assert (sold_out.status_code, sold_out.json()["detail"]) == (409, "There is no tea left.")
    assert (down.status_code, down.headers["retry-after"]) == (503, "30")
    assert "10.1.2.3" not in down.text


def test_versions(project: Path, python: Path, start: Start) -> None:
    follow(project, "handlers.md", "Versions of an API")
    checked(project, python)
    service = start(project).ready()

    assert service.http.get("/v1/price").json() == 450
    assert service.http.get("/v2/price").json() == {"cents": 450, "currency": "EUR"}
    assert set(service.http.get("/v2/openapi.json").json()["paths"]) == {"/price"}
    assert {"/v1/price", "/v2/price"} <= set(service.http.get("/openapi.json").json()["paths"])


def test_check(project: Path, python: Path, start: Start) -> None:
    follow(project, "health-checks.md", "A check")
    checked(project, python)
    app = project / "src" / package_of(project) / "app.py"
    with socket.create_server(("127.0.0.1", 0)) as database:
        app.write_text(app.read_text().replace("5432", str(database.getsockname()[1])))
        service = start(project, APP_READINESS_CACHE_SECONDS="0").ready()
        assert service.http.get("/readyz").status_code == 200
    answer = service.http.get("/readyz")

    assert (answer.status_code, answer.json()["checks"]["database"]["status"]) == (503, "fail")


def test_cors(project: Path, python: Path, start: Start) -> None:
    follow(project, "middleware.md", "CORS")
    checked(project, python)
    service = start(project).ready()

    for path, status in (("/openapi.json", 200), ("/none", 404)):
        answer = service.http.get(path, headers={"origin": "https://shop.example"})
        assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (status, "https://shop.example")


def test_middleware(project: Path, python: Path, start: Start) -> None:
    follow(project, "middleware.md", "A middleware")
    checked(project, python)
    service = start(project).ready()

    answer = service.http.get("/internal/openapi.json")
    assert (answer.status_code, answer.json()["detail"]) == (401, "Send the key as X-API-Key.")
    assert service.http.get("/internal/openapi.json", headers={"x-api-key": "open sesame"}).status_code == 200
    assert service.http.get("/openapi.json").status_code == 200
    assert [line["status"] for line in service.access_lines(3)] == [401, 200, 200]


def test_test(project: Path, python: Path) -> None:
    follow(project, "testing.md", "A test")
    checked(project, python)
    check(project, python, ("python", "-m", "pytest", "-q", "--no-cov", "tests/test_stock.py"))


def test_metric(project: Path, python: Path, start: Start) -> None:
    follow(project, "metrics.md", "A metric")
    checked(project, python)
    service = start(project).ready()

    assert service.http.post("/sales?kind=tea").status_code == 204
    assert service.http.post("/sales?kind=cocoa").status_code == 422
    assert service.metric("sold_total", kind="tea") == 1


def test_background_task(project: Path, python: Path, start: Start) -> None:
    follow(project, "background-work.md", "A background task")
    checked(project, python)
    service = start(project).ready()

    answer = service.http.post("/letters?to=Ada")
    assert answer.status_code == 202
    sent = service.event("letter sent", to="Ada")
    assert sent["request_id"] == answer.headers["x-request-id"]


def test_server_sent_events(project: Path, python: Path, start: Start) -> None:
    follow(project, "streaming.md", "Server-sent events")
    checked(project, python)
    service = start(project, APP_SHUTDOWN_SECONDS="600").ready()

    with service.http.stream("GET", "/ticks", headers={"last-event-id": "7"}) as stream:
        lines = stream.iter_lines()
        assert [next(lines) for _ in range(5)] == ["retry: 1000", "", "id: 8", 'data: {"number":8}', ""]
        service.process.send_signal(signal.SIGTERM)
        assert "id: 600" not in list(lines)
    assert service.process.wait(20) == 0
    assert "shutdown" not in service.access_lines(1)[0]


def test_json_lines(project: Path, python: Path, start: Start) -> None:
    follow(project, "streaming.md", "JSON lines")
    checked(project, python)
    service = start(project).ready()

    with service.http.stream("GET", "/squares?count=100000") as stream:
        lines = list(stream.iter_lines())
    assert (len(lines), lines[3]) == (100_000, '{"number":3,"square":9}')


def test_downloads(project: Path, python: Path, start: Start) -> None:
    follow(project, "streaming.md", "Downloads")
    checked(project, python)
    (project / "reports").mkdir()
    (project / "reports/2026.csv").write_text("size,count\n1,2\n")
    service = start(project).ready()

    answer = service.http.get("/reports/2026", headers={"range": "bytes=0-3"})
    assert (answer.status_code, answer.text) == (206, "size")
    assert "filename*=UTF-8''Gr%C3%B6%C3%9Fen%202026.csv" in answer.headers["content-disposition"]
    known = {"if-none-match": answer.headers["etag"]}
    assert service.http.get("/reports/2026", headers=known).status_code == 304
    assert service.http.get("/reports/2027").status_code == 404
    assert service.http.get("/reports/..%2Fsecret").status_code == 404


def test_conditional_requests(project: Path, python: Path, start: Start) -> None:
    follow(project, "conditional-requests.md")
    checked(project, python)
    service = start(project).ready()

    etag = service.http.get("/notice").headers["etag"]
    assert service.http.get("/notice", headers={"if-none-match": etag}).status_code == 304
    assert service.http.put("/notice", json={"text": "one"}).status_code == 428
    statuses = [service.http.put("/notice", json={"text": "one"}, headers={"if-match": etag}) for _ in range(2)]
    assert [answer.status_code for answer in statuses] == [200, 412]
    assert service.http.get("/notice", headers={"if-none-match": etag}).json() == {"text": "one"}


def test_pages(project: Path, python: Path, start: Start) -> None:
    follow(project, "pagination.md", "Pages")
    checked(project, python)
    service = start(project).ready()

    first = service.http.get("/words?limit=2")
    second = service.http.get(first.url.join(first.links["next"]["url"]))
    assert (first.json(), second.json()) == (["cocoa", "coffee"], ["tea"])
    assert "next" not in second.links
    assert service.http.get("/words?cursor=x").status_code == 422


MEGABYTE = b"x" * 1_000_000


class Upstream(BaseHTTPRequestHandler):
    """Counts what is sent to it, and sends as much."""

    left = threading.Event()

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
            self.left.set()

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


def most_resident_bytes(service: Service) -> int:
    """The most memory that the process has had."""
    status = Path(f"/proc/{service.process.pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def test_streaming_proxy(project: Path, python: Path, start: Start) -> None:
    follow(project, "streaming.md", "A streaming proxy")
    checked(project, python)
    app = project / "src" / package_of(project) / "app.py"
    with ThreadingHTTPServer(("127.0.0.1", 0), Upstream) as upstream:
        threading.Thread(target=upstream.serve_forever, daemon=True).start()
        app.write_text(app.read_text().replace("9000", str(upstream.server_port)))
        service = start(project).ready()
        service.http.timeout = 60

        hops = {"connection": "x-private", "x-private": "1", "te": "trailers", "x-mine": "1"}
        url = "/warehouse//a%20b//%25?q=%2F&r"
        parts = (MEGABYTE for _ in range(100))
        before = most_resident_bytes(service)
        with service.http.stream("POST", url, content=parts, headers=hops) as answer:
            received = sum(len(part) for part in answer.iter_raw())
        assert (answer.status_code, received) == (200, 100 * len(MEGABYTE))
        assert most_resident_bytes(service) - before < 30_000_000
        # http.server makes one slash of those at the start.
        assert (answer.headers["got-target"], answer.headers["got-x-mine"]) == ("/a%20b//%25?q=%2F&r", "1")
        assert answer.headers["got-host"] == f"127.0.0.1:{upstream.server_port}"
        assert answer.headers["got-via"] == "1.1 orders"
        assert answer.headers["x-request-id"] in answer.headers["got-traceparent"]
        assert not {"got-te", "got-x-private", "x-hop"} & set(answer.headers)

        with service.http.stream("GET", "/warehouse/endless") as answer:
            next(answer.iter_raw())
        assert Upstream.left.wait(20)
        upstream.shutdown()
    refused = service.http.get("/warehouse/gone")
    assert (refused.status_code, refused.headers["content-type"]) == (502, "application/problem+json")
    with socket.create_server(("127.0.0.1", upstream.server_port)):
        warehouse = app.with_name("warehouse.py")
        warehouse.write_text(warehouse.read_text().replace("timeout=30", "timeout=1"))
        slow = start(project).ready()
        assert slow.http.get("/warehouse/slow", timeout=60).status_code == 504


def test_consumer_of_a_queue(project: Path, python: Path, start: Start) -> None:
    follow(project, "background-work.md", "A consumer of a queue")
    checked(project, python)
    service = start(project).ready()

    assert service.http.get("/readyz").json()["checks"]["background task consumer"]["status"] == "pass"
    for order in ("one", "two", "three"):
        assert service.http.post(f"/intake?order={order}").status_code == 202
    service.process.send_signal(signal.SIGTERM)
    assert service.process.wait(20) == 0
    service.output.all()
    assert [event["order"] for event in service.events() if event["event"] == "order processed"] == ["one"]


def test_periodic_work(project: Path, python: Path, start: Start) -> None:
    follow(project, "background-work.md", "Periodic work")
    checked(project, python)
    service = start(project).ready()

    assert service.http.get("/readyz").json()["checks"]["periodic task count letters"]["status"] == "pass"
    assert service.http.post("/outbox?to=Ada").status_code == 202
    sent = service.event("letters sent", count=1)
    done = service.event("periodic task done", task="send letters")
    assert sent["trace_id"] == done["trace_id"]
    assert service.metric("periodic_task_duration_seconds_count", task="send letters") == 1
    assert service.metric("periodic_task_failures_total", task="count letters") == 0
    service.process.send_signal(signal.SIGTERM)
    assert service.process.wait(20) == 0


def test_idempotency_keys(project: Path, python: Path, start: Start) -> None:
    follow(project, "idempotency.md")
    checked(project, python)
    service = start(project).ready()

    assert service.http.post("/payments", json={"cents": 5}).status_code == 400
    key = {"idempotency-key": '"8e03978e-40d5-43e8-bc93-6894a57f9324"'}
    answers = [service.http.post("/payments", json={"cents": 5}, headers=key) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [201, 201]
    assert [answer.headers.get("idempotency-replayed") for answer in answers] == [None, "true"]
    assert service.http.post("/payments", json={"cents": 6}, headers=key).status_code == 422
    assert service.http.get("/payments").json() == [{"cents": 5}]
