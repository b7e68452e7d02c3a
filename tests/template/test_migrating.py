"""The guides for migrating from another framework are followed to the letter, and the result runs."""

import shutil
from pathlib import Path

import pytest

from bakery import TOOLS, package_of, run
from collector import Collector
from conftest import Bake, Start
from guides import checked, follow
from running import Service

pytestmark = pytest.mark.long


@pytest.fixture
def project(bake: Bake) -> Path:
    """The default service."""
    return bake()


def test_handlers_of_http_server(project: Path, python: Path, start: Start) -> None:
    follow(project, "migrating-from-http-server.md", "Handlers of http.server")
    checked(project, python)
    service = start(project).ready()

    answer = service.http.get("/legacy/Ada")
    assert (answer.status_code, answer.text) == (200, "Hello, Ada!\n")
    assert service.access_lines(1)[0]["route"] == "/legacy/{path}"
    assert service.http.post("/legacy/Ada").status_code == 501


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
    project: Path, start: Start, collector: Collector, frameworks: Path, framework: str
) -> None:
    follow(project, "migrating-from-fastapi.md", "An application of another framework")
    package = project / "src" / package_of(project)
    other = OTHERS[framework]
    if other is not None:
        (package / "legacy.py").write_text(other)
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
