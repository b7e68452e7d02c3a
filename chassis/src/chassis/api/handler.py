"""Request handlers: classes to inherit from, with a method for each HTTP method."""

from collections.abc import Callable, Iterable, Mapping, Sequence
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
    - `request` is Starlette's `Request`;
    - `body` is the request's JSON, validated as its annotation, such as a pydantic model; `body: bytes` is the content
      itself, and `body: AsyncIterator[bytes]` its pieces as they arrive;
    - a type that the application provides (`App.provide`) is provided;
    - `Annotated[str, Header()]` is a header field, and `Cookie()` and `Form()` likewise; `UploadFile` is a form's file;
    - any other name is a query parameter, required if it has no default; a list or another collection may be repeated;
    - around a pydantic model, `Query()` and the other markers make each field of it a parameter.

    `Annotated[int, Field(ge=1, description="…")]` adds constraints and documentation, and `Field(alias="sort-by")` the
    name in the request. A signature that cannot work stops the start with `SignatureError`. The result, a model, list,
    dict or None (204), becomes the response. A Starlette `Response` is sent as it is, and `Reply` adds headers.
    `async def` runs on the event loop, `def` in a thread. HEAD and OPTIONS are derived from the other methods. Raise
    `Problem` for an expected failure.
    """


@dataclass(frozen=True, slots=True)
class Reply(Generic[Result]):
    """A result with response headers, such as the `location` of a created resource, and with a status of its own.

    `headers` is a mapping, or pairs of names and values, where a name such as `set-cookie` may come more than once.
    A `content-type` replaces `application/json`. `status` replaces that of the method: `Reply(None, status=304)`.
    """

    result: Result
    headers: Mapping[str, str] | Iterable[tuple[str, str]] = field(default_factory=dict[str, str])
    status: int | None = None


@dataclass(frozen=True, slots=True)
class DeclaredResponses:
    """What `responds` declares for a method."""

    status: int | None = None
    errors: Mapping[int, str] = field(default_factory=dict)
    others: Mapping[int, Any] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Documentation:
    """What `documented` says of a method."""

    members: Mapping[str, Any] = field(default_factory=dict)
    request_examples: Mapping[str, Any] = field(default_factory=dict)
    response_examples: Mapping[str, Any] = field(default_factory=dict)


def responds(
    status: int | None = None,
    errors: Mapping[int, str] | None = None,
    *,
    others: Mapping[int, Any] | None = None,
    headers: Mapping[str, str] | None = None,
) -> Callable[[Method], Method]:
    """Declare the status on success, if it is not 200 or 204, and the problems that a method raises, for OpenAPI.

    `@responds(201, {409: "The order exists."}, headers={"location": "The order."})`

    `others` has the types of the results that `Reply` sends with another status, such as `{202: Job}`; None stands for
    no content. `headers` describes headers of a success.
    """

    def declare(method: Method) -> Method:
        declared = DeclaredResponses(status, dict(errors or {}), dict(others or {}), dict(headers or {}))
        method.__responses__ = declared  # type: ignore[attr-defined]
        return method

    return declare


def documented(
    *,
    summary: str | None = None,
    description: str | None = None,
    tags: Sequence[str] | None = None,
    operation_id: str | None = None,
    deprecated: bool = False,
    security: Sequence[Mapping[str, Sequence[str]]] | None = None,
    request_examples: Mapping[str, Any] | None = None,
    response_examples: Mapping[str, Any] | None = None,
    **members: Any,
) -> Callable[[Method], Method]:
    """Say more about a method in openapi.json than its signature and its docstring do.

    `security` has requirements, such as `[{"bearer": []}]`; see `App.extend_openapi` for their schemes. Examples are
    values by name. `members` are further ones of OpenAPI's Operation Object, such as `externalDocs`.

    `@documented(tags=["orders"], deprecated=True, operation_id="listOrders")`
    """
    said = {
        "summary": summary,
        "description": description,
        "tags": None if tags is None else list(tags),
        "operationId": operation_id,
        "deprecated": deprecated or None,
        "security": None if security is None else [dict(one) for one in security],
        **members,
    }
    documentation = Documentation(
        {name: value for name, value in said.items() if value is not None},
        dict(request_examples or {}),
        dict(response_examples or {}),
    )

    def document(method: Method) -> Method:
        method.__documentation__ = documentation  # type: ignore[attr-defined]
        return method

    return document


def declared_responses(method: Callable[..., Any]) -> DeclaredResponses | None:
    """The declaration of `responds`, or None."""
    declared = getattr(method, "__responses__", None)
    return declared if isinstance(declared, DeclaredResponses) else None


def documentation_of(method: Callable[..., Any]) -> Documentation | None:
    """What `documented` says, or None."""
    said = getattr(method, "__documentation__", None)
    return said if isinstance(said, Documentation) else None
