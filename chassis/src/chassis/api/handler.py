"""Request handlers: classes that people inherit, with a method for each HTTP method that is answered."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

Result = TypeVar("Result")
Method = TypeVar("Method", bound=Callable[..., Any])

VERBS = ("get", "post", "put", "patch", "delete")


class Handler:
    """A resource: define `get`, `post`, `put`, `patch` or `delete`, as `async def` or plain `def`.

    An instance is made once, with its collaborators, and put on a path by `Route`. Parameters are
    found by name and annotation:

    - a name that stands in the route's path is a path parameter;
    - `body` is the request's JSON, validated as its annotation, such as a pydantic model;
    - `request` is Starlette's `Request`;
    - any other is a query parameter, required when it has no default, and a list may repeat.

    `Annotated[int, Field(ge=1, description="…")]` adds constraints and documentation. What a method
    returns, a model, list, dict or None (204), becomes the answer; a Starlette `Response` is sent as it
    is, and `Reply` adds headers. `async def` runs on the event loop, `def` in a thread. HEAD and
    OPTIONS are answered from what there is. Raise `Problem` for an expected failure.
    """


@dataclass(frozen=True, slots=True)
class Reply(Generic[Result]):
    """A result with response headers, such as the `location` of what was created."""

    result: Result
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Responses:
    """What `responds` declared of a method."""

    status: int | None = None
    errors: Mapping[int, str] = field(default_factory=dict)


def responds(status: int | None = None, errors: Mapping[int, str] | None = None) -> Callable[[Method], Method]:
    """Declare a method's status on success, if not 200 or 204, and the problems it raises, for OpenAPI.

    `@responds(201, {409: "The order exists."})`
    """

    def declare(method: Method) -> Method:
        method.__responses__ = Responses(status, dict(errors or {}))  # type: ignore[attr-defined]
        return method

    return declare


def declared_responses(method: Callable[..., Any]) -> Responses:
    """What `responds` said of `method`."""
    found = getattr(method, "__responses__", None)
    return found if isinstance(found, Responses) else Responses()
