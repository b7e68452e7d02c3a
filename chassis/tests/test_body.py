"""The request's JSON: bound to `body`, or refused with the reason."""

from collections.abc import AsyncIterator
from typing import Annotated, Any

import httpx
import pytest
from pydantic import BaseModel, Field

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


@pytest.fixture(scope="module")
async def client() -> AsyncIterator[httpx.AsyncClient]:
    routes = [Route("/orders", Orders()), Route("/items/{item_id}", Item()), Route("/any", Anything())]
    async with serve(*routes) as service:
        yield service.client


async def post(client: httpx.AsyncClient, path: str, content: bytes, kind: str = "application/json") -> httpx.Response:
    """Send `content` as it stands."""
    return await client.post(path, content=content, headers={"content-type": kind})


async def test_body_becomes_the_model(client: httpx.AsyncClient) -> None:
    answer = await client.post("/orders", json={"customer": "Ada", "lines": [{"sku": "tea"}]})
    assert answer.json() == {"customer": "Ada", "lines": [{"sku": "tea", "quantity": 1}], "labels": {}}


async def test_every_wrong_value_has_a_pointer(client: httpx.AsyncClient) -> None:
    wrong = {"lines": [{"sku": "tea"}, {"sku": "t", "quantity": "x"}], "labels": {"a/b~c": "x"}}
    answer = await client.post("/orders", json=wrong)
    assert answer.status_code == 422
    assert {one["pointer"] for one in answer.json()["errors"]} == {
        "#/customer",
        "#/lines/1/sku",
        "#/lines/1/quantity",
        "#/labels/a~1b~0c",
    }


async def test_one_422_lists_what_is_wrong_in_path_query_and_body(client: httpx.AsyncClient) -> None:
    answer = await client.put("/items/x?limit=9", json={"customer": 1})
    assert answer.status_code == 422
    assert [(one["in"], one.get("name") or one.get("pointer")) for one in answer.json()["errors"]] == [
        ("path", "item_id"),
        ("query", "limit"),
        ("body", "#/customer"),
    ]


async def test_422_does_not_repeat_what_was_sent(client: httpx.AsyncClient) -> None:
    answer = await client.post("/orders", json={"customer": ["a very secret value"]})
    assert "secret" not in answer.text


@pytest.mark.parametrize("content", [b"{", b"{'a': 1}", b"[1,]", b"nul", b'"\\ud800"', b'"\xff"', b"{} {}", b"\x00"])
async def test_malformed_json_is_400(client: httpx.AsyncClient, content: bytes) -> None:
    answer = await post(client, "/any", content)
    assert answer.status_code == 400
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["detail"].startswith("The body is not valid JSON")


async def test_deep_json_is_400(client: httpx.AsyncClient) -> None:
    assert (await post(client, "/any", b"[" * 40_000 + b"]" * 40_000)).status_code == 400


async def test_empty_body_is_400(client: httpx.AsyncClient) -> None:
    assert (await post(client, "/orders", b"")).status_code == 400


async def test_optional_body_may_be_left_out(client: httpx.AsyncClient) -> None:
    assert (await client.patch("/orders")).json() == "nothing"


async def test_optional_body_that_is_given_is_bound(client: httpx.AsyncClient) -> None:
    assert (await client.patch("/orders", json={"customer": "Ada"})).json() == "Ada"


async def test_optional_body_that_is_wrong_is_422(client: httpx.AsyncClient) -> None:
    assert (await client.patch("/orders", json={"customer": 1})).status_code == 422


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "application/jsonp", "json", ""])
async def test_body_that_is_not_called_json_is_415(client: httpx.AsyncClient, kind: str) -> None:
    answer = await post(client, "/any", b"{}", kind)
    assert answer.status_code == 415
    assert answer.headers["accept-post"] == "application/json"


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

    answer = await client.put("/any", content=chunks(), headers={"content-type": "application/json"})
    assert answer.json() == 6


@pytest.mark.parametrize("content", [b"0", b'"text"', b"[]", b"null", b"true", b"123456789012345678901234567890"])
async def test_any_json_value_comes_back(client: httpx.AsyncClient, content: bytes) -> None:
    assert (await post(client, "/any", content)).content == content
