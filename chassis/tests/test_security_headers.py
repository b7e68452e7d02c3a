"""Response headers that tell browsers to be careful."""

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI
from starlette.responses import FileResponse, PlainTextResponse, Response
from starlette.routing import Mount
from starlette.staticfiles import StaticFiles

from chassis import Handler, Reply, Route

from .support.service import serve

EXPECTED = {
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}


class Items(Handler):
    """Responds and fails."""

    async def get(self) -> Response:
        return PlainTextResponse("x", headers={"Cache-Control": "max-age=60"})

    async def put(self) -> Reply[str]:
        return Reply("x", headers={"Cache-Control": "max-age=60"})

    async def post(self) -> str:
        raise RuntimeError


@pytest.fixture(scope="module")
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with serve(Route("/", Items())) as service:
        yield service.client


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/openapi.json"), ("GET", "/none"), ("POST", "/"), ("DELETE", "/"), ("GET", "/healthz")],
)
async def test_every_response_has_them(client: httpx.AsyncClient, method: str, path: str) -> None:
    answer = await client.request(method, path)
    assert EXPECTED.items() <= dict(answer.headers).items()


@pytest.mark.parametrize("method", ["GET", "PUT"])
async def test_response_may_have_its_own(client: httpx.AsyncClient, method: str) -> None:
    answer = await client.request(method, "/")
    assert answer.headers.get_list("cache-control") == ["max-age=60"]
    assert answer.headers["x-frame-options"] == "DENY"


async def test_defaults_can_be_replaced_and_left_out() -> None:
    headers = {"X-Frame-Options": "SAMEORIGIN", "Referrer-Policy": "", "x-more": "1"}
    async with serve(Route("/", Items()), security_headers=headers) as service:
        answer = await service.client.get("/")
        admin = await service.client.get("/healthz")
    assert (admin.headers["x-frame-options"], admin.headers["x-more"]) == ("SAMEORIGIN", "1")
    assert "referrer-policy" not in answer.headers
    assert (answer.headers["x-frame-options"], answer.headers["x-more"]) == ("SAMEORIGIN", "1")


class Files(Handler):
    """Returns what is no JSON."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def get(self) -> Response:
        return FileResponse(self._path)

    async def post(self) -> Response:
        return PlainTextResponse("x")

    async def put(self) -> Reply[str]:
        return Reply("x", headers={"ETag": '"1"'})


FILES_ONLY = {"x-content-type-options": "nosniff", "x-frame-options": "DENY"}


@pytest.fixture
async def files(tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    fast = FastAPI()
    for name in ("page.html", "data.json", "script.js"):
        (tmp_path / name).write_text("{}")
    routes = [
        Route("/files", Files(tmp_path / "data.json")),
        Mount("/static", StaticFiles(directory=tmp_path)),
        Mount("/fast", fast),
    ]
    async with serve(*routes) as service:
        yield service.client


def of(response: httpx.Response) -> dict[str, str]:
    """Those of the headers that the chassis adds."""
    return {name: value for name, value in response.headers.items() if name in EXPECTED}


@pytest.mark.parametrize("path", ["/static/page.html", "/static/script.js", "/fast/docs"])
async def test_pages_and_files_have_no_policy_that_breaks_them(files: httpx.AsyncClient, path: str) -> None:
    assert of(await files.get(path)) == FILES_ONLY


@pytest.mark.parametrize("path", ["/static/page.html", "/static/data.json", "/files"])
async def test_file_with_a_validator_may_be_cached(files: httpx.AsyncClient, path: str) -> None:
    response = await files.get(path)
    assert "cache-control" not in response.headers
    again = await files.get(path, headers={"if-none-match": response.headers["etag"]})
    if path != "/files":  # Starlette's response of one file does not look at the condition
        assert (again.status_code, of(again)) == (304, FILES_ONLY)


@pytest.mark.parametrize(("method", "path"), [("GET", "/fast/openapi.json"), ("POST", "/files"), ("GET", "/fast/none")])
async def test_content_of_an_api_has_all_of_them_wherever_it_comes_from(
    files: httpx.AsyncClient, method: str, path: str
) -> None:
    assert of(await files.request(method, path)) == EXPECTED


async def test_result_with_a_validator_may_be_cached(files: httpx.AsyncClient) -> None:
    response = await files.put("/files")
    assert of(response) == {name: value for name, value in EXPECTED.items() if name != "cache-control"}


async def test_what_the_owner_gives_is_on_every_response(tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text("x")
    headers = {"Content-Security-Policy": "default-src 'self'"}
    async with serve(Mount("/static", StaticFiles(directory=tmp_path)), security_headers=headers) as service:
        for path in ("/static/page.html", "/none"):
            response = await service.client.get(path)
            assert response.headers["content-security-policy"] == "default-src 'self'"
