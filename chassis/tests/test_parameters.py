"""Path and query parameters: bound by name, converted by annotation."""

import typing
from collections import deque
from collections.abc import AsyncIterator, Collection, Iterable, Sequence
from collections.abc import Set as AbstractSet
from datetime import date, datetime
from decimal import Decimal
from enum import Enum, StrEnum
from typing import Annotated, Any, Literal
from uuid import UUID

import httpx
import pytest
from pydantic import BeforeValidator, Field
from starlette.requests import Request

from chassis import Handler, Route

from .support.service import serve


class Colour(StrEnum):
    """An enumeration."""

    RED = "red"
    BLUE = "blue"


class Size(Enum):
    """An enumeration of numbers."""

    SMALL = 1
    LARGE = 2.5


class Item(Handler):
    """Takes its parameters from the path."""

    async def get(self, item_id: int, part: str) -> list[int | str]:
        return [item_id, part]

    async def post(self, request: Request) -> dict[str, str]:
        return dict(request.path_params)


class Query(Handler):
    """Takes its parameters from the query."""

    async def get(
        self,
        limit: Annotated[int, Field(ge=1, le=10)] = 5,
        name: str | None = None,
        tag: list[str] = [],  # noqa: B006 - what a service may well write; the default must not be shared
    ) -> dict[str, Any]:
        tag.append("end")
        return {"limit": limit, "name": name, "tag": tag}

    async def post(self, needed: str) -> str:
        return needed


class Types(Handler):
    """Has parameters of every type."""

    async def get(
        self,
        colour: Colour = Colour.RED,
        key: UUID | None = None,
        at: datetime | None = None,
        day: date | None = None,
        order: Literal["up", "down"] = "up",
        flag: bool = False,
        size: Size | None = None,
        level: Annotated[Literal[1, 2, "2", "most", True], Field(description="How much.")] = 1,
        levels: list[Literal[1, 2]] | None = None,
        price: Decimal = Decimal(0),
        numbers: tuple[int, ...] = (),
        unique: Annotated[set[int] | None, Field(max_length=2)] = None,
    ) -> dict[str, str]:
        return {name: repr(value) for name, value in locals().items() if name != "self"}


SortBy = Annotated[str, Field(alias="sort-by", min_length=2, description="The order.")]


class Aliases(Handler):
    """Has parameters whose names are no names in Python."""

    async def get(
        self,
        order: SortBy = "id",
        size: Annotated[int, Field(validation_alias="page[size]", le=100)] = 20,
        tags: Annotated[list[int] | None, Field(alias="tag[]")] = None,
    ) -> list[Any]:
        return [order, size, tags]


class AliasOfPath(Handler):
    """Has aliases for a path parameter and for a Python keyword."""

    async def get(
        self, number: Annotated[int, Field(alias="item_id")], class_: Annotated[str, Field(alias="class")]
    ) -> list[Any]:
        return [number, class_]


class Collections(Handler):
    """Has parameters that may be repeated, under any name of a collection."""

    async def get(
        self,
        sequence: Sequence[int] = (),
        iterable: Iterable[int] = (),
        collection: Collection[int] | None = None,
        abstract: AbstractSet[int] = frozenset(),
        typed: typing.Sequence[int] | None = None,
        frozen: frozenset[int] | None = None,
        pair: tuple[int, str] | None = None,
        queue: deque[int] | None = None,
        plain: list | None = None,  # type: ignore[type-arg]
        levels: Sequence[Literal[1, 2]] = (),
        commas: Annotated[list[int], BeforeValidator(lambda texts: texts[0].split(","))] = [],  # noqa: B006 - as above
    ) -> dict[str, str]:
        return {name: repr(value) for name, value in locals().items() if name != "self"}


class Converted(Handler):
    """Takes a converted path parameter as text."""

    async def get(self, number: str, key: str) -> list[str]:
        return [number, key]


class Asked(Handler):
    """Takes the request beside its parameters."""

    async def get(self, request: Request, limit: int) -> list[Any]:
        return [request.url.path, request.headers["x-test"], limit]


@pytest.fixture(scope="module")
async def client() -> AsyncIterator[httpx.AsyncClient]:
    routes = [
        Route("/items/{item_id}/{part}", Item()),
        Route("/query", Query()),
        Route("/types", Types()),
        Route("/asked", Asked()),
        Route("/aliases", Aliases()),
        Route("/aliases/{item_id}", AliasOfPath()),
        Route("/collections", Collections()),
        Route("/converted/{number:int}/{key:uuid}", Converted()),
    ]
    async with serve(*routes) as service:
        yield service.client


def errors(response: httpx.Response) -> list[dict[str, str]]:
    """The errors of a 422."""
    assert response.status_code == 422
    assert response.headers["content-type"] == "application/problem+json"
    found: list[dict[str, str]] = response.json()["errors"]
    return found


async def test_path_parameters_are_converted(client: httpx.AsyncClient) -> None:
    assert (await client.get("/items/7/lid")).json() == [7, "lid"]


async def test_path_parameters_are_unquoted(client: httpx.AsyncClient) -> None:
    assert (await client.get("/items/7/%C3%A4%20%2B")).json() == [7, "ä +"]


async def test_wrong_path_parameter_is_422_that_names_it(client: httpx.AsyncClient) -> None:
    (error,) = errors(await client.get("/items/seven/lid"))
    assert (error["in"], error["name"]) == ("path", "item_id")
    assert "integer" in error["detail"]


async def test_handler_may_read_path_parameters_from_the_request(client: httpx.AsyncClient) -> None:
    assert (await client.post("/items/7/lid")).json() == {"item_id": "7", "part": "lid"}


async def test_missing_parameters_have_their_defaults(client: httpx.AsyncClient) -> None:
    assert (await client.get("/query")).json() == {"limit": 5, "name": None, "tag": ["end"]}


async def test_default_list_is_not_shared_between_requests(client: httpx.AsyncClient) -> None:
    for _ in range(2):
        assert (await client.get("/query")).json()["tag"] == ["end"]


async def test_query_parameters_are_converted(client: httpx.AsyncClient) -> None:
    response = await client.get("/query?limit=10&name=a+b%26&tag=x")
    assert response.json() == {"limit": 10, "name": "a b&", "tag": ["x", "end"]}


async def test_list_repeats(client: httpx.AsyncClient) -> None:
    assert (await client.get("/query?tag=x&tag=y&tag=x")).json()["tag"] == ["x", "y", "x", "end"]


async def test_other_query_parameters_are_ignored(client: httpx.AsyncClient) -> None:
    assert (await client.get("/query?utm_source=a&utm_source=b")).status_code == 200


async def test_empty_value_is_a_value(client: httpx.AsyncClient) -> None:
    assert (await client.get("/query?name=")).json()["name"] == ""


async def test_repeated_parameter_is_422(client: httpx.AsyncClient) -> None:
    assert errors(await client.get("/query?limit=1&limit=2")) == [
        {"in": "query", "name": "limit", "detail": "Sent more than once; send one value."}
    ]


async def test_violated_constraint_is_422_with_the_allowed_values(client: httpx.AsyncClient) -> None:
    (error,) = errors(await client.get("/query?limit=11"))
    assert error == {"in": "query", "name": "limit", "detail": "Input should be less than or equal to 10"}


async def test_missing_query_parameter_is_422(client: httpx.AsyncClient) -> None:
    assert errors(await client.post("/query")) == [{"in": "query", "name": "needed", "detail": "Field required"}]


async def test_query_of_too_many_fields_is_400(client: httpx.AsyncClient) -> None:
    response = await client.get("/query?" + "&".join(["tag="] * 1001))
    assert response.status_code == 400
    assert "1000" in response.json()["detail"]


async def test_query_that_is_not_utf8_is_not_an_error(client: httpx.AsyncClient) -> None:
    assert (await client.get("/query?name=%ff%fe")).status_code == 200


@pytest.mark.parametrize(
    ("query", "name", "value"),
    [
        ("colour=blue", "colour", "<Colour.BLUE: 'blue'>"),
        ("key=12345678123456781234567812345678", "key", "UUID('12345678-1234-5678-1234-567812345678')"),
        ("at=2026-01-02T03:04:05Z", "at", "datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=TzInfo(0))"),
        ("day=2026-01-02", "day", "datetime.date(2026, 1, 2)"),
        ("order=down", "order", "'down'"),
        ("flag=true", "flag", "True"),
        ("size=1", "size", "<Size.SMALL: 1>"),
        ("size=2.5", "size", "<Size.LARGE: 2.5>"),
        ("level=1", "level", "1"),
        ("level=2", "level", "'2'"),
        ("level=most", "level", "'most'"),
        ("level=true", "level", "True"),
        ("levels=2&levels=1", "levels", "[2, 1]"),
        ("price=1.50", "price", "Decimal('1.50')"),
        ("numbers=1&numbers=2", "numbers", "(1, 2)"),
        ("unique=1&unique=1", "unique", "{1}"),
    ],
)
async def test_types_are_converted(client: httpx.AsyncClient, query: str, name: str, value: str) -> None:
    response = (await client.get(f"/types?{query}")).json()
    assert response[name].replace("TzInfo(UTC)", "TzInfo(0)") == value


@pytest.mark.parametrize(
    "query",
    [
        "colour=green",
        "size=3",
        "level=3",
        "levels=3",
        "key=1",
        "at=yesterday",
        "day=2026-02-30",
        "order=UP",
        "flag=maybe",
        "price=x",
        "numbers=1&numbers=a",
    ],
)
async def test_value_of_another_type_is_422(client: httpx.AsyncClient, query: str) -> None:
    (error,) = errors(await client.get(f"/types?{query}"))
    assert error["name"] == query.partition("=")[0]


@pytest.mark.parametrize(
    ("query", "values"),
    [
        ("", ["id", 20, None]),
        ("sort-by=name&page%5Bsize%5D=5&tag[]=1&tag[]=2", ["name", 5, [1, 2]]),
        ("order=name&size=5&tags=1", ["id", 20, None]),
    ],
)
async def test_alias_is_the_name_in_the_request(client: httpx.AsyncClient, query: str, values: list[Any]) -> None:
    assert (await client.get(f"/aliases?{query}")).json() == values


async def test_422_names_the_alias(client: httpx.AsyncClient) -> None:
    found = errors(await client.get("/aliases?sort-by=x&page[size]=101&tag[]=x"))
    assert [one["name"] for one in found] == ["sort-by", "page[size]", "tag[]"]
    assert errors(await client.get("/aliases?sort-by=name&sort-by=id"))[0]["name"] == "sort-by"


async def test_path_parameter_may_have_an_alias(client: httpx.AsyncClient) -> None:
    assert (await client.get("/aliases/7?class=a")).json() == [7, "a"]
    found = errors(await client.get("/aliases/x"))
    assert [(one["in"], one["name"]) for one in found] == [("path", "item_id"), ("query", "class")]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("sequence", "[1, 2]"),
        ("iterable", "[1, 2]"),
        ("collection", "[1, 2]"),
        ("abstract", "{1, 2}"),
        ("typed", "[1, 2]"),
        ("frozen", "frozenset({1, 2})"),
        ("pair", "(1, '2')"),
        ("queue", "deque([1, 2])"),
        ("plain", "['1', '2']"),
        ("levels", "[1, 2]"),
    ],
)
async def test_any_collection_may_be_repeated(client: httpx.AsyncClient, name: str, value: str) -> None:
    response = await client.get(f"/collections?{name}=1&{name}=2")
    assert response.json()[name] == value


async def test_owner_may_split_a_value(client: httpx.AsyncClient) -> None:
    assert (await client.get("/collections?commas=1,2")).json()["commas"] == "[1, 2]"


async def test_wrong_item_of_a_collection_is_422(client: httpx.AsyncClient) -> None:
    found = errors(await client.get("/collections?sequence=x&iterable=x"))
    assert [one["name"] for one in found] == ["sequence", "iterable"]


async def test_converted_value_may_be_read_as_text(client: httpx.AsyncClient) -> None:
    key = "12345678-1234-5678-1234-567812345678"
    assert (await client.get(f"/converted/7/{key}")).json() == ["7", key]


async def test_request_is_bound_beside_parameters(client: httpx.AsyncClient) -> None:
    response = await client.get("/asked?limit=3", headers={"x-test": "yes"})
    assert response.json() == ["/asked", "yes", 3]


async def test_every_wrong_parameter_is_named(client: httpx.AsyncClient) -> None:
    found = errors(await client.get("/types?colour=green&flag=maybe&price=x"))
    assert [one["name"] for one in found] == ["colour", "flag", "price"]
