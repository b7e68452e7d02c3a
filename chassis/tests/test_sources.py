"""Parameters from headers, cookies and groups of the query."""

from collections.abc import AsyncIterator
from enum import IntEnum
from typing import Annotated, Any, Literal

import httpx
import pytest
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request

from chassis import Cookie, Form, Handler, Header, Query, Route, SignatureError, UploadFile
from chassis.api.routing import Router

from .support.service import serve


class Level(IntEnum):
    LOW = 1
    HIGH = 2


class Filter(BaseModel):
    """A filter of a list."""

    model_config = ConfigDict(extra="forbid")

    page_size: int = Field(20, ge=1, le=100, alias="page[size]", description="Items of a page.")
    sort: list[str] = []
    level: Level = Level.LOW
    kind: Literal[1, 2] | None = None


class Common(BaseModel):
    """Header fields of every client."""

    user_agent: str
    x_tenant: int = 1


class Headers(Handler):
    """Reads header fields."""

    async def get(
        self,
        user_agent: Annotated[str, Header()],
        tenant: Annotated[int, Header("X-Tenant_Id"), Field(ge=1)] = 7,
        x_tag: Annotated[list[str] | None, Header()] = None,
        accept_language: Annotated[str, Header()] = "",
    ) -> dict[str, Any]:
        return {"agent": user_agent, "tenant": tenant, "tags": x_tag, "language": accept_language}


class Cookies(Handler):
    """Reads cookies."""

    async def get(self, session: Annotated[str, Cookie()], count: Annotated[int, Cookie("n")] = 0) -> list[str | int]:
        return [session, count]


class Filtered(Handler):
    """Reads a group of the query, and another parameter."""

    async def get(self, found: Annotated[Filter, Query()], limit: int = 3) -> dict[str, Any]:
        return {"filter": found.model_dump(mode="json"), "limit": limit, "is_filter": isinstance(found, Filter)}


class Commons(Handler):
    """Reads a group of header fields."""

    async def get(self, common: Annotated[Common, Header()], request: Request) -> Common:
        return common


@pytest.fixture(scope="module")
async def client() -> AsyncIterator[httpx.AsyncClient]:
    routes = [
        Route("/headers", Headers()),
        Route("/cookies", Cookies()),
        Route("/filtered", Filtered()),
        Route("/common", Commons()),
    ]
    async with serve(*routes) as service:
        yield service.client


def errors(response: httpx.Response) -> list[dict[str, Any]]:
    assert response.status_code == 422
    found: list[dict[str, Any]] = response.json()["errors"]
    return found


async def test_underscores_of_a_header_parameter_become_hyphens(client: httpx.AsyncClient) -> None:
    response = await client.get("/headers", headers={"User-Agent": "test/1"})
    assert response.json() == {"agent": "test/1", "tenant": 7, "tags": None, "language": ""}


async def test_header_may_have_an_explicit_name(client: httpx.AsyncClient) -> None:
    response = await client.get("/headers", headers={"x-tenant_id": "12"})
    assert response.json()["tenant"] == 12


async def test_lines_of_one_header_are_one_value(client: httpx.AsyncClient) -> None:
    lines = [("accept-language", "de"), ("Accept-Language", "en;q=0.5")]
    response = await client.get("/headers", headers=lines)
    assert response.json()["language"] == "de, en;q=0.5"


@pytest.mark.parametrize("lines", [["a, b", "c"], ["a,b,c"], ["a", "b", "c"], ["a,, b ,c,"]])
async def test_list_gets_the_members_of_all_lines_of_a_header(client: httpx.AsyncClient, lines: list[str]) -> None:
    response = await client.get("/headers", headers=[("x-tag", line) for line in lines])
    assert response.json()["tags"] == ["a", "b", "c"]


async def test_comma_inside_quotes_is_not_a_separator(client: httpx.AsyncClient) -> None:
    response = await client.get("/headers", headers={"x-tag": '"a, \\" b", c'})
    assert response.json()["tags"] == ['"a, \\" b"', "c"]


async def test_invalid_header_is_422(client: httpx.AsyncClient) -> None:
    (error,) = errors(await client.get("/headers", headers={"x-tenant_id": "0"}))
    assert (error["in"], error["name"]) == ("header", "x-tenant_id")


async def test_missing_cookie_is_422(client: httpx.AsyncClient) -> None:
    (error,) = errors(await client.get("/cookies"))
    assert (error["in"], error["name"], error["detail"]) == ("cookie", "session", "Field required")


async def test_cookies_are_bound(client: httpx.AsyncClient) -> None:
    response = await client.get("/cookies", headers={"cookie": "session=abc; n=3; other=x"})
    assert response.json() == ["abc", 3]


async def test_group_of_the_query_is_a_model(client: httpx.AsyncClient) -> None:
    response = await client.get("/filtered?page[size]=5&sort=a&sort=b&level=2&kind=2&limit=9")
    filtered = {"page_size": 5, "sort": ["a", "b"], "level": 2, "kind": 2}
    assert response.json() == {"filter": filtered, "limit": 9, "is_filter": True}


async def test_group_without_any_of_its_fields_has_its_defaults(client: httpx.AsyncClient) -> None:
    response = await client.get("/filtered")
    assert response.json()["filter"] == {"page_size": 20, "sort": [], "level": 1, "kind": None}


@pytest.mark.parametrize(
    ("query", "name"),
    [("page[size]=0", "page[size]"), ("level=3", "level"), ("other=1", "other"), ("kind=1&kind=2", "kind")],
)
async def test_invalid_field_of_a_group_is_named_as_in_the_request(
    client: httpx.AsyncClient, query: str, name: str
) -> None:
    (error,) = errors(await client.get(f"/filtered?{query}"))
    assert (error["in"], error["name"]) == ("query", name)


async def test_group_of_headers_is_a_model(client: httpx.AsyncClient) -> None:
    response = await client.get("/common", headers={"user-agent": "test", "x-tenant": "4"})
    assert response.json() == {"user_agent": "test", "x_tenant": 4}


async def test_headers_cookies_and_groups_are_in_openapi(client: httpx.AsyncClient) -> None:
    paths = (await client.get("/openapi.json")).json()["paths"]
    headers = {one["name"]: one for one in paths["/headers"]["get"]["parameters"]}
    assert {name: one["in"] for name, one in headers.items()} == dict.fromkeys(headers, "header")
    assert set(headers) == {"user-agent", "x-tenant_id", "x-tag", "accept-language"}
    assert (headers["user-agent"]["required"], headers["x-tenant_id"]["schema"]["minimum"]) == (True, 1)
    assert [one["in"] for one in paths["/cookies"]["get"]["parameters"]] == ["cookie", "cookie"]
    size = paths["/filtered"]["get"]["parameters"][0]
    assert (size["name"], size["in"], size["description"]) == ("page[size]", "query", "Items of a page.")
    assert size["schema"]["default"] == 20
    assert {one["name"] for one in paths["/filtered"]["get"]["parameters"]} == {
        *("page[size]", "sort", "level", "kind", "limit")
    }


class Inner(BaseModel):
    inner: Common


async def marker_class(self: Handler, agent: Annotated[str, Header]) -> None: ...


async def two_places(self: Handler, agent: Annotated[str, Header(), Cookie()]) -> None: ...


async def marker_inside(self: Handler, agent: list[Annotated[str, Header()]]) -> None: ...


async def same_header(self: Handler, a_b: Annotated[str, Header()], other: Annotated[str, Header("A-B")]) -> None: ...


async def file_in_header(self: Handler, file: Annotated[UploadFile, Header()]) -> None: ...


async def default_of_group(self: Handler, common: Annotated[Common, Header()] = Common(user_agent="")) -> None: ...  # noqa: B008


async def nested_group(self: Handler, group: Annotated[Inner, Query()]) -> None: ...


async def body_and_form(self: Handler, body: Common, name: Annotated[str, Form()]) -> None: ...


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (marker_class, "'agent' is marked with the class Header; write Header()"),
        (two_places, "'agent' is marked with Header() and Cookie(); keep one of them"),
        (marker_inside, "'agent' has Header() on a part of its type"),
        (same_header, "'a_b' and 'other' are both 'a-b' in the request"),
        (file_in_header, "'file' is a file, which cannot be in the header"),
        (default_of_group, "'common' is a group of header parameters and cannot have a name or default of its own"),
        (nested_group, "parameter 'group.inner' cannot be of type"),
        (body_and_form, "a request has one body"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_invalid_signature_is_explained(method: Any, message: str) -> None:
    broken = type("Broken", (Handler,), {"get": method})()
    with pytest.raises(SignatureError, match=message.replace("(", r"\(").replace(")", r"\)")):
        Router([Route("/items", broken)])
