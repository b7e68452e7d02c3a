"""The guides for migrating from another framework are followed to the letter, and the result runs."""

import re
import shutil
import warnings
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import connect as websocket_connect

import spellings_fastapi
from bakery import TEMPLATE, TOOLS, extend_app, package_of, run
from chassis import App, ChassisSettings
from chassis.testing import connect, serve
from collector import Collector
from conftest import Bake, Start
from guides import checked, follow
from running import Service
from spellings_chassis import create_app
from spellings_fastapi import SENT, STATES, User, get_user

with warnings.catch_warnings():  # it asks for another client than the one of everybody
    warnings.simplefilter("ignore")
    from fastapi.testclient import TestClient

pytestmark = pytest.mark.long

FASTAPI, HTTP_SERVER = "migrating-from-fastapi.md", "migrating-from-http-server.md"


@pytest.fixture
def project(bake: Bake) -> Path:
    """The default service."""
    return bake()


def test_handlers_of_http_server(project: Path, python: Path, start: Start) -> None:
    for section in ("Run the classes as they are", "Turn a method into a request handler"):
        follow(project, HTTP_SERVER, section)
    checked(project, python)
    service = start(project).ready()

    assert service.http.get("/legacy/Ada", headers={"x-language": "fr"}).text == "Hello, Ada!\n"
    assert service.access_lines(1)[0]["route"] == "/legacy/{path}"
    assert service.event("http.server handler")["message"] == "greeting in fr"
    assert service.http.put("/legacy/Ada").status_code == 501

    assert service.http.get("/greetings/Ada", headers={"x-language": "de"}).text == "Hello, Ada!\n"
    assert service.event("greeting")["language"] == "de"
    assert service.http.post("/legacy/", json=[1, 2]).json() == service.http.post("/sum", json=[1, 2]).json() == 3
    for path in ("/legacy/nobody", "/greetings/nobody"):
        assert service.http.get(path).status_code == 404


def test_spellings_of_http_server_are_those_that_ran() -> None:
    page = (TEMPLATE / "chassis/docs" / HTTP_SERVER).read_text()
    code, _, table = page.partition("## Both spellings")
    for theirs, _ours in re.findall(r"^\| \w[\w ]* \| (.*) \| (.*) \|$", table, re.MULTILINE)[1:-1]:
        for snippet in re.findall(r"`([^`]+)`", theirs):
            assert snippet.partition("…")[0] in code, snippet


def requests_of_the_guide(service: Service) -> list[tuple[int, object]]:
    """The responses to the same requests, from the old and the new code: status, and content or error."""
    http, editor = service.http, {"x-user": "ada"}
    number = len(http.get("/books", params={"limit": 100}).json())
    results: list[tuple[int, object]] = []
    made = http.post("/books", json={"title": "Emma", "pages": 474}, headers=editor)
    book = made.json()
    results.append((made.status_code, (book["title"], made.headers["location"] == f"/books/{number + 1}")))
    read = http.get(f"/books/{number + 1}")
    results.append((read.status_code, read.json() == book))
    missing = (http.post("/books", json={"title": "Emma", "pages": 1}), http.get("/books/999"))
    results += [(response.status_code, response.json()["detail"]) for response in missing]
    invalid = (
        http.post("/books", json={"title": ""}, headers=editor),
        http.get("/books/first"),
        http.get("/books?limit=0"),
    )
    results += [(response.status_code, "") for response in invalid]
    return results


def test_fastapi_application_moves_path_by_path(project: Path, python: Path, start: Start, frameworks: Path) -> None:
    app, legacy = (project / "src" / package_of(project) / name for name in ("app.py", "legacy.py"))
    mount = '    app.mount("/", legacy, lifespan=True)\n'

    def run_it() -> tuple[list[tuple[int, object]], Service]:
        service = start(project, PYTHONPATH=f"src:{frameworks}").ready()
        return requests_of_the_guide(service), service

    follow(project, FASTAPI, "Mount the application")
    before, service = run_it()
    assert before[0] == (201, ("Emma", True))
    assert [status for status, _ in before] == [201, 200, 401, 404, 422, 422, 422]
    assert service.access_lines(1, route="/books/{number}", status=200)

    follow(project, FASTAPI, "Move one path")
    text = app.read_text().replace(mount, "")
    app.write_text(text.replace("    return app\n", f"{mount}    return app\n"))
    moved, service = run_it()
    assert moved == before
    assert service.http.get("/books/999").headers["content-type"] == "application/problem+json"
    assert service.http.get("/openapi.json").json()["info"]["title"] == "FastAPI"

    follow(project, FASTAPI, "Move the rest")
    legacy.unlink()
    app.write_text(app.read_text().replace(mount, "").replace("from .legacy import legacy\n", ""))
    checked(project, python)
    after, service = run_it()
    assert after == before
    assert "/books/{number}" in service.http.get("/openapi.json").json()["paths"]


JSON_LIST: dict[str, Any] = {"json": [1, 2]}
REQUESTS: list[tuple[str, str, dict[str, Any]]] = [
    ("GET", "/books/7", {}),
    ("GET", "/books/x", {}),
    ("POST", "/books", {"json": {"title": "Emma"}}),
    ("POST", "/books", {"json": {"title": "Emma", "pages": 0}}),
    ("DELETE", "/books/7", {}),
    ("GET", "/query", {}),
    ("GET", "/query?q=a&limit=3&page-size=2&tags=b&tags=c", {}),
    ("GET", "/query?q=a&limit=0", {}),
    ("GET", "/filters?author=Austen&year=1815", {}),
    ("GET", "/header", {"headers": {"x-token": "t", "cookie": "session=s"}}),
    ("GET", "/header", {}),
    ("POST", "/form", {"data": {"name": "n"}, "files": {"photo": ("p.png", b"123")}}),
    ("POST", "/raw", {"content": b"12345"}),
    ("POST", "/numbers", JSON_LIST),
    ("GET", "/me", {"headers": {"x-user": "ada"}}),
    ("GET", "/me", {}),
    ("GET", "/sold-out", {}),
    ("GET", "/missing", {}),
    ("GET", "/text", {}),
    ("GET", "/stream", {}),
    ("GET", "/sync", {}),
    ("GET", "/v2/price", {}),
]


def comparable(response: httpx.Response) -> tuple[int, object, str | None, str | None]:
    """The part that must be equal: of an error its status, and its text if it has one."""
    content: object = response.content
    if response.is_error:
        detail = response.json()["detail"]
        content = detail if response.status_code != 422 else None
    elif content and response.headers.get("content-type") == "application/json":
        content = response.json()
    return response.status_code, content, response.headers.get("location"), response.headers.get("content-encoding")


async def test_both_spellings_give_the_same_responses() -> None:
    del STATES[:], SENT[:]
    service = create_app(ChassisSettings.from_values())
    with TestClient(spellings_fastapi.app) as theirs:
        async with connect(service) as ours:
            for method, path, options in REQUESTS:
                expected = comparable(theirs.request(method, path, **options))
                assert comparable(await ours.request(method, path, **options)) == expected, (method, path)
            with theirs.websocket_connect("/echo") as websocket:
                websocket.send_text("hello")
                assert websocket.receive_text() == "hello"
    async with (
        serve(create_app(ChassisSettings.from_values())) as client,
        websocket_connect(f"ws://127.0.0.1:{client.base_url.port}/echo") as socket,
    ):
        await socket.send("hello")
        assert await socket.recv() == "hello"
    assert SENT == ["Emma", "Emma"]
    assert STATES.count("open") == STATES.count("closed") == 3
    tags = [document["paths"]["/missing"]["get"]["tags"] for document in documents(service)]
    assert tags == [["books"], ["books"]]


def documents(service: App) -> list[dict[str, Any]]:
    """The OpenAPI documents of both."""
    return [spellings_fastapi.app.openapi(), service.openapi]


async def test_both_ways_to_replace_a_dependency_in_a_test() -> None:
    theirs = spellings_fastapi.app
    theirs.dependency_overrides[get_user] = lambda: User("test")
    assert TestClient(theirs).get("/me").json() == "test"
    theirs.dependency_overrides.clear()
    app = create_app(ChassisSettings.from_values())
    app.override(User, lambda: User("test"))
    async with connect(app) as client:
        assert (await client.get("/me")).json() == "test"


def test_spellings_of_the_guide_are_those_that_ran() -> None:
    page = (
        (TEMPLATE / "chassis/docs" / FASTAPI)
        .read_text()
        .partition("## Both spellings")[2]
        .partition("\n\nThese work")[0]
    )
    tests = Path(__file__).read_text()
    code = [
        (TEMPLATE / "tests/support" / f"spellings_{name}.py").read_text() + tests for name in ("fastapi", "chassis")
    ]
    rows = re.findall(r"^\| \w[\w ,]* \| (.*) \| (.*) \|$", page, re.MULTILINE)
    assert len(rows) > 25
    for row in rows:
        for cell, text in zip(row, code, strict=True):
            for snippet in re.findall(r"`([^`]+)`", cell):
                assert all(part.strip(")") in text for part in snippet.split("…")), snippet


OTHERS = {
    "fastapi": '''"""What was there before."""

from fastapi import FastAPI

legacy = FastAPI()


@legacy.get("/things/{thing}")
async def read_thing(thing: int) -> dict[str, int]:
    """Read a thing."""
    return {"thing": thing}
''',
    "starlette": '''"""What was there before."""

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route


async def read_thing(request: Request) -> JSONResponse:
    """Read a thing."""
    return JSONResponse({"thing": int(request.path_params["thing"])})


legacy = Starlette(routes=[Route("/things/{thing}", read_thing)])
''',
    "litestar": '''"""What was there before."""

from typing import Any

from litestar import Litestar, Request, get


@get("/things/{thing:int}")
async def read_thing(request: Request[Any, Any, Any]) -> dict[str, int]:
    """Read a thing."""
    return {"thing": request.path_params["thing"]}


legacy = Litestar([read_thing])
''',
}


@pytest.fixture(scope="session")
def frameworks(installed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with FastAPI and Litestar, and nothing that the service has itself."""
    folder = tmp_path_factory.mktemp("frameworks")
    python = installed / ".venv/bin/python"
    made = run(
        TOOLS / "uv",
        "pip",
        "install",
        "--quiet",
        f"--python={python}",
        f"--target={folder}",
        "fastapi",
        "litestar",
        cwd=folder,
    )
    assert made.returncode == 0, made.stdout
    listed = run(
        python,
        "-I",
        "-c",
        "import importlib.metadata as m; print(*(one.metadata['Name'] for one in m.distributions()))",
        cwd=folder,
    )
    for name in listed.stdout.split():
        for path in folder.glob(f"{name.lower().replace('-', '_')}*"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    return folder


@pytest.mark.parametrize("framework", OTHERS)
def test_application_of_another_framework(
    project: Path, start: Start, collector: Collector, frameworks: Path, framework: str
) -> None:
    package = project / "src" / package_of(project)
    (package / "legacy.py").write_text(OTHERS[framework])
    extend_app(project, 'from .legacy import legacy\napp.mount("/legacy", legacy, lifespan=True)')
    service = start(
        project,
        PYTHONPATH=f"src:{frameworks}",
        OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint,
        OTEL_TRACES_SAMPLER="always_on",
    ).ready()

    assert service.http.get("/legacy/things/7").json() == {"thing": 7}
    assert [service.http.get(f"/legacy/none/{number}").status_code for number in range(3)] == [404] * 3

    told(service, "/legacy/things/{thing}", "/legacy/things/7", 200, 1)
    told(service, "/legacy/{path}", "/legacy/none/0", 404, 3)
    names = [one.span.name for one in collector.spans(4)]
    assert {name for name in names if "legacy" in name} == {"GET /legacy/things/{thing}", "GET /legacy/{path}"}


def told(service: Service, route: str, path: str, status: int, count: int) -> None:
    """It is so in the access lines and in the metrics."""
    lines = service.access_lines(count, route=route)
    assert (lines[0]["path"], lines[0]["status"]) == (path, status)
    assert service.metric("http_server_request_duration_seconds_count", http_route=route) == count
