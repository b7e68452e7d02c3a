"""Path and query parameters: found by name, converted by annotation."""

from collections.abc import AsyncIterator
from datetime import date, datetime
from decimal import Decimal
from enum import Enum, StrEnum
from typing import Annotated, Any, Literal
from uuid import UUID

import httpx
import pytest
from pydantic import Field
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
    """Has a parameter of each kind."""

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
    ]
    async with serve(*routes) as service:
        yield service.client


def errors(answer: httpx.Response) -> list[dict[str, str]]:
    """The errors of a 422."""
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    found: list[dict[str, str]] = answer.json()["errors"]
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


async def test_defaults_stand_in(client: httpx.AsyncClient) -> None:
    assert (await client.get("/query")).json() == {"limit": 5, "name": None, "tag": ["end"]}


async def test_default_list_is_not_shared_between_requests(client: httpx.AsyncClient) -> None:
    for _ in range(2):
        assert (await client.get("/query")).json()["tag"] == ["end"]


async def test_query_parameters_are_converted(client: httpx.AsyncClient) -> None:
    answer = await client.get("/query?limit=10&name=a+b%26&tag=x")
    assert answer.json() == {"limit": 10, "name": "a b&", "tag": ["x", "end"]}


async def test_list_repeats(client: httpx.AsyncClient) -> None:
    assert (await client.get("/query?tag=x&tag=y&tag=x")).json()["tag"] == ["x", "y", "x", "end"]


async def test_other_query_parameters_are_ignored(client: httpx.AsyncClient) -> None:
    assert (await client.get("/query?utm_source=a&utm_source=b")).status_code == 200


async def test_empty_value_is_a_value(client: httpx.AsyncClient) -> None:
    assert (await client.get("/query?name=")).json()["name"] == ""


async def test_given_twice_is_422(client: httpx.AsyncClient) -> None:
    assert errors(await client.get("/query?limit=1&limit=2")) == [
        {"in": "query", "name": "limit", "detail": "Sent more than once."}
    ]


async def test_constraint_is_422_that_says_what_is_allowed(client: httpx.AsyncClient) -> None:
    (error,) = errors(await client.get("/query?limit=11"))
    assert error == {"in": "query", "name": "limit", "detail": "Input should be less than or equal to 10"}


async def test_missing_query_parameter_is_422(client: httpx.AsyncClient) -> None:
    assert errors(await client.post("/query")) == [{"in": "query", "name": "needed", "detail": "Field required"}]


async def test_query_of_too_many_fields_is_400(client: httpx.AsyncClient) -> None:
    answer = await client.get("/query?" + "&".join(["tag="] * 1001))
    assert answer.status_code == 400
    assert "1000" in answer.json()["detail"]


async def test_query_that_is_no_utf8_is_not_an_error(client: httpx.AsyncClient) -> None:
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
    answer = (await client.get(f"/types?{query}")).json()
    assert answer[name].replace("TzInfo(UTC)", "TzInfo(0)") == value


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
async def test_value_that_is_no_such_type_is_422(client: httpx.AsyncClient, query: str) -> None:
    (error,) = errors(await client.get(f"/types?{query}"))
    assert error["name"] == query.partition("=")[0]


async def test_request_is_bound_beside_parameters(client: httpx.AsyncClient) -> None:
    answer = await client.get("/asked?limit=3", headers={"x-test": "yes"})
    assert answer.json() == ["/asked", "yes", 3]


async def test_every_wrong_parameter_is_named(client: httpx.AsyncClient) -> None:
    found = errors(await client.get("/types?colour=green&flag=maybe&price=x"))
    assert [one["name"] for one in found] == ["colour", "flag", "price"]
