"""Pages: cursors that clients pass on, and links to the other pages."""

import re
from datetime import datetime
from typing import Annotated, Any
from urllib.parse import parse_qsl, urljoin, urlsplit
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field, TypeAdapter, ValidationError
from starlette.requests import Request
from starlette.routing import Mount

from chassis import Cursor, Handler, Reply, Route, page, page_links

from .support.service import Service, serve

LINK = re.compile(r'<([!#$%&-;=?-Z_a-z~]*)>; rel="(\w+)"')  # with the characters of a URI reference (RFC 3986)


class Order(BaseModel):
    number: int


class Orders(Handler):
    """Ten orders."""

    async def get(
        self,
        request: Request,
        limit: Annotated[int, Field(ge=1, le=100)] = 3,
        cursor: Cursor[int] | None = None,
        city: str | None = None,
    ) -> Reply[list[Order]]:
        """List the orders."""
        after = cursor.position if cursor else 0
        orders = [Order(number=number) for number in range(after + 1, 11)]
        return page(request, orders[: limit + 1], limit=limit, position=lambda order: order.number)


def links(response: Any) -> dict[str, str]:
    """The targets by relation, resolved as a client does (RFC 8288, section 3.1)."""
    value = response.headers["link"]
    found = LINK.findall(value)
    assert ", ".join(f'<{target}>; rel="{relation}"' for target, relation in found) == value
    return {relation: urljoin(str(response.url), target) for target, relation in found}


async def followed(service: Service, url: str) -> list[list[int]]:
    """The numbers on each page from `url` on."""
    pages = []
    following: str | None = url
    while following:
        response = await service.client.get(following)
        assert response.status_code == 200
        pages.append([order["number"] for order in response.json()])
        following = links(response).get("next")
    return pages


async def test_links_lead_through_all_pages() -> None:
    async with serve(Route("/orders", Orders())) as service:
        assert await followed(service, "/orders") == [[1, 2, 3], [4, 5, 6], [7, 8, 9], [10]]
        assert await followed(service, "/orders?limit=5") == [[1, 2, 3, 4, 5], [6, 7, 8, 9, 10]]
        assert await followed(service, "/orders?limit=100") == [list(range(1, 11))]


@pytest.mark.parametrize("query", ["?limit=4", "", "?city=Z%C3%BCrich&limit=4&x=a+b"])
async def test_first_page_is_linked_from_each(query: str) -> None:
    async with serve(Route("/orders", Orders())) as service:
        url = f"{service.client.base_url}/orders{query}"
        first = await service.client.get(url)
        second = await service.client.get(links(first)["next"])
        assert links(second)["first"] == url
        assert second.json() != first.json()


async def test_other_parameters_are_kept_as_they_were_sent() -> None:
    async with serve(Route("/orders", Orders())) as service:
        response = await service.client.get("/orders?city=Z%C3%BCrich&x=a%26b&x=&cursor=1MQ&limit=2&y")
        assert response.json()[0] == {"number": 2}
        query = urlsplit(links(response)["next"]).query
        assert query == "city=Z%C3%BCrich&x=a%26b&x=&limit=2&y&cursor=1Mw"
        assert links(response)["first"].endswith("/orders?city=Z%C3%BCrich&x=a%26b&x=&limit=2&y")


async def test_links_are_right_behind_a_prefix_that_a_proxy_removes_and_in_a_mount() -> None:
    async with serve(Route("/orders", Orders()), Mount("/v1", routes=[Route("/orders", Orders())])) as service:
        for path in ("/orders", "/v1/orders", "/v1/orders?limit=4"):
            response = await service.client.get(path)
            target = LINK.findall(response.headers["link"])[1][0]
            outside = urljoin(f"https://shop.example/api{path}", target)
            assert urlsplit(outside).path == urlsplit(f"/api{path}").path
            assert "cursor" in dict(parse_qsl(urlsplit(outside).query))


@given(st.binary(max_size=40))
def test_any_query_makes_a_valid_link(query: bytes) -> None:
    scope = {"type": "http", "path": "/o rders<", "query_string": query, "headers": []}
    value = page_links(Request(scope), next=Cursor(1))
    targets = {relation: target for target, relation in LINK.findall(value)}
    assert list(targets) == ["first", "next"]
    assert dict(parse_qsl(targets["next"].removeprefix("?"), encoding="latin-1"))["cursor"] == "1MQ"


@pytest.mark.parametrize(
    "cursor", ["", "x", "1", "2MQ", "MQ", "1M!Q==", "1eA", "1IngiCg", "1bnVsbA", "1\xfc", "1" + "M" * 2000]
)
async def test_broken_cursor_is_422_with_a_sentence(cursor: str) -> None:
    async with serve(Route("/orders", Orders())) as service:
        response = await service.client.get("/orders", params={"cursor": cursor})
        assert response.status_code == 422
        (error,) = response.json()["errors"]
        assert error == {
            "in": "query",
            "name": "cursor",
            "detail": "The cursor is not valid for this collection; start again from the first page",
        }


@given(st.text())
def test_any_text_is_a_cursor_or_a_validation_error(text: str) -> None:
    adapter: TypeAdapter[Cursor[tuple[datetime, UUID]]] = TypeAdapter(Cursor[tuple[datetime, UUID]])
    for attempt in (text, f"1{text}"):
        with pytest.raises(ValidationError):
            adapter.validate_python(attempt)


@given(st.datetimes(), st.uuids(), st.text(st.characters(exclude_categories=["Cs"])))
def test_cursor_is_read_as_it_was_written(time: datetime, number: UUID, name: str) -> None:
    cursor = Cursor((time, number, name))
    text = str(cursor)
    assert re.fullmatch("[A-Za-z0-9_-]+", text)
    kind: Any = Cursor[tuple[datetime, UUID, str]]
    assert TypeAdapter(kind).validate_python(text) == cursor


async def test_openapi_shows_a_cursor_as_text() -> None:
    async with serve(Route("/orders", Orders())) as service:
        operation = service.app.openapi["paths"]["/orders"]["get"]
        (parameter,) = [one for one in operation["parameters"] if one["name"] == "cursor"]
        assert parameter["required"] is False
        assert "'string'" in str(parameter["schema"])
        schema = operation["responses"]["200"]["content"]["application/json"]["schema"]
        assert schema["type"] == "array"


def test_links_to_both_sides() -> None:
    request = Request({"type": "http", "path": "/", "query_string": b"limit=2&after=x", "headers": []})
    links = page_links(request, next=Cursor(4), prev=Cursor((True, 3)), first=False, parameter="after")
    assert links == '<?limit=2&after=1W3RydWUsM10>; rel="prev", <?limit=2&after=1NA>; rel="next"'
