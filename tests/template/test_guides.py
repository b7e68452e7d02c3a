"""The guides are followed to the letter, and the result runs."""

import socket
from pathlib import Path

import pytest

from bakery import package_of
from checks import check
from conftest import Bake, Start
from guides import checked, follow

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
