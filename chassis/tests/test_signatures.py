"""Mistakes in a handler's signature stop the start, with a message that says which and where."""

from collections.abc import Callable
from typing import Any

import pytest
from pydantic import BaseModel
from starlette.requests import Request

from chassis import Handler, Route
from chassis.api.operation import SignatureError
from chassis.api.routing import Router

METHODS = "get, post, put, patch, delete"


class Model(BaseModel):
    """Structured data."""

    name: str


class Opaque:
    """What pydantic knows nothing of."""


def handler(method: Callable[..., Any]) -> Handler:
    """A handler `Broken` with this as its `get`."""
    made: Handler = type("Broken", (Handler,), {"get": method})()
    return made


async def no_annotation(self: Handler, limit) -> None: ...  # type: ignore[no-untyped-def]


async def unknown_name(self: Handler, limit: "Missing") -> None: ...  # type: ignore[name-defined] # noqa: F821


async def unknown_type(self: Handler, limit: Opaque) -> None: ...


async def unknown_result(self: Handler) -> Opaque:
    return Opaque()


async def many(self: Handler, *limits: int) -> None: ...


async def keywords(self: Handler, **limits: int) -> None: ...


async def positional(self: Handler, limit: int, /) -> None: ...


async def structured(self: Handler, filter: Model) -> None: ...  # noqa: A002 - what a service might call it


async def mapping(self: Handler, limits: dict[str, int]) -> None: ...


async def request_of_another_type(self: Handler, request: str) -> None: ...


async def request_of_another_name(self: Handler, asked: Request) -> None: ...


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (no_annotation, r"Broken\.get: parameter 'limit' has no annotation"),
        (unknown_name, r"Broken\.get: unknown annotation: name 'Missing' is not defined"),
        (unknown_type, r"Broken\.get: unknown annotation of 'limit': .*Opaque"),
        (unknown_result, r"Broken\.get: unknown annotation of 'return': .*Opaque"),
        (many, r"Broken\.get: parameter 'limits' cannot be passed by name"),
        (keywords, r"Broken\.get: parameter 'limits' cannot be passed by name"),
        (positional, r"Broken\.get: parameter 'limit' cannot be passed by name"),
        (structured, r"Broken\.get: query parameter 'filter' cannot hold .*Model.*name it 'body'"),
        (mapping, r"Broken\.get: query parameter 'limits' cannot hold dict.*name it 'body'"),
        (request_of_another_type, r"Broken\.get: write 'request: Request'"),
        (request_of_another_name, r"Broken\.get: write 'request: Request'"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_mistake_is_told(method: Callable[..., Any], message: str) -> None:
    with pytest.raises(SignatureError, match=message):
        Route("/items", handler(method))


async def optional_structured(self: Handler, filter: Model | None = None) -> None: ...  # noqa: A002 - as above


async def list_of_structured(self: Handler, filters: list[Model]) -> None: ...


@pytest.mark.parametrize("method", [optional_structured, list_of_structured])
def test_structured_query_parameter_is_told_wherever_it_hides(method: Callable[..., Any]) -> None:
    with pytest.raises(SignatureError, match="cannot hold"):
        Route("/items", handler(method))


def test_unclaimed_path_parameter_is_told() -> None:
    async def get(self: Handler, order: str) -> None: ...

    with pytest.raises(SignatureError, match=r"path has 'order_id', but the method's parameters are 'order'"):
        Route("/orders/{order_id}", handler(get))


def test_path_parameter_with_a_default_is_told() -> None:
    async def get(self: Handler, order_id: int = 1) -> None: ...

    with pytest.raises(
        SignatureError, match=r"path parameter 'order_id' is always present, so it cannot have a default"
    ):
        Route("/orders/{order_id}", handler(get))


def test_handler_without_methods_is_told() -> None:
    class Empty(Handler):
        """Nothing to see."""

    with pytest.raises(SignatureError, match=f"Empty has none of the methods {METHODS}"):
        Route("/", Empty())


def test_class_instead_of_an_instance_is_told() -> None:
    class Orders(Handler):
        async def get(self) -> None: ...

    with pytest.raises(SignatureError, match=r"/orders: .*Orders.* is not an instance of Handler"):
        Route("/orders", Orders)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("/orders", "/orders"),
        ("/orders/{a}", "/orders/{b}"),
        ("/orders/{a:int}", "/orders/{a:int}"),
    ],
)
def test_two_handlers_on_one_path_are_told(one: str, other: str) -> None:
    class Orders(Handler):
        async def get(self, request: Request) -> None: ...

    with pytest.raises(SignatureError, match="two handlers on one path"):
        Router([Route(one, Orders()), Route(other, Orders())])
