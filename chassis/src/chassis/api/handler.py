"""Request handlers: classes to inherit from, with a method for each HTTP method."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

Result = TypeVar("Result")
Method = TypeVar("Method", bound=Callable[..., Any])

VERBS = ("get", "post", "put", "patch", "delete")


class Handler:
    """A resource: define `get`, `post`, `put`, `patch` or `delete`, as `async def` or plain `def`.

    One instance, created with its collaborators, serves all requests to the path on which `App.add_route` puts it.
    Parameters are bound by name and annotation:

    - a name in the route's path is a path parameter;
    - `body` is the request's JSON, validated as its annotation, such as a pydantic model;
    - `request` is Starlette's `Request`;
    - any other name is a query parameter, required if it has no default; a list or another collection may be repeated.

    `Annotated[int, Field(ge=1, description="…")]` adds constraints and documentation, and `Field(alias="sort-by")` the
    name in the request. A signature that cannot work stops the start with `SignatureError`. The result, a model, list,
    dict or None (204), becomes the response. A Starlette `Response` is sent as it is, and `Reply` adds headers.
    `async def` runs on the event loop, `def` in a thread. HEAD and OPTIONS are derived from the other methods. Raise
    `Problem` for an expected failure.
    """


@dataclass(frozen=True, slots=True)
class Reply(Generic[Result]):
    """A result with response headers, such as the `location` of a created resource.

    `headers` is a mapping, or pairs of names and values, where a name such as `set-cookie` may come more than once.
    A `content-type` replaces `application/json`.
    """

    result: Result
    headers: Mapping[str, str] | Iterable[tuple[str, str]] = field(default_factory=dict[str, str])


@dataclass(frozen=True, slots=True)
class DeclaredResponses:
    """What `responds` declares for a method."""

    status: int | None = None
    errors: Mapping[int, str] = field(default_factory=dict)


def responds(status: int | None = None, errors: Mapping[int, str] | None = None) -> Callable[[Method], Method]:
    """Declare the status on success, if it is not 200 or 204, and the problems that a method raises, for OpenAPI.

    `@responds(201, {409: "The order exists."})`
    """

    def declare(method: Method) -> Method:
        method.__responses__ = DeclaredResponses(status, dict(errors or {}))  # type: ignore[attr-defined]
        return method

    return declare


def declared_responses(method: Callable[..., Any]) -> DeclaredResponses | None:
    """The declaration of `responds`, or None."""
    declared = getattr(method, "__responses__", None)
    return declared if isinstance(declared, DeclaredResponses) else None
