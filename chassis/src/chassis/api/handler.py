"""Request handlers: classes with a method for each HTTP method."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Generic, NamedTuple, TypeVar

Result = TypeVar("Result")
Method = TypeVar("Method", bound=Callable[..., Any])

VERBS = ("get", "post", "put", "patch", "delete")
NOTHING: Mapping[Any, Any] = MappingProxyType({})


class Handler:
    """A request handler: subclass it, and define `get`, `post`, `put`, `patch` or `delete`.

    One instance, created with its collaborators, serves all requests to its route (`App.add_route`). An `async def`
    runs on the event loop, a plain `def` in a thread. HEAD and OPTIONS are derived from the other methods.

    Parameters are bound by name and annotation:

    - a name in the route's path is a path parameter;
    - `request` is Starlette's `Request`;
    - `body` is the JSON body, validated against its annotation, such as a pydantic model; `body: bytes` is the raw
      body, and `body: AsyncIterator[bytes]` streams it;
    - a type that the application provides (`App.provide`) is a dependency;
    - `Annotated[str, Header()]` is a header field, `Cookie()` a cookie, `Form()` a form field; `UploadFile` is a file;
    - any other name is a query parameter; it is required without a default, and repeatable if it is a collection;
    - a pydantic model marked with `Query()` or another marker is a group: each of its fields is a parameter.

    `Annotated[int, Field(ge=1, description="…")]` adds constraints and documentation. `Field(alias="sort-by")` changes
    the name in the request. An unsupported signature stops the start with `SignatureError`.

    The result becomes the response: a model, list or dict as JSON, None as 204. `Reply` adds headers or a status. A
    Starlette `Response` is sent unchanged. Raise `Problem` for an expected error.
    """


class Reply(NamedTuple, Generic[Result]):
    """A result with response headers, such as the `location` of a created resource, or with another status.

    `headers` is a mapping, or pairs of names and values if a name such as `set-cookie` is repeated. A `content-type`
    replaces `application/json`. `status` replaces the status of the method: `Reply(None, status=304)`.
    """

    result: Result
    headers: Mapping[str, str] | Iterable[tuple[str, str]] = ()
    status: int | None = None


class DeclaredResponses(NamedTuple):
    """The declaration of `responds` for a method."""

    status: int | None = None
    errors: Mapping[int, str] = NOTHING
    others: Mapping[int, Any] = NOTHING
    headers: Mapping[str, str] = NOTHING


class Documentation(NamedTuple):
    """The declaration of `documented` for a method."""

    members: Mapping[str, Any] = NOTHING
    request_examples: Mapping[str, Any] = NOTHING
    response_examples: Mapping[str, Any] = NOTHING


def responds(
    status: int | None = None,
    errors: Mapping[int, str] | None = None,
    *,
    others: Mapping[int, Any] | None = None,
    headers: Mapping[str, str] | None = None,
) -> Callable[[Method], Method]:
    """Declare the success status of a method, if it is not 200 or 204, and document its responses in OpenAPI.

    `@responds(201, {409: "The order exists."}, headers={"location": "The order."})`

    `errors` describes the problems that the method raises, by status. `others` has the types of results that `Reply`
    sends with another status, such as `{202: Job}`; None stands for no content. `headers` describes the headers of a
    success.
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
    """Add documentation to openapi.json, beyond the signature and the docstring of a method.

    `@documented(tags=["orders"], deprecated=True, operation_id="listOrders")`

    `security` has requirements, such as `[{"bearer": []}]`; add their schemes with `App.extend_openapi`. Examples are
    values by name. `members` are other members of OpenAPI's Operation Object, such as `externalDocs`.
    """
    operation = {
        "summary": summary,
        "description": description,
        "tags": None if tags is None else list(tags),
        "operationId": operation_id,
        "deprecated": deprecated or None,
        "security": None if security is None else [dict(requirement) for requirement in security],
        **members,
    }
    documentation = Documentation(
        {name: value for name, value in operation.items() if value is not None},
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
    """The declaration of `documented`, or None."""
    documentation = getattr(method, "__documentation__", None)
    return documentation if isinstance(documentation, Documentation) else None
