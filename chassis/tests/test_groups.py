"""Groups of routes, and the documents of an app and of its groups."""

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route as StarletteRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from chassis import App, ChassisSettings, Handler, Problem, Reply, documented, responds
from chassis.testing import serve

from .support.application import TEST_SETTINGS


class Order(BaseModel):
    id: int


class Job(BaseModel):
    place: str


class Orders(Handler):
    """Orders of one version."""

    def __init__(self, version: str) -> None:
        self._version = version

    async def get(self, limit: int = 3) -> str:
        """List orders."""
        return f"{self._version} {limit}"

    @responds(201, {409: "It exists."}, others={202: Job, 304: None}, headers={"location": "The order."})
    @documented(
        summary="Make one",
        tags=["sales"],
        operation_id="makeOrder",
        deprecated=True,
        request_examples={"one": Order(id=1)},
        response_examples={"made": {"id": 1}},
        externalDocs={"url": "https://example.test"},
    )
    async def post(self, body: Order) -> Reply[Order | Job | None]:
        if body.id == 2:
            return Reply(Job(place="third"), status=202)
        if body.id == 3:
            return Reply(None, [("set-cookie", "a=1"), ("set-cookie", "b=2")], status=304)
        if body.id == 4:
            raise Problem(409, "It exists.")
        return Reply(body, {"location": f"/orders/{body.id}"})


class Labelled:
    """Middleware that labels responses."""

    def __init__(self, app: ASGIApp, label: str) -> None:
        self._app = app
        self._label = label.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def label(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message["headers"], (b"x-label", self._label)]}
            await send(message)

        await self._app(scope, receive, label)


class StaleError(Exception):
    """Somebody else was faster."""


class DownError(Exception):
    """The database is down."""

    def __init__(self, seconds: int) -> None:
        super().__init__("secret address")
        self.seconds = seconds


class Failing(Handler):
    """Fails in all ways."""

    async def get(self, how: str) -> None:
        raise {"stale": StaleError("stale"), "down": DownError(7), "broken": LookupError("no")}[how]


def down(error: DownError) -> Problem:
    return Problem(503, "The database is down.", headers={"retry-after": str(error.seconds)})


def broken(error: LookupError) -> Problem:
    raise ZeroDivisionError


def to_csv(value: Any) -> bytes:
    return ",".join(value).encode() if isinstance(value, dict) else repr(value).encode()


def make() -> App:
    app = App(ChassisSettings.from_values(**TEST_SETTINGS), name="test-service", version="1")
    app.add_route("/orders", Orders("v1"))
    app.add_route("/fail", Failing())
    app.add_problems({StaleError: 409, DownError: down, LookupError: broken})
    app.add_middleware(Labelled, "outer")
    group = app.group("/v2", version="2", title="orders, new")
    group.add_route("/orders", Orders("v2"))
    group.add_route("/fail", Failing())
    group.add_middleware(Labelled, "inner")
    app.extend_openapi(
        {
            "servers": [{"url": "https://orders.example"}],
            "info": {"contact": {"name": "Ada"}},
            "components": {"securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}}},
            "security": [{"bearer": []}],
        }
    )
    return app


@pytest.fixture(scope="module")
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with serve(make()) as client:
        yield client


async def test_routes_of_a_group_are_below_its_path(client: httpx.AsyncClient) -> None:
    assert (await client.get("/orders")).json() == "v1 3"
    assert (await client.get("/v2/orders?limit=5")).json() == "v2 5"
    assert (await client.get("/v2/other")).status_code == 404


async def test_middleware_of_a_group_is_for_its_routes_alone_and_sees_problems(client: httpx.AsyncClient) -> None:
    assert (await client.get("/orders")).headers.get_list("x-label") == ["outer"]
    for path in ("/v2/orders", "/v2/orders?limit=x", "/v2/other", "/v2/fail?how=stale"):
        assert (await client.get(path)).headers.get_list("x-label") == ["inner", "outer"]


async def test_group_has_a_document_and_a_page_of_its_own(client: httpx.AsyncClient) -> None:
    document = (await client.get("/v2/openapi.json")).json()
    assert (document["info"]["title"], document["info"]["version"]) == ("orders, new", "2")
    assert (set(document["paths"]), document["servers"]) == ({"/orders", "/fail"}, [{"url": "/v2"}])
    assert (await client.get("/v2/docs")).headers["content-type"].startswith("text/html")


async def test_document_of_the_app_has_all_routes(client: httpx.AsyncClient) -> None:
    document = (await client.get("/openapi.json")).json()
    assert set(document["paths"]) == {"/orders", "/fail", "/v2/orders", "/v2/fail"}


async def test_document_is_extended(client: httpx.AsyncClient) -> None:
    document = (await client.get("/openapi.json")).json()
    assert document["servers"] == [{"url": "https://orders.example"}]
    assert document["info"] == {"title": "test-service", "version": "1", "contact": {"name": "Ada"}}
    assert document["components"]["securitySchemes"]["bearer"]["scheme"] == "bearer"
    assert "Problem" in document["components"]["schemas"]


async def test_operation_is_documented(client: httpx.AsyncClient) -> None:
    operation = (await client.get("/v2/openapi.json")).json()["paths"]["/orders"]["post"]
    said = {name: operation[name] for name in ("summary", "tags", "operationId", "deprecated", "externalDocs")}
    assert said == {
        "summary": "Make one",
        "tags": ["sales"],
        "operationId": "makeOrder",
        "deprecated": True,
        "externalDocs": {"url": "https://example.test"},
    }
    assert operation["requestBody"]["content"]["application/json"]["examples"] == {"one": {"value": {"id": 1}}}
    responses = operation["responses"]
    assert responses["201"]["headers"]["location"]["description"] == "The order."
    assert responses["201"]["content"]["application/json"]["examples"] == {"made": {"value": {"id": 1}}}
    assert responses["202"]["content"]["application/json"]["schema"] == {"$ref": "#/components/schemas/Job"}
    assert "content" not in responses["304"]
    assert "application/problem+json" in responses["409"]["content"]


async def test_reply_may_have_another_status(client: httpx.AsyncClient) -> None:
    made = await client.post("/orders", json={"id": 1})
    assert (made.status_code, made.json(), made.headers["location"]) == (201, {"id": 1}, "/orders/1")
    later = await client.post("/orders", json={"id": 2})
    assert (later.status_code, later.json()) == (202, {"place": "third"})
    same = await client.post("/orders", json={"id": 3})
    assert (same.status_code, same.content, same.headers.get_list("set-cookie")) == (304, b"", ["a=1", "b=2"])


@pytest.mark.parametrize("prefix", ["", "/v2"])
async def test_exception_is_mapped_to_a_problem_by_one_table(client: httpx.AsyncClient, prefix: str) -> None:
    stale = await client.get(f"{prefix}/fail?how=stale")
    assert (stale.status_code, stale.json()["detail"]) == (409, "stale")
    response = await client.get(f"{prefix}/fail?how=down")
    assert (response.status_code, response.headers["retry-after"]) == (503, "7")
    assert "secret" not in response.text


async def test_function_that_fails_to_make_a_problem_is_500(client: httpx.AsyncClient) -> None:
    assert (await client.get("/fail?how=broken")).status_code == 500


def test_group_is_complete_before_the_start() -> None:
    app = make()
    group = app.group("/v3")
    _ = app.public
    with pytest.raises(RuntimeError, match="has started"):
        group.add_route("/orders", Orders("v3"))


async def test_owners_document_and_page_replace_ours() -> None:
    async def own(request: Request) -> PlainTextResponse:
        return PlainTextResponse("own")

    app = App(ChassisSettings.from_values(**TEST_SETTINGS), name="test-service", version="1")
    app.add_routes(StarletteRoute("/docs", own), StarletteRoute("/openapi.json", own))
    async with serve(app) as client:
        assert [(await client.get(path)).text for path in ("/docs", "/openapi.json")] == ["own", "own"]


# Content negotiation.


@pytest.fixture(scope="module")
async def negotiating() -> AsyncIterator[httpx.AsyncClient]:
    app = App(ChassisSettings.from_values(**TEST_SETTINGS), name="test-service", version="1")
    app.add_route("/orders", Orders("v1"))
    app.add_encoder("text/csv", to_csv)
    async with serve(app) as client:
        yield client


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        ("*/*", "application/json"),
        ("", "application/json"),
        ("text/csv", "text/csv"),
        ("text/*", "text/csv"),
        ("text/csv;q=0.4, application/json;q=0.5", "application/json"),
        ("text/csv;q=0.6, */*;q=0.5", "text/csv"),
        ("application/json;q=0, */*", "text/csv"),
        ("TEXT/CSV; charset=utf-8; q=1", "text/csv"),
    ],
)
async def test_client_gets_the_media_type_that_it_prefers(
    negotiating: httpx.AsyncClient, accept: str, content_type: str
) -> None:
    response = await negotiating.post("/orders", json={"id": 1}, headers={"accept": accept})
    assert (response.status_code, response.headers["content-type"]) == (201, content_type)
    assert response.content == (b"id" if content_type == "text/csv" else b'{"id":1}')
    assert (response.headers["vary"], response.headers["location"]) == ("accept", "/orders/1")


async def test_unavailable_media_type_is_406(negotiating: httpx.AsyncClient) -> None:
    response = await negotiating.get("/orders", headers={"accept": "image/png"})
    assert (response.status_code, response.headers["content-type"]) == (406, "application/problem+json")
    assert response.json()["detail"] == "Accept allows none of the available media types: application/json, text/csv."


async def test_media_types_are_in_openapi(negotiating: httpx.AsyncClient) -> None:
    document = (await negotiating.get("/openapi.json")).json()
    assert set(document["paths"]["/orders"]["get"]["responses"]["200"]["content"]) == {"application/json", "text/csv"}
