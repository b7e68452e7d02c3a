"""The guides are followed to the letter, all in one service, and the result runs."""

import json
import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from bakery import TEMPLATE, package_of, render, run
from checks import check
from conftest import Bake, Start
from guides import BLOCK, checked, follow, write_settings_page
from running import Service, running

pytestmark = pytest.mark.long

PAGES = (
    "handlers",
    "dependencies",
    "errors",
    "fault-injection",
    "middleware",
    "cors",
    "health-checks",
    "conditional-requests",
    "pagination",
    "idempotency",
    "overload",
    "testing",
)
SHOP = "https://shop.example"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, python: Path) -> Path:
    """The default service with the code of all pages; its tools accept it."""
    project = render(tmp_path_factory.mktemp("guides"), {})
    for page in PAGES:
        follow(project, f"{page}.md")
    follow(project, "configuration.md", "Add a setting")
    follow(project, "configuration.md", "Change settings while the service runs")
    follow(project, "rate-limits.md", "Limit a route")
    checked(project, python)
    return project


@pytest.fixture(scope="module")
def database(project: Path) -> Iterator[socket.socket]:
    """A port that the check of the guide finds open."""
    app = project / "src" / package_of(project) / "app.py"
    with socket.create_server(("127.0.0.1", 0)) as listening:
        app.write_text(app.read_text().replace("5432", str(listening.getsockname()[1])))
        yield listening


@pytest.fixture(scope="module")
def service(
    project: Path, database: socket.socket, python: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    """The service, for all tests that only send requests."""
    home = tmp_path_factory.mktemp("home")
    with running(python, project, home, APP_CORS_ORIGINS=SHOP) as process:
        yield process.ready()


def test_tests_of_the_guides_pass(project: Path, database: socket.socket, python: Path) -> None:
    tests = [f"tests/test_{name}.py" for name in ("inventory", "ledger", "small_store", "with_faults", "words")]
    check(project, python, ("python", "-m", "pytest", "-q", "--no-cov", *tests))


def test_every_guide_with_code_is_followed_by_a_test() -> None:
    tests = "".join(path.read_text() for path in Path(__file__).parent.glob("test_*.py"))
    pages = [path for path in (TEMPLATE / "chassis/docs").glob("*.md") if BLOCK.search(path.read_text())]

    assert [path.name for path in pages if f'"{path.stem}"' not in tests and f'"{path.name}"' not in tests] == []


def test_setting(project: Path, database: socket.socket, start: Start) -> None:
    assert start(project).ready().http.get("/greetings/Ada").json() == "Hello, Ada!"
    assert start(project, APP_GREETING="Hi").ready().http.get("/greetings/Ada").json() == "Hi, Ada!"
    assert start(project, APP_GREETING="Hello" * 9).process.wait(20) == 2


def test_setting_that_changes_while_the_service_runs(
    project: Path, database: socket.socket, start: Start, tmp_path: Path
) -> None:
    file = tmp_path / "app_farewell"
    file.write_text("Goodbye")
    process = start(project, APP_SECRETS_DIR=str(tmp_path))
    http = process.ready().http
    assert http.get("/farewells/Ada").json() == "Goodbye, Ada!"
    file.write_text("See you")
    deadline = time.monotonic() + 20
    while http.get("/farewells/Ada").json() != "See you, Ada!":
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_error_of_a_wrong_setting_is_that_of_the_guide(project: Path, python: Path) -> None:
    guide = (project / "chassis/docs/configuration.md").read_text()
    (line,) = re.findall(r"^error: .*$", guide, re.MULTILINE)

    done = run(python, "-m", package_of(project), cwd=project, PYTHONPATH="src", APP_PORT="none")
    assert line in done.stdout


def test_group_of_settings(bake: Bake, python: Path) -> None:
    service = bake(example="none")
    settings = service / "src/order_service/settings.py"
    blocks = BLOCK.findall((service / "chassis/docs/configuration.md").read_text())
    (block,) = (block for _, block in blocks if "class Database" in block)
    settings.write_text(f'"""Settings."""\n\nfrom chassis import ChassisSettings\n{block}')
    write_settings_page(service, python)

    check(service, python, ("ruff", "check", "src"), ("mypy", "src"))
    page = (service / "docs/settings.md").read_text()
    assert page.index("## This service") < page.index("| `APP_DATABASE__PORT` | `5432` |") < page.index("## Ports")


def test_parameters(service: Service) -> None:
    files = {"photo": ("cat.png", b"x" * 2_000_000, "image/png")}
    response = service.http.post("/photos", files=files, data={"title": "A cat"}, headers={"x-album": "cats"})
    assert (response.status_code, response.headers["location"]) == (201, "/photos/cats/cat.png")
    assert response.json() == {"name": "cat.png", "size_bytes": 2_000_000, "title": "A cat"}
    assert service.http.post("/photos", files=files, data={"title": "x" * 81}).status_code == 422


def test_inherited_handlers(service: Service) -> None:
    assert service.http.get("/hello/Ada").json() == "Hello Ada"
    assert service.http.get("/dear/Ada").json() == "Dear Dr. Ada"


def test_versions(service: Service) -> None:
    assert service.http.get("/v1/price").json() == 450
    assert service.http.get("/v2/price").json() == {"cents": 450, "currency": "EUR"}
    assert set(service.http.get("/v2/openapi.json").json()["paths"]) == {"/price"}
    assert {"/v1/price", "/v2/price"} <= set(service.http.get("/openapi.json").json()["paths"])


def test_dependencies(service: Service) -> None:
    assert service.http.post("/entries?text=one").status_code == 401
    ada = {"x-user": "ada"}
    assert service.http.post("/entries?text=one", headers=ada).json() == ["one"]
    assert service.event("committed", user="ada")["entries"] == ["one"]
    assert service.http.post("/entries?text=forbidden", headers=ada).status_code == 409
    assert service.event("rolled back")["user"] == "ada"


def test_errors(service: Service) -> None:
    sold_out, down = service.http.get("/stock/tea"), service.http.get("/stock/coffee")
    assert (sold_out.status_code, sold_out.json()["detail"]) == (409, "There is no tea left.")
    assert (down.status_code, down.headers["retry-after"]) == (503, "30")
    assert "10.1.2.3" not in down.text


def test_faults(project: Path, database: socket.socket, start: Start) -> None:
    guide = (project / "chassis/docs/fault-injection.md").read_text()
    variables = dict(re.findall(r"^(APP_FAULT_\w+)=(\w+)$", guide, re.MULTILINE))
    service = start(project, **variables, APP_ADMIN_PORT="0").ready()
    (shown,) = re.findall(r"--json '(.*)'", guide)
    rules = [json.loads(text) for text in (shown, *re.findall(r"```json\n(.*?)```", guide, re.DOTALL))]

    calls = [one for one in rules if "client" in one[0]]
    assert [service.admin.put("/faults", json=one).status_code for one in rules if one not in calls] == [200] * 3
    assert [service.admin.put("/faults", json=one).json()["detail"] for one in calls] == [
        "no client 'catalogue' takes faults; those that do: none."
    ]
    with pytest.raises(httpx.RemoteProtocolError):
        service.http.get("/greetings/Ada", headers={"x-tester": "ada"})
    assert service.event("request", fault="abort")["status"] == 499
    assert service.admin.delete("/faults").status_code == 204
    assert service.http.get("/greetings/Ada", headers={"x-tester": "ada"}).status_code == 200


def test_faults_are_not_accepted_in_another_namespace(project: Path, python: Path) -> None:
    guide = (project / "chassis/docs/fault-injection.md").read_text()
    (line,) = re.findall(r"^error: .*$", guide, re.MULTILINE)
    variables = {"APP_FAULT_INJECTION": "on", "APP_FAULT_INJECTION_NAMESPACE": "shop-staging", "APP_ADMIN_PORT": "0"}

    done = run(python, "-m", package_of(project), cwd=project, PYTHONPATH="src", POD_NAMESPACE="shop", **variables)
    assert line in done.stdout


def test_deadline_of_the_caller(service: Service) -> None:
    assert service.http.get("/forecasts").json() == "precise"
    assert service.http.get("/forecasts", headers={"x-request-timeout-ms": "400"}).json() == "rough"
    assert service.http.get("/forecasts", headers={"x-request-timeout-ms": "0"}).status_code == 504


def test_problem_document_is_that_of_the_guide(service: Service, project: Path) -> None:
    guide = (project / "chassis/docs/errors.md").read_text()
    shown = re.findall(r'^  "(\w+)": (.*?),?$', guide, re.MULTILINE)
    document = service.http.get("/stock/tea").json()

    assert [name for name, _ in shown] == list(document)
    assert document["title"] == dict(shown)["title"].strip('"')


def test_middleware(project: Path, service: Service, start: Start) -> None:
    body = {"text": "one"}
    assert service.http.put("/notice", json=body).status_code == 428
    read_only = start(project, APP_READ_ONLY="true").ready()
    response = read_only.http.put("/notice", json=body)
    assert (response.status_code, response.headers["retry-after"]) == (503, "60")
    assert read_only.http.get("/notice").status_code == 200


def test_cors(service: Service) -> None:
    for path, status in (("/openapi.json", 200), ("/none", 404)):
        response = service.http.get(path, headers={"origin": SHOP})
        assert (response.status_code, response.headers["access-control-allow-origin"]) == (status, SHOP)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 428),
        ({"sec-fetch-site": "same-origin"}, 428),
        ({"sec-fetch-site": "none"}, 428),
        ({"sec-fetch-site": "cross-site", "origin": SHOP}, 428),
        ({"sec-fetch-site": "cross-site", "origin": "https://evil.example"}, 403),
        ({"sec-fetch-site": "same-site"}, 403),
        ({"origin": "https://evil.example"}, 403),
        ({"origin": "null"}, 403),
    ],
)
def test_cross_site_requests(service: Service, headers: dict[str, str], status: int) -> None:
    assert service.http.put("/notice", json={"text": "one"}, headers=headers).status_code == status
    assert service.http.get("/notice", headers=headers).status_code == 200


def test_request_of_the_origin_itself(service: Service) -> None:
    own = {"origin": str(service.http.base_url).rstrip("/")}
    assert service.http.put("/notice", json={"text": "one"}, headers=own).status_code == 428


def test_rate_limits(project: Path, service: Service, start: Start) -> None:
    responses = [service.http.post("/quotes") for _ in range(3)]
    assert [response.status_code for response in responses] == [200, 200, 429]
    assert responses[0].headers["ratelimit-policy"] == '"quotes";q=2;w=60'
    assert service.http.get("/quotes").status_code == 200
    guide = (project / "chassis/docs/rate-limits.md").read_text()
    variables = dict(re.findall(r"^(APP_RATE_LIMIT_\w+)=(\w+)$", guide, re.MULTILINE))
    (shown,) = re.findall(r"^RateLimit-Policy: (.*)$", guide, re.MULTILINE)
    response = start(project, **variables).ready().http.get("/quotes")
    assert response.headers["ratelimit-policy"] == shown


def test_conditional_requests(service: Service) -> None:
    etag = service.http.get("/notice").headers["etag"]
    assert service.http.get("/notice", headers={"if-none-match": etag}).status_code == 304
    assert service.http.put("/notice", json={"text": "one"}).status_code == 428
    responses = [service.http.put("/notice", json={"text": "one"}, headers={"if-match": etag}) for _ in range(2)]
    assert [response.status_code for response in responses] == [200, 412]
    assert service.http.get("/notice", headers={"if-none-match": etag}).json() == {"text": "one"}


def test_pages(service: Service) -> None:
    first = service.http.get("/words?limit=2")
    second = service.http.get(first.url.join(first.links["next"]["url"]))
    assert (first.json(), second.json()) == (["cocoa", "coffee"], ["tea"])
    assert "next" not in second.links
    assert service.http.get("/words?cursor=x").status_code == 422


def test_idempotency_keys(service: Service) -> None:
    assert service.http.post("/payments", json={"cents": 5}).status_code == 400
    key = {"idempotency-key": '"8e03978e-40d5-43e8-bc93-6894a57f9324"'}
    responses = [service.http.post("/payments", json={"cents": 5}, headers=key) for _ in range(2)]
    assert [response.status_code for response in responses] == [201, 201]
    assert [response.headers.get("idempotency-replayed") for response in responses] == [None, "true"]
    assert service.http.post("/payments", json={"cents": 6}, headers=key).status_code == 422
    assert service.http.get("/payments").json() == [{"cents": 5}]


def test_check(project: Path, database: socket.socket, start: Start) -> None:
    service = start(project, APP_READINESS_CACHE_SECONDS="0").ready()
    assert service.http.get("/readyz").status_code == 200
    database.close()
    document = service.http.get("/readyz").json()

    assert (document["status"], document["checks"]["database"]["status"]) == ("failing", "fail")
    assert service.event("check changed", check="database")["status"] == "fail"
