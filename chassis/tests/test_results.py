"""The results of handlers, and the responses that clients get."""

import math
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, NoReturn
from uuid import UUID

import httpx
import jsonschema
import pytest
from pydantic import BaseModel, ConfigDict, Field, computed_field
from pydantic.alias_generators import to_camel
from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from typing_extensions import TypedDict

from chassis import Handler, Problem, Reply, Route, responds

from .support.service import serve


class Item(BaseModel):
    """A model."""

    id: UUID
    at: datetime
    note: str | None = None


@dataclass
class Point:
    """A dataclass."""

    x: int
    y: int


ITEM = Item(id=UUID(int=7), at=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC))


class Results(Handler):
    """Returns the result that its path names."""

    def __init__(self, values: dict[str, Any]) -> None:
        self._values = values

    async def get(self, kind: str) -> Any:
        return self._values[kind]


class Typed(Handler):
    """Declares its result, and may return something else."""

    def __init__(self) -> None:
        self.value: Any = None

    async def get(self) -> Item:
        return self.value  # type: ignore[no-any-return]

    async def post(self) -> list[int]:
        return self.value  # type: ignore[no-any-return]

    async def delete(self) -> Point | None:
        return self.value  # type: ignore[no-any-return]


class Replies(Handler):
    """Adds headers."""

    @responds(201)
    async def post(self) -> Reply[Item]:
        return Reply(ITEM, headers={"Location": "/items/7"})

    async def put(self) -> Reply[None]:
        return Reply(None, headers={"x-seen": "yes"})

    @responds(202)
    async def delete(self) -> None: ...


class Headers(Handler):
    """Sends headers of every type."""

    async def get(self) -> Reply[Item]:
        return Reply(ITEM, headers={"Content-Type": "application/vnd.item+json", "Content-Length": "1"})

    async def post(self) -> Reply[Item]:
        return Reply(ITEM, headers=[("Set-Cookie", "a=1"), ("set-cookie", "b=2")])

    async def put(self) -> Reply[Item]:
        headers = MutableHeaders({"location": "/items/7"})
        headers.append("set-cookie", "a=1")
        headers.append("set-cookie", "b=2")
        return Reply(ITEM, headers=headers)


class Bare(Handler):
    """Has a less precise annotation than possible."""

    async def get(self) -> Reply:  # type: ignore[type-arg]
        return Reply(ITEM)

    async def post(self, body: bool) -> Item | Response:
        return ITEM if body else Response(status_code=303, headers={"location": "/items/7"})

    async def put(self, body: bool) -> Reply[Item] | None:
        return Reply(ITEM, headers={"x-seen": "yes"}) if body else None

    async def delete(self) -> NoReturn:
        raise Problem(410, "Gone for good.")


@dataclass
class Place:
    """A dataclass with an alias."""

    house_number: Annotated[int, Field(serialization_alias="no.")]


class Camel(BaseModel):
    """A model whose names in JSON differ from those in Python."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True)
    first_name: str
    living_at: Place
    known_by: Annotated[str, Field(serialization_alias="knownAs", validation_alias="known")] = "x"
    old_friends: list["Camel"] = []

    @computed_field  # type: ignore[prop-decorator]
    @property
    def full_name(self) -> str:
        return f"{self.first_name} L."


class CamelRow(TypedDict):
    """A dictionary with an alias."""

    row_number: Annotated[int, Field(alias="rowNumber")]


CAMEL = Camel(first_name="Ada", living_at=Place(7), old_friends=[Camel(first_name="Bob", living_at=Place(8))])
CAMEL_JSON: dict[str, Any] = {
    "firstName": "Ada",
    "livingAt": {"no.": 7},
    "knownAs": "x",
    "oldFriends": [
        {"firstName": "Bob", "livingAt": {"no.": 8}, "knownAs": "x", "oldFriends": [], "fullName": "Bob L."}
    ],
    "fullName": "Ada L.",
}


class Aliased(Handler):
    """Returns models with aliases, declared in every way."""

    async def get(self) -> Camel:
        return CAMEL

    async def post(self) -> Reply[list[Camel]]:
        return Reply([CAMEL])

    async def put(self) -> dict[str, Camel | int]:
        return {"a": CAMEL, "b": 1}

    async def patch(self) -> CamelRow:
        return {"row_number": 1}

    async def delete(self) -> Camel | None:
        return CAMEL


class Splitting(Handler):
    """Puts a value from the client into a header."""

    async def post(self, body: str) -> Reply[str]:
        return Reply("", headers={"location": body})


class Events(Handler):
    """Server-sent events."""

    async def get(self, request: Request) -> StreamingResponse:
        async def events() -> AsyncIterator[str]:
            for number in range(3):
                yield f"id: {number}\ndata: tick\n\n"

        return StreamingResponse(events(), media_type="text/event-stream", headers={"x-last": request.url.path})


typed = Typed()


@pytest.fixture(scope="module")
async def client() -> AsyncIterator[httpx.AsyncClient]:
    values = {
        "model": ITEM,
        "point": Point(1, 2),
        "dict": {"a": [1, None, 2.5]},
        "list": [],
        "none": None,
        "nan": {"x": math.nan},
        "text": PlainTextResponse("plain", 418, headers={"x-own": "1"}),
        "object": object(),
    }
    routes = [
        Route("/results/{kind}", Results(values)),
        Route("/typed", typed),
        Route("/replies", Replies()),
        Route("/events", Events()),
        Route("/splitting", Splitting()),
        Route("/headers", Headers()),
        Route("/bare", Bare()),
        Route("/aliased", Aliased()),
    ]
    async with serve(*routes) as service:
        yield service.client


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        ("model", '{"id":"00000000-0000-0000-0000-000000000007","at":"2026-01-02T03:04:05Z","note":null}'),
        ("point", '{"x":1,"y":2}'),
        ("dict", '{"a":[1,null,2.5]}'),
        ("list", "[]"),
        ("none", "null"),
    ],
)
async def test_result_becomes_json(client: httpx.AsyncClient, kind: str, content: str) -> None:
    response = await client.get(f"/results/{kind}")
    assert (response.status_code, response.text) == (200, content)
    assert response.headers["content-type"] == "application/json"


async def test_not_a_number_is_null(client: httpx.AsyncClient) -> None:
    assert (await client.get("/results/nan")).text == '{"x":null}'


async def test_response_is_sent_unchanged(client: httpx.AsyncClient) -> None:
    response = await client.get("/results/text")
    assert (response.status_code, response.text, response.headers["x-own"]) == (418, "plain", "1")


async def test_reply_adds_headers_to_a_result(client: httpx.AsyncClient) -> None:
    response = await client.post("/replies")
    assert (response.status_code, response.headers["location"]) == (201, "/items/7")
    assert response.json()["note"] is None


async def test_reply_of_none_is_204(client: httpx.AsyncClient) -> None:
    response = await client.put("/replies")
    assert (response.status_code, response.content, response.headers["x-seen"]) == (204, b"", "yes")


async def test_none_with_a_declared_status_has_no_content(client: httpx.AsyncClient) -> None:
    response = await client.delete("/replies")
    assert (response.status_code, response.content) == (202, b"")


@pytest.mark.parametrize("value", ["/x\r\nset-cookie: a=b", "/x\x00", "/\N{SNOWMAN}"])
async def test_invalid_header_is_500(client: httpx.AsyncClient, value: str) -> None:
    response = await client.post("/splitting", json=value)
    assert response.status_code == 500
    assert response.headers["content-type"] == "application/problem+json"
    assert "set-cookie" not in response.headers


async def test_server_sent_events_are_streamed(client: httpx.AsyncClient) -> None:
    async with client.stream("GET", "/events") as response:
        lines = [line async for line in response.aiter_lines() if line]
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.headers["x-last"] == "/events"
    assert lines == ["id: 0", "data: tick", "id: 1", "data: tick", "id: 2", "data: tick"]


@pytest.mark.parametrize("value", [None, {"id": "7"}, "text", Point(1, 2), Item.model_construct(id="seven")])
async def test_result_of_another_type_than_declared_is_500(client: httpx.AsyncClient, value: Any) -> None:
    typed.value = value
    response = await client.get("/typed")
    assert response.status_code == 500
    assert response.json()["title"] == "Internal Server Error"


async def test_list_of_other_things_is_500(client: httpx.AsyncClient) -> None:
    typed.value = [1, "two"]
    assert (await client.post("/typed")).status_code == 500


async def test_result_that_json_cannot_express_is_500(client: httpx.AsyncClient) -> None:
    assert (await client.get("/results/object")).status_code == 500


async def test_optional_result_may_be_null(client: httpx.AsyncClient) -> None:
    typed.value = None
    response = await client.delete("/typed")
    assert (response.status_code, response.text) == (200, "null")


async def test_response_instead_of_the_typed_result_is_sent(client: httpx.AsyncClient) -> None:
    typed.value = Response(status_code=304)
    assert (await client.get("/typed")).status_code == 304


async def test_content_type_of_a_reply_replaces_that_of_json(client: httpx.AsyncClient) -> None:
    response = await client.get("/headers")
    assert response.headers.get_list("content-type") == ["application/vnd.item+json"]
    assert response.json()["note"] is None


@pytest.mark.parametrize("method", ["POST", "PUT"])
async def test_reply_may_have_a_header_twice(client: httpx.AsyncClient, method: str) -> None:
    response = await client.request(method, "/headers")
    assert response.headers.get_list("set-cookie") == ["a=1", "b=2"]
    assert response.headers.get_list("content-type") == ["application/json"]


async def test_reply_of_any_type_is_sent(client: httpx.AsyncClient) -> None:
    assert (await client.get("/bare")).json()["note"] is None


async def test_result_may_be_declared_beside_a_response(client: httpx.AsyncClient) -> None:
    assert (await client.post("/bare", json=True)).json()["note"] is None
    assert (await client.post("/bare", json=False)).status_code == 303


async def test_reply_may_be_declared_beside_something_else(client: httpx.AsyncClient) -> None:
    assert (await client.put("/bare", json=True)).headers["x-seen"] == "yes"
    assert (await client.put("/bare", json=False)).text == "null"


async def test_method_that_only_raises_may_say_so(client: httpx.AsyncClient) -> None:
    assert (await client.delete("/bare")).status_code == 410


@pytest.mark.parametrize(
    ("method", "content"),
    [
        ("get", CAMEL_JSON),
        ("post", [CAMEL_JSON]),
        ("put", {"a": CAMEL_JSON, "b": 1}),
        ("patch", {"rowNumber": 1}),
        ("delete", CAMEL_JSON),
    ],
)
async def test_aliases_are_the_names_in_the_response_and_in_its_schema(
    client: httpx.AsyncClient, method: str, content: Any
) -> None:
    response = await client.request(method, "/aliased")
    assert response.json() == content
    document = (await client.get("/openapi.json")).json()
    schema = document["paths"]["/aliased"][method]["responses"]["200"]["content"]["application/json"]["schema"]
    jsonschema.validate(response.json(), {**schema, "components": document["components"]})
    camel = document["components"]["schemas"]["Camel"]
    assert set(camel["properties"]) == set(CAMEL_JSON)
