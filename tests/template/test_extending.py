"""The recipes for extending a service are followed to the letter, and the result runs."""

import re
import shutil
import signal
import socket
from pathlib import Path

import pytest

from bakery import TOOLS, extend_app, package_of, run
from checks import check
from collector import Collector
from conftest import Bake, Start
from running import Service

pytestmark = pytest.mark.long

BLOCK = re.compile(r"```python\n# (\S+)\n(.*?)```", re.DOTALL)


def follow(project: Path, recipe: str) -> None:
    """Do what the recipe of this name says, in a service without example."""
    package = project / "src" / package_of(project)
    section = (project / "chassis/README.md").read_text().partition(f"## {recipe}\n")[2].partition("\n## ")[0]
    blocks = BLOCK.findall(section)
    assert blocks
    for name, block in blocks:
        path = package / name
        if name == "settings.py":
            imports = "from chassis import ChassisSettings\n"
            text = path.read_text().replace(imports, f"{imports}from pydantic import Field\n")
            path.write_text(f"{text}\n{block}")
        elif name == "app.py":
            extend_app(project, block)
        else:
            path = project / name if name.startswith("tests/") else path
            assert not path.exists()
            path.write_text(block)


@pytest.fixture
def bare(bake: Bake) -> Path:
    return bake(example="none")


def checked(project: Path, python: Path) -> None:
    """Its tools accept it, but that imports could be in another order."""
    run(python.with_name("ruff"), "check", "--fix", "--select=I", ".", cwd=project)
    check(project, python)


def test_setting(bare: Path, python: Path, start: Start) -> None:
    follow(bare, "A setting")
    checked(bare, python)

    assert start(bare).ready().http.get("/greetings/Ada").json() == "Hello, Ada!"
    assert start(bare, APP_GREETING="Hi").ready().http.get("/greetings/Ada").json() == "Hi, Ada!"
    broken = start(bare, APP_GREETING="Hello" * 9)
    assert broken.process.wait(20) != 0


def test_check(bare: Path, python: Path, start: Start) -> None:
    follow(bare, "A check")
    checked(bare, python)
    app = bare / "src" / package_of(bare) / "app.py"
    with socket.create_server(("127.0.0.1", 0)) as database:
        app.write_text(app.read_text().replace("5432", str(database.getsockname()[1])))
        service = start(bare, APP_READINESS_CACHE_SECONDS="0").ready()
        assert service.http.get("/readyz").status_code == 200
    answer = service.http.get("/readyz")

    assert (answer.status_code, answer.json()["checks"]["database"]["status"]) == (503, "fail")


def test_cors(bare: Path, python: Path, start: Start) -> None:
    follow(bare, "CORS")
    checked(bare, python)
    service = start(bare).ready()

    for path, status in (("/openapi.json", 200), ("/none", 404)):
        answer = service.http.get(path, headers={"origin": "https://shop.example"})
        assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (status, "https://shop.example")


def test_middleware(bare: Path, python: Path, start: Start) -> None:
    follow(bare, "A middleware")
    checked(bare, python)
    service = start(bare).ready()

    answer = service.http.get("/openapi.json")
    assert (answer.status_code, answer.json()["detail"]) == (401, "Send the key as X-API-Key.")
    assert service.http.get("/openapi.json", headers={"x-api-key": "open sesame"}).status_code == 200
    assert service.http.get("/readyz").status_code == 200
    assert [line["status"] for line in service.access_lines(2)] == [401, 200]


def test_test(bake: Bake, python: Path) -> None:
    project = bake()
    follow(project, "A test")
    checked(project, python)
    check(project, python, ("python", "-m", "pytest", "-q", "--no-cov", "tests/test_stock.py"))


def test_metric(bare: Path, python: Path, start: Start) -> None:
    follow(bare, "A metric")
    checked(bare, python)
    service = start(bare).ready()

    assert service.http.post("/sales?kind=tea").status_code == 204
    assert service.http.post("/sales?kind=cocoa").status_code == 422
    assert service.metric("sold_total", kind="tea") == 1


def test_background_task(bare: Path, python: Path, start: Start) -> None:
    follow(bare, "A background task")
    checked(bare, python)
    service = start(bare).ready()

    answer = service.http.post("/letters?to=Ada")
    assert answer.status_code == 202
    sent = service.event("letter sent", to="Ada")
    assert sent["request_id"] == answer.headers["x-request-id"]


def test_stream_that_ends_at_the_shutdown(bare: Path, python: Path, start: Start) -> None:
    follow(bare, "A stream that ends at the shutdown")
    checked(bare, python)
    service = start(bare, APP_SHUTDOWN_SECONDS="600").ready()

    with service.http.stream("GET", "/ticks") as stream:
        chunks = stream.iter_text()
        assert next(chunks) == "data: 1\n\n"
        service.process.send_signal(signal.SIGTERM)
        assert "data: 600" not in "".join(chunks)
    assert service.process.wait(20) == 0
    assert "shutdown" not in service.access_lines(1)[0]


def test_consumer_of_a_queue(bare: Path, python: Path, start: Start) -> None:
    follow(bare, "A consumer of a queue")
    checked(bare, python)
    service = start(bare).ready()

    assert service.http.get("/readyz").json()["checks"]["background task consumer"]["status"] == "pass"
    for order in ("one", "two", "three"):
        assert service.http.post(f"/intake?order={order}").status_code == 202
    service.process.send_signal(signal.SIGTERM)
    assert service.process.wait(20) == 0
    service.output.all()
    assert [event["order"] for event in service.events() if event["event"] == "order processed"] == ["one"]


OTHERS = {
    "fastapi": None,
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
    bare: Path, start: Start, collector: Collector, frameworks: Path, framework: str
) -> None:
    follow(bare, "An application of another framework")
    package = bare / "src" / package_of(bare)
    other = OTHERS[framework]
    if other is not None:
        (package / "legacy.py").write_text(other)
    service = start(
        bare,
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
