"""The request's JSON: bound to `body`, or rejected with the reason."""

import gzip
from collections.abc import AsyncIterator
from typing import Annotated, Any

import httpx
import pytest
from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from chassis import Handler, Route

from .support.service import serve


class Line(BaseModel):
    """A line."""

    sku: str = Field(min_length=2)
    quantity: int = 1


class NewOrder(BaseModel):
    """An order."""

    customer: str
    lines: list[Line] = []
    labels: dict[str, int] = {}


class Orders(Handler):
    """Takes a model."""

    async def post(self, body: NewOrder) -> NewOrder:
        return body

    async def put(self, limit: int, body: NewOrder) -> None:
        """Takes parameters as well."""

    async def patch(self, body: NewOrder | None = None) -> str:
        return "nothing" if body is None else body.customer


class Item(Handler):
    """Takes something from everywhere."""

    async def put(self, item_id: int, body: NewOrder, limit: Annotated[int, Field(le=5)] = 1) -> None: ...


class Anything(Handler):
    """Takes any JSON."""

    async def post(self, body: Any) -> Any:
        return body

    async def put(self, body: list[int]) -> int:
        return sum(body)


class Webhooks(Handler):
    """Takes a model, and the bytes that it was made of."""

    async def post(self, body: NewOrder, request: Request) -> list[Any]:
        return [body.customer, (await request.body()).decode(), await request.json()]

    async def put(self, request: Request, body: NewOrder, limit: int = 1) -> list[Any]:
        return [body.customer, limit, b"".join([chunk async for chunk in request.stream()]).decode()]

    async def patch(self, request: Request, body: NewOrder | None = None) -> list[Any]:
        return [body is None, (await request.body()).decode(), await request.is_disconnected()]

    async def delete(self, request: Request) -> list[str]:
        return [(await request.body()).decode(), (await request.body()).decode()]


class Reading:
    """Middleware that reads the body, and hands it on as Starlette does."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            body = await Request(scope, receive).body()

            async def replay() -> Message:
                return {"type": "http.request", "body": body, "more_body": False}

            await self.app(scope, replay, send)


@pytest.fixture(scope="module")
async def client() -> AsyncIterator[httpx.AsyncClient]:
    routes = [Route("/orders", Orders()), Route("/items/{item_id}", Item()), Route("/any", Anything())]
    routes.append(Route("/webhooks", Webhooks()))
    async with serve(*routes) as service:
        yield service.client


async def post(client: httpx.AsyncClient, path: str, content: bytes, kind: str = "application/json") -> httpx.Response:
    """Send `content` unchanged."""
    return await client.post(path, content=content, headers={"content-type": kind})


async def test_body_becomes_the_model(client: httpx.AsyncClient) -> None:
    response = await client.post("/orders", json={"customer": "Ada", "lines": [{"sku": "tea"}]})
    assert response.json() == {"customer": "Ada", "lines": [{"sku": "tea", "quantity": 1}], "labels": {}}


async def test_every_wrong_value_has_a_pointer(client: httpx.AsyncClient) -> None:
    wrong = {"lines": [{"sku": "tea"}, {"sku": "t", "quantity": "x"}], "labels": {"a/b~c": "x"}}
    response = await client.post("/orders", json=wrong)
    assert response.status_code == 422
    assert {one["pointer"] for one in response.json()["errors"]} == {
        "#/customer",
        "#/lines/1/sku",
        "#/lines/1/quantity",
        "#/labels/a~1b~0c",
    }


async def test_one_422_lists_the_errors_in_path_query_and_body(client: httpx.AsyncClient) -> None:
    response = await client.put("/items/x?limit=9", json={"customer": 1})
    assert response.status_code == 422
    assert [(one["in"], one.get("name") or one.get("pointer")) for one in response.json()["errors"]] == [
        ("path", "item_id"),
        ("query", "limit"),
        ("body", "#/customer"),
    ]


async def test_422_does_not_repeat_the_invalid_value(client: httpx.AsyncClient) -> None:
    response = await client.post("/orders", json={"customer": ["a very secret value"]})
    assert "secret" not in response.text


@pytest.mark.parametrize("content", [b"{", b"{'a': 1}", b"[1,]", b"nul", b'"\\ud800"', b'"\xff"', b"{} {}", b"\x00"])
async def test_malformed_json_is_400(client: httpx.AsyncClient, content: bytes) -> None:
    response = await post(client, "/any", content)
    assert response.status_code == 400
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json()["detail"].startswith("The body is not valid JSON")


async def test_deep_json_is_400(client: httpx.AsyncClient) -> None:
    assert (await post(client, "/any", b"[" * 40_000 + b"]" * 40_000)).status_code == 400


async def test_empty_body_is_400(client: httpx.AsyncClient) -> None:
    assert (await post(client, "/orders", b"")).status_code == 400


async def test_optional_body_may_be_left_out(client: httpx.AsyncClient) -> None:
    assert (await client.patch("/orders")).json() == "nothing"


async def test_optional_body_that_is_sent_is_bound(client: httpx.AsyncClient) -> None:
    assert (await client.patch("/orders", json={"customer": "Ada"})).json() == "Ada"


async def test_optional_body_that_is_wrong_is_422(client: httpx.AsyncClient) -> None:
    assert (await client.patch("/orders", json={"customer": 1})).status_code == 422


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "application/jsonp", "json", ""])
async def test_body_with_another_content_type_than_json_is_415(client: httpx.AsyncClient, kind: str) -> None:
    response = await post(client, "/any", b"{}", kind)
    assert response.status_code == 415
    assert response.headers["accept-post"] == "application/json"


async def test_body_without_content_type_is_415(client: httpx.AsyncClient) -> None:
    assert (await client.post("/any", content=b"{}")).status_code == 415


@pytest.mark.parametrize(
    "kind",
    [
        "application/json",
        "Application/JSON; charset=utf-8",
        "application/merge-patch+json",
        "application/vnd.a.b+json;v=1",
    ],
)
async def test_json_has_many_names(client: httpx.AsyncClient, kind: str) -> None:
    assert (await post(client, "/any", b'{"a":1}', kind)).json() == {"a": 1}


async def test_body_in_chunks_is_put_together(client: httpx.AsyncClient) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for part in (b"[1,", b"2,3", b"]"):
            yield part

    response = await client.put("/any", content=chunks(), headers={"content-type": "application/json"})
    assert response.json() == 6


@pytest.mark.parametrize("content", [b"0", b'"text"', b"[]", b"null", b"true", b"123456789012345678901234567890"])
async def test_any_json_value_comes_back(client: httpx.AsyncClient, content: bytes) -> None:
    assert (await post(client, "/any", content)).content == content


@pytest.mark.parametrize("middleware", [[], [Middleware(Reading)]])
async def test_body_and_request_may_both_be_taken(middleware: list[Middleware]) -> None:
    sent = '{"customer": "Ada"}'
    async with serve(Route("/webhooks", Webhooks()), middleware=middleware, deadline_seconds=5.0) as service:

        async def ask(method: str, content: str = sent) -> Any:
            headers = {"content-type": "application/json"}
            response = await service.client.request(method, "/webhooks", content=content, headers=headers)
            assert response.status_code == 200
            return response.json()

        assert await ask("POST") == ["Ada", sent, {"customer": "Ada"}]
        assert await ask("PUT") == ["Ada", 1, sent]
        assert await ask("PATCH") == [False, sent, False]
        assert await ask("PATCH", "") == [True, "", False]
        assert await ask("DELETE") == [sent, sent]


async def test_body_in_chunks_is_there_for_the_request_too(client: httpx.AsyncClient) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        yield b'{"customer":'
        yield b'"Ada"}'

    response = await client.put("/webhooks", content=chunks(), headers={"content-type": "application/json"})
    assert response.json() == ["Ada", 1, '{"customer":"Ada"}']


@pytest.mark.parametrize(
    ("codings", "content", "status"),
    [
        (["gzip"], gzip.compress(b"{}", mtime=0), 415),
        (["GZIP"], b"{}", 415),
        (["identity, br"], b"{}", 415),
        (["identity", "x-unknown"], b"{}", 415),
        (["gzip"], b"", 415),
        (["identity"], b"{}", 200),
        (["Identity , identity"], b"{}", 200),
        ([""], b"{}", 200),
    ],
)
async def test_compressed_body_is_415_with_the_accepted_encoding(
    client: httpx.AsyncClient, codings: list[str], content: bytes, status: int
) -> None:
    headers = [("content-type", "application/json"), *(("content-encoding", coding) for coding in codings)]
    response = await client.post("/any", content=content, headers=headers)
    assert response.status_code == status
    assert response.headers.get("accept-encoding") == ("identity" if status == 415 else None)


async def test_nothing_is_not_compressed(client: httpx.AsyncClient) -> None:
    assert (await client.patch("/orders", headers={"content-encoding": "gzip"})).json() == "nothing"


class Cat(BaseModel):
    """A member of a union."""

    lives: int


class Dog(BaseModel):
    """The other."""

    tricks: list[int]


class Renamed(BaseModel):
    """Has names of its own."""

    model_config = ConfigDict(alias_generator=to_camel)
    first_name: str
    animals_here: list[Cat | Dog] = []
    seen_at: Annotated[int, Field(validation_alias="seen-at")] = 0


async def test_pointers_are_places_in_the_request() -> None:
    class Animals(Handler):
        async def post(self, body: Renamed) -> None: ...

    async with serve(Route("/", Animals())) as service:
        wrong = {"first_name": "Ada", "animalsHere": [{"lives": "x"}, {"tricks": ["x"]}], "seen-at": "x"}
        response = await service.client.post("/", json=wrong)
    assert response.status_code == 422
    pointers = {one["pointer"] for one in response.json()["errors"]}
    assert pointers == {
        "#/firstName",
        "#/animalsHere/0/lives",
        "#/animalsHere/0/tricks",
        "#/animalsHere/1/lives",
        "#/animalsHere/1/tricks/0",
        "#/seen-at",
    }
