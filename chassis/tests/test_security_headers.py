"""Response headers that tell browsers to be careful."""

from collections.abc import AsyncIterator

import httpx
import pytest
from starlette.responses import PlainTextResponse, Response

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
    """Answers and fails."""

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
async def test_every_answer_has_them(client: httpx.AsyncClient, method: str, path: str) -> None:
    answer = await client.request(method, path)
    assert EXPECTED.items() <= dict(answer.headers).items()


@pytest.mark.parametrize("method", ["GET", "PUT"])
async def test_answer_may_have_its_own(client: httpx.AsyncClient, method: str) -> None:
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
