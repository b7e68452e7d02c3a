"""Conditional requests: entity tags, their comparison, and the order of preconditions."""

from datetime import UTC, datetime, timedelta, timezone
from email.utils import format_datetime
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel
from starlette.datastructures import Headers
from starlette.requests import Request

from chassis import Handler, Reply, Route, check_conditions, conditional, etag_of
from chassis.conditional_requests import ENTITY_TAG, precondition_status

from .support.service import serve

NOON = datetime(2026, 11, 27, 12, tzinfo=UTC)


class Order(BaseModel):
    number: int
    version: int = 1


# Entity tags.


@pytest.mark.parametrize(
    ("value", "tag"),
    [
        (7, '"7"'),
        ("v1.2", '"v1.2"'),
        (UUID(int=1), '"00000000-0000-0000-0000-000000000001"'),
        ('"7"', '"7"'),
        ('W/"7"', 'W/"7"'),
    ],
)
def test_version_is_its_own_tag(value: object, tag: str) -> None:
    assert etag_of(value) == tag


@given(st.one_of(st.text(), st.integers(), st.dictionaries(st.text(), st.integers()), st.none()))
def test_any_value_has_a_tag_that_a_header_can_hold(value: object) -> None:
    try:
        tag, weak = etag_of(value), etag_of(value, weak=True)
    except ValueError:  # lone surrogates, which are no text
        return
    assert ENTITY_TAG.fullmatch(tag)
    assert ENTITY_TAG.fullmatch(weak)
    assert etag_of(tag) == tag
    assert weak.startswith("W/")


def test_models_with_other_content_have_other_tags() -> None:
    assert etag_of(Order(number=1)) == etag_of(Order(number=1))
    assert etag_of(Order(number=1)) != etag_of(Order(number=2))


# Preconditions. Tags are pairs of whether they are weak, and what they say.

Tag = tuple[bool, str]
tags = st.tuples(st.booleans(), st.sampled_from(["a", "b", "a,b", ""]))
lists = st.none() | st.just("*") | st.lists(tags, min_size=1, max_size=3)
dates = st.none() | st.integers(-2, 2).map(lambda seconds: NOON + timedelta(seconds=seconds))


def written(tag: Tag) -> str:
    return f'{"W/" if tag[0] else ""}"{tag[1]}"'


def fields(**given: Any) -> Headers:
    """Header fields, of lists of tags, and of dates."""
    found = {}
    for name, value in given.items():
        if isinstance(value, datetime):
            found[name.replace("_", "-")] = format_datetime(value, usegmt=True)
        elif value is not None:
            found[name.replace("_", "-")] = value if value == "*" else " , ".join(map(written, value))
    return Headers(found)


@given(
    method=st.sampled_from(["GET", "HEAD", "PUT", "PATCH", "POST", "DELETE"]),
    etag=st.none() | tags,
    modified=dates,
    if_match=lists,
    if_none_match=lists,
    unmodified_since=dates,
    modified_since=dates,
)
def test_preconditions_are_evaluated_in_the_order_of_the_rfc(
    method: str,
    etag: Tag | None,
    modified: datetime | None,
    if_match: Any,
    if_none_match: Any,
    unmodified_since: datetime | None,
    modified_since: datetime | None,
) -> None:
    def expected() -> int | None:
        exists = etag is not None or modified is not None
        if if_match is not None:  # steps 1 and 2 of section 13.2.2
            matches = exists if if_match == "*" else etag is not None and not etag[0] and etag in if_match
            if not matches:
                return 412
        elif unmodified_since is not None and modified is not None and modified > unmodified_since:
            return 412
        if if_none_match is not None:  # steps 3 and 4
            same = exists if if_none_match == "*" else etag is not None and etag[1] in [one[1] for one in if_none_match]
            if same:
                return 304 if method in ("GET", "HEAD") else 412
        elif method in ("GET", "HEAD") and modified_since is not None and modified is not None:
            return 304 if modified <= modified_since else None
        return None

    headers = fields(
        if_match=if_match,
        if_none_match=if_none_match,
        if_unmodified_since=unmodified_since,
        if_modified_since=modified_since,
    )
    tag = None if etag is None else written(etag)
    assert precondition_status(method, headers, etag=tag, last_modified=modified) == expected()


header_text = st.text(st.characters(max_codepoint=255))


@given(header_text, st.sampled_from(["If-Match", "If-None-Match"]))
def test_any_field_of_a_get_is_understood_or_ignored(value: str, name: str) -> None:
    assert precondition_status("GET", Headers({name: value}), etag='"a"') in (None, 304, 412)


@given(header_text)
def test_invalid_date_is_ignored(value: str) -> None:
    headers = Headers({"if-modified-since": f"x{value}", "if-unmodified-since": f"x{value}"})
    assert precondition_status("GET", headers, last_modified=NOON) is None


@pytest.mark.parametrize(
    "noon", ["Fri, 27 Nov 2026 12:00:00 GMT", "Friday, 27-Nov-26 12:00:00 GMT", "Fri Nov 27 12:00:00 2026"]
)
def test_dates_are_read_in_every_notation(noon: str) -> None:
    headers = Headers({"if-modified-since": noon})
    assert precondition_status("GET", headers, last_modified=NOON) == 304
    assert precondition_status("GET", headers, last_modified=NOON.replace(microsecond=900_000)) == 304
    assert precondition_status("GET", headers, last_modified=NOON.astimezone(timezone(timedelta(hours=2)))) == 304
    assert precondition_status("GET", headers, last_modified=NOON + timedelta(seconds=1)) is None


def test_date_does_not_replace_an_invalid_entity_tag() -> None:
    yesterday = format_datetime(NOON - timedelta(days=1), usegmt=True)
    tomorrow = format_datetime(NOON + timedelta(days=1), usegmt=True)
    for headers in (
        {"if-match": "7", "if-unmodified-since": yesterday},
        {"if-none-match": "7", "if-modified-since": tomorrow},
    ):
        assert precondition_status("GET", Headers(headers), etag='"7"', last_modified=NOON) is None


def test_list_over_several_lines_is_one_list() -> None:
    headers = Headers(raw=[(b"if-none-match", b'"a"'), (b"if-none-match", b', "b" ,,')])
    assert precondition_status("GET", headers, etag='"b"') == 304


# Over HTTP.


class Orders(Handler):
    """One order."""

    def __init__(self) -> None:
        self.order: Order | None = Order(number=1)

    async def get(self, request: Request) -> Reply[Order | None]:
        """Read it."""
        etag = None if self.order is None else self.order.version
        return conditional(request, self.order, etag=etag, headers={"Cache-Control": "private"}, last_modified=NOON)

    async def put(self, body: Order, request: Request) -> Reply[Order]:
        """Replace it, or make it."""
        version = 0 if self.order is None else self.order.version
        check_conditions(request, etag=version or None, required=True)
        self.order = Order(number=body.number, version=version + 1)
        return Reply(self.order, {"etag": etag_of(version + 1)})


async def test_client_that_has_the_version_gets_304_without_content() -> None:
    async with serve(Route("/", Orders())) as service:
        first = await service.client.get("/")
        assert (first.status_code, first.headers["etag"]) == (200, '"1"')
        for method in ("GET", "HEAD"):
            again = await service.client.request(method, "/", headers={"if-none-match": first.headers["etag"]})
            assert (again.status_code, again.content) == (304, b"")
            names = ("etag", "cache-control", "last-modified")
            assert [again.headers[name] for name in names] == [first.headers[name] for name in names]
            assert "content-type" not in again.headers
        assert first.headers["cache-control"] == "private"
        assert (await service.client.get("/", headers={"if-none-match": '"2"'})).json()["number"] == 1
        assert (await service.client.get("/", headers={"if-match": '"2"'})).status_code == 412


async def test_change_of_another_version_is_rejected() -> None:
    async with serve(Route("/", Orders())) as service:

        async def put(**headers: str) -> tuple[int, str | None]:
            names = {name.replace("_", "-"): value for name, value in headers.items()}
            response = await service.client.put("/", json={"number": 2}, headers=names)
            return response.status_code, response.headers.get("etag")

        assert await put() == (428, None)
        assert await put(if_unmodified_since="Fri, 27 Nov 2026 12:00:00 GMT") == (428, None)
        assert await put(if_match='"1"') == (200, '"2"')
        assert await put(if_match='"1"') == (412, '"2"')
        assert await put(if_match='W/"2"') == (412, '"2"')
        assert await put(if_none_match="*") == (412, '"2"')
        assert await put(if_match='"1", "2"') == (200, '"3"')
        assert await put(if_match="3") == (400, None)
        assert await put(if_match="*") == (200, '"4"')


async def test_resource_is_created_only_if_it_does_not_exist() -> None:
    orders = Orders()
    orders.order = None
    async with serve(Route("/", orders)) as service:
        assert (await service.client.put("/", json={"number": 1}, headers={"if-match": "*"})).status_code == 412
        for status in (200, 412):
            response = await service.client.put("/", json={"number": 1}, headers={"if-none-match": "*"})
            assert response.status_code == status
