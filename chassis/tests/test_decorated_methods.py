"""Methods behind decorators and other wrappers: called with the parameters of the outer function."""

import asyncio
import functools
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partialmethod, wraps
from typing import Any

import httpx
import pytest
from pydantic import BaseModel
from starlette.requests import Request

from chassis import Handler, Route, responds

from .support.service import serve

Method = Callable[..., Any]
threads: list[threading.Thread] = []


class Item(BaseModel):
    """A body."""

    name: str


def passing(method: Method) -> Method:
    """Hands everything on."""

    @wraps(method)
    async def outer(*args: object, **kwargs: object) -> object:
        return await method(*args, **kwargs)

    return outer


def returning(method: Method) -> Method:
    """A plain function that returns the coroutine of the wrapped function."""

    @wraps(method)
    def outer(self: Handler, *args: object, **kwargs: object) -> object:
        threads.append(threading.current_thread())
        return method(self, *args, **kwargs)

    return outer


def with_user(method: Method) -> Method:
    """Takes the request itself, and hands something else on."""

    @wraps(method)
    async def outer(self: Handler, request: Request) -> object:
        return await method(self, user=request.headers["x-user"])

    return outer


def also_with_request(method: Method) -> Method:
    """Takes the request in addition to the parameters of the method."""

    @wraps(method)
    async def outer(self: Handler, request: Request, **kwargs: object) -> object:
        return [request.method, await method(self, **kwargs)]

    return outer


def cached(method: Method) -> Method:
    """Sometimes returns a result where there should be a coroutine."""

    @wraps(method)
    def outer(self: Handler, number: int) -> object:
        return "cached" if number == 0 else method(self, number)

    return outer


class Called:
    """A decorator that is an object, and binds itself as functions do."""

    def __init__(self, method: Method) -> None:
        functools.update_wrapper(self, method)  # type: ignore[arg-type] # whatever can be called
        self._method = method

    def __get__(self, handler: Handler, _owner: type) -> Method:
        return functools.partial(self._method, handler)


class Decorated(Handler):
    """Has a decorator on each method."""

    @passing
    async def get(self, number: int, name: str = "x") -> list[Any]:
        """Read it."""
        return [number, name]

    @returning
    @passing
    async def post(self, body: Item, number: int) -> list[Any]:
        return [body.name, number]

    @with_user
    async def put(self, user: str) -> str:
        return user

    @also_with_request
    async def patch(self, number: int) -> Any:
        return number

    @cached
    async def delete(self, number: int) -> str:
        await asyncio.sleep(0)
        return "computed"


class Partial(Handler):
    """Has methods that are made of others."""

    async def _read(self, kind: str, number: int) -> list[Any]:
        """Read items of one type."""
        return [kind, number]

    get = partialmethod(_read, kind="tea")

    @Called
    @responds(202)
    async def post(self, number: int) -> int:
        return number

    def put(self, number: int) -> Awaitable[int]:  # type: ignore[type-arg, unused-ignore]
        return self._number(number)

    put.__annotations__["return"] = int

    async def _number(self, number: int) -> int:
        return number

    patch = None


@pytest.fixture(scope="module")
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with serve(Route("/decorated", Decorated()), Route("/partial", Partial())) as service:
        yield service.client


async def test_parameters_are_those_of_the_wrapped_method(client: httpx.AsyncClient) -> None:
    assert (await client.get("/decorated?number=7&name=y")).json() == [7, "y"]
    assert (await client.get("/decorated?number=7")).json() == [7, "x"]
    assert (await client.get("/decorated?number=x")).status_code == 422


async def test_plain_function_around_a_coroutine_function_runs_on_the_event_loop(client: httpx.AsyncClient) -> None:
    response = await client.post("/decorated?number=7", json={"name": "tea"})
    assert response.json() == ["tea", 7]
    assert threads == [threading.main_thread()]


async def test_function_that_takes_something_else_is_called_with_that(client: httpx.AsyncClient) -> None:
    assert (await client.put("/decorated", headers={"x-user": "ada"})).json() == "ada"


async def test_request_is_passed_to_the_function_that_takes_it(client: httpx.AsyncClient) -> None:
    assert (await client.patch("/decorated?number=7")).json() == ["PATCH", 7]


async def test_function_may_return_a_result_or_a_coroutine(client: httpx.AsyncClient) -> None:
    assert (await client.delete("/decorated?number=0")).json() == "cached"
    assert (await client.delete("/decorated?number=1")).json() == "computed"


async def test_bound_argument_is_not_a_parameter(client: httpx.AsyncClient) -> None:
    assert (await client.get("/partial?number=7&kind=coffee")).json() == ["tea", 7]


async def test_declaration_of_a_wrapped_method_holds(client: httpx.AsyncClient) -> None:
    response = await client.post("/partial?number=7")
    assert (response.status_code, response.json()) == (202, 7)


async def test_awaitable_that_a_plain_method_returns_is_awaited(client: httpx.AsyncClient) -> None:
    assert (await client.put("/partial?number=7")).json() == 7


async def test_method_set_to_none_is_not_allowed(client: httpx.AsyncClient) -> None:
    response = await client.patch("/partial")
    assert (response.status_code, response.headers["allow"]) == (405, "GET, POST, PUT, HEAD, OPTIONS")


async def test_docstring_of_the_wrapped_method_describes_the_operation(client: httpx.AsyncClient) -> None:
    paths = (await client.get("/openapi.json")).json()["paths"]
    assert paths["/decorated"]["get"]["summary"] == "Read it"
    assert paths["/partial"]["get"]["summary"] == "Read items of one type"
    assert [one["name"] for one in paths["/partial"]["get"]["parameters"]] == ["number"]
