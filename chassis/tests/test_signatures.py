"""Mistakes in a handler's signature stop the start, with a message that explains them."""

from collections.abc import Callable, Iterable
from functools import wraps
from typing import Annotated, Any, NamedTuple, TypeVar

import pytest
from pydantic import AliasChoices, AliasPath, BaseModel, Field
from starlette.requests import Request
from starlette.responses import PlainTextResponse

from chassis import Handler, Reply, Route, responds
from chassis.api.errors import SignatureError
from chassis.api.routing import Router

METHODS = "get, post, put, patch, delete"


class Model(BaseModel):
    """Structured data."""

    name: str


class Pair(NamedTuple):
    """Two values."""

    low: int
    high: int


T = TypeVar("T")


class Opaque:
    """A class that pydantic does not support."""


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


async def two_bodies(self: Handler, body: Model, other: Model) -> None: ...


async def strict(self: Handler, limit: Annotated[int, Field(strict=True)]) -> None: ...


async def nested_lists(self: Handler, limits: list[list[int]]) -> None: ...


async def one_or_several(self: Handler, limits: list[int] | int) -> None: ...


async def function(self: Handler, limit: Callable[[], int]) -> None: ...


async def named_tuple(self: Handler, pair: Pair) -> None: ...


async def type_variable(self: Handler, limit: T) -> None: ...


async def type_variable_in_body(self: Handler, body: list[T]) -> None: ...


async def type_variable_in_result(self: Handler) -> list[T]:
    return []


async def two_names(self: Handler, limit: Annotated[int, Field(alias=AliasChoices("a", "b"))]) -> None: ...


async def path_as_name(self: Handler, limit: Annotated[int, Field(validation_alias=AliasPath("a", 0))]) -> None: ...


async def same_name(self: Handler, limit: int, other: Annotated[int, Field(alias="limit")]) -> None: ...


async def alias_inside(self: Handler, limits: list[Annotated[int, Field(alias="limit")]]) -> None: ...


async def alias_of_body(self: Handler, body: Annotated[Model, Field(alias="order")]) -> None: ...


async def default_in_field(self: Handler, limit: Annotated[int, Field(default=5)]) -> None: ...


async def field_as_default(self: Handler, limit: int = Field(5, ge=1)) -> None: ...


async def lazy_body(self: Handler, body: Iterable[int]) -> None: ...


async def reply_of_response(self: Handler) -> Reply[PlainTextResponse]:
    return Reply(PlainTextResponse())


async def generator(self: Handler) -> Any:
    yield "text"


@responds(99)
async def status(self: Handler) -> None: ...


def only_positions(inner: Callable[..., Any]) -> Callable[..., Any]:
    """A decorator whose function can be called by position only."""

    @wraps(inner)
    async def outer(*args: object) -> object:
        return await inner(*args)

    return outer


@only_positions
async def behind_positions(self: Handler, limit: int) -> None: ...


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (
            two_bodies,
            r"Broken\.get: query parameter 'other' cannot be of type .*Model.*combine several bodies into one model",
        ),
        (
            strict,
            r"Broken\.get: query parameter 'limit' cannot be of type .*it cannot be parsed from text",
        ),
        (
            nested_lists,
            r"Broken\.get: query parameter 'limits' cannot be of type .*has items that cannot be parsed from text",
        ),
        (one_or_several, r"Broken\.get: query parameter 'limits' cannot be of type .*use list"),
        (function, r"Broken\.get: pydantic does not support the annotation of 'limit'"),
        (named_tuple, r"Broken\.get: query parameter 'pair' cannot be of type .*Pair.*structured data"),
        (type_variable, r"Broken\.get: 'limit' is annotated with a type variable: ~T; use a concrete type"),
        (type_variable_in_body, r"Broken\.get: 'body' is annotated with a type variable"),
        (type_variable_in_result, r"Broken\.get: the result is annotated with a type variable"),
        (two_names, r"Broken\.get: parameter 'limit' has the alias Alias.*; use a string"),
        (path_as_name, r"Broken\.get: parameter 'limit' has the alias Alias.*; use a string"),
        (same_name, r"Broken\.get: 'limit' and 'other' are both 'limit' in the request"),
        (alias_inside, r"Broken\.get: parameter 'limits' has an alias on a part of its type"),
        (alias_of_body, r"Broken\.get: 'body' has an alias"),
        (default_in_field, r"Broken\.get: parameter 'limit' has a default inside Field\(…\); write 'limit: "),
        (field_as_default, r"Broken\.get: the default of 'limit' is FieldInfo\(…\); write 'limit: Annotated"),
        (lazy_body, r"Broken\.get: 'body' has an Iterable.*use list"),
        (reply_of_response, r"Broken\.get: Reply cannot hold a PlainTextResponse; return the response itself"),
        (generator, r"Broken\.get is an async generator; return EventStream\(…\), JsonLines\(…\) or"),
        (status, r"Broken\.get declares status 99"),
        (behind_positions, r"Broken\.get: parameter 'args' cannot be passed by name"),
        (no_annotation, r"Broken\.get: parameter 'limit' has no annotation; add a type"),
        (unknown_name, r"Broken\.get: cannot evaluate the annotation of 'limit': name 'Missing' is not defined"),
        (unknown_type, r"Broken\.get: pydantic does not support the annotation of 'limit': .*Opaque.*use another type"),
        (unknown_result, r"Broken\.get: pydantic does not support the annotation of 'return': .*Opaque"),
        (many, r"Broken\.get: parameter 'limits' cannot be passed by name"),
        (keywords, r"Broken\.get: parameter 'limits' cannot be passed by name"),
        (positional, r"Broken\.get: parameter 'limit' cannot be passed by name"),
        (structured, r"Broken\.get: query parameter 'filter' cannot be of type .*Model.*name the parameter 'body'"),
        (mapping, r"Broken\.get: query parameter 'limits' cannot be of type dict.*name the parameter 'body'"),
        (request_of_another_type, r"Broken\.get: 'request' is annotated with .*str.*; write 'request: Request'"),
        (request_of_another_name, r"Broken\.get: .*write 'request: Request'"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_invalid_signature_is_explained(method: Callable[..., Any], message: str) -> None:
    with pytest.raises(SignatureError, match=message):
        Router([Route("/items", handler(method))])


async def optional_structured(self: Handler, filter: Model | None = None) -> None: ...  # noqa: A002 - as above


async def list_of_structured(self: Handler, filters: list[Model]) -> None: ...


@pytest.mark.parametrize("method", [optional_structured, list_of_structured])
def test_structured_query_parameter_is_an_error_at_any_depth(method: Callable[..., Any]) -> None:
    with pytest.raises(SignatureError, match="cannot be of type"):
        Route("/items", handler(method))


def test_path_parameter_without_an_argument_is_an_error() -> None:
    async def get(self: Handler, order: str) -> None: ...

    with pytest.raises(SignatureError, match=r"path has 'order_id', but the method's parameters are 'order'"):
        Route("/orders/{order_id}", handler(get))


def test_path_parameter_with_a_default_is_an_error() -> None:
    async def get(self: Handler, order_id: int = 1) -> None: ...

    with pytest.raises(SignatureError, match=r"path parameter 'order_id' is always present; remove its default"):
        Route("/orders/{order_id}", handler(get))


@pytest.mark.parametrize("annotation", [list[int], Model, Callable[[], int]])
def test_path_parameter_of_a_list_is_an_error(annotation: Any) -> None:
    async def get(self: Handler, order_id: int) -> None: ...

    get.__annotations__["order_id"] = annotation
    with pytest.raises(SignatureError, match=r"Broken\.get: .*'order_id'"):
        Route("/orders/{order_id}", handler(get))


def test_attribute_that_is_not_a_method_is_an_error() -> None:
    with pytest.raises(SignatureError, match=r"Broken\.get is 5, not a method"):
        Route("/", handler(5))  # type: ignore[arg-type]


def test_handler_without_methods_is_an_error() -> None:
    class Empty(Handler):
        """Nothing to see."""

    with pytest.raises(SignatureError, match=f"Empty has no method for requests; define at least one of {METHODS}"):
        Route("/", Empty())


def test_class_instead_of_an_instance_is_an_error() -> None:
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
def test_two_handlers_for_one_path_are_an_error(one: str, other: str) -> None:
    class Orders(Handler):
        async def get(self, request: Request) -> None: ...

    with pytest.raises(SignatureError, match="two handlers for one path"):
        Router([Route(one, Orders()), Route(other, Orders())])
