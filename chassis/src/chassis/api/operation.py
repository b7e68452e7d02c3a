"""One method of a handler, its signature compiled once: binds a request, calls, and answers."""

import inspect
from collections.abc import Callable, Collection
from http import HTTPStatus
from types import NoneType
from typing import Any, get_args, get_origin, get_type_hints

import anyio
import pydantic_core
from pydantic import BaseModel, PydanticSchemaGenerationError, PydanticUserError, TypeAdapter, ValidationError
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from ..problem import Problem
from .handler import Handler, Reply, declared_responses
from .parameters import Parameter, Parameters, from_text

JSON_HEADER = (b"content-type", b"application/json")


class SignatureError(TypeError):
    """A handler's method can't be bound as it is written; raised when its route is made."""


class Operation:
    """`method` of `handler` on a route whose path gives `path_names`; an ASGI application."""

    def __init__(self, handler: Handler, verb: str, path_names: Collection[str]) -> None:
        self.verb = verb
        self.method: Callable[..., Any] = getattr(handler, verb)
        self.name = f"{type(handler).__name__}.{verb}"
        signature = inspect.signature(self.method)
        hints = self._hints()
        self.path: dict[str, Parameter] = {}
        self.query: dict[str, Parameter] = {}
        self.body: TypeAdapter[Any] | None = None
        self.body_is_optional = False
        self._wants_request = False
        for parameter in signature.parameters.values():
            self._add(parameter, hints, path_names)
        unclaimed = [name for name in path_names if name not in self.path]
        if unclaimed and not self._wants_request:
            raise SignatureError(
                f"{self.name}: the route's path gives {', '.join(map(repr, unclaimed))}, "
                f"which the method doesn't take; it takes {', '.join(map(repr, signature.parameters)) or 'nothing'}"
            )
        self._parameters = Parameters(self.path, self.query) if self.path or self.query else None
        returned = _result_annotation(hints.get("return", Any))
        has_schema = not (returned is Any or returned is NoneType or _is_class(returned, Response))
        self.result = self._adapter("return", returned) if has_schema else None
        self._to_json = self.result.serializer.to_json if self.result is not None else to_json
        responses = declared_responses(self.method)
        self.errors = responses.errors
        self.status = responses.status or (204 if returned is NoneType else 200)
        self._tells_length = self.status != HTTPStatus.NO_CONTENT
        self._has_content = self._tells_length and returned is not NoneType
        # A model of exactly the declared class needs no second look at its type, which costs four times as much.
        self._result_type = returned if self._has_content and _is_class(returned, BaseModel) else None
        self._is_async = inspect.iscoroutinefunction(self.method)

    # Compiling, once.

    def _hints(self) -> dict[str, Any]:
        try:
            return get_type_hints(self.method, include_extras=True)
        except NameError as error:
            raise SignatureError(f"{self.name}: unknown annotation: {error}") from error

    def _add(self, parameter: inspect.Parameter, hints: dict[str, Any], path_names: Collection[str]) -> None:
        name = parameter.name
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD, parameter.POSITIONAL_ONLY):
            raise SignatureError(f"{self.name}: parameter {name!r} can't be filled by name")
        if name not in hints:
            raise SignatureError(f"{self.name}: parameter {name!r} has no annotation")
        annotation = hints[name]
        if name == "request" or annotation is Request:
            if name != "request" or annotation is not Request:
                raise SignatureError(f"{self.name}: write 'request: Request' (starlette.requests) for the request")
            self._wants_request = True
        elif name == "body":
            self.body = self._adapter(name, annotation)
            self.body_is_optional = parameter.default is not parameter.empty
        elif name in path_names:
            if parameter.default is not parameter.empty:
                raise SignatureError(f"{self.name}: path parameter {name!r} is always given and can't have a default")
            self.path[name] = self._parameter(name, annotation, parameter.default)
        else:
            found = self._parameter(name, annotation, parameter.default)
            if found.is_structured:
                raise SignatureError(
                    f"{self.name}: query parameter {name!r} can't hold {annotation!r}; "
                    f"name it 'body' if it is the request's JSON"
                )
            self.query[name] = found

    def _parameter(self, name: str, annotation: Any, default: Any) -> Parameter:
        annotation = from_text(annotation)
        return Parameter(self._adapter(name, annotation), annotation, default)

    def _adapter(self, name: str, annotation: Any) -> TypeAdapter[Any]:
        try:
            return TypeAdapter(annotation)
        except (PydanticSchemaGenerationError, PydanticUserError) as error:
            raise SignatureError(f"{self.name}: unknown annotation of {name!r}: {annotation!r}") from error

    # Answering, for each request.

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        arguments: dict[str, Any] = {}
        errors: list[dict[str, Any]] = []
        if self._parameters is not None:
            arguments = self._parameters.bind(scope, errors)
        if self.body is not None:
            self._bind_body(self.body, scope, await read_body(receive), arguments, errors)
        if errors:
            raise Problem(422, "The request has values that are not allowed.", errors=errors)
        if self._wants_request:
            arguments["request"] = Request(scope, receive, send)
        if self._is_async:
            result = await self.method(**arguments)
        else:
            result = await anyio.to_thread.run_sync(lambda: self.method(**arguments), abandon_on_cancel=True)
        headers: list[tuple[bytes, bytes]] = []
        if type(result) is self._result_type:  # what most handlers do
            body = self._to_json(result)
        elif isinstance(result, Response):
            await result(scope, receive, send)
            return
        elif isinstance(result, Reply):
            headers = [
                (name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in result.headers.items()
            ]
            body = self._content(result.result)
        else:
            body = self._content(result)
        if self._has_content:
            headers.append(JSON_HEADER)
        if self._tells_length:
            headers.append((b"content-length", b"%d" % len(body)))
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        # To HEAD the length is told and the content left out (RFC 9110, 9.3.2).
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})

    def _content(self, result: Any) -> bytes:
        """`result` as JSON. One that isn't what the signature says is an error, not a surprise for the client."""
        if not self._has_content:
            return b""
        if type(result) is self._result_type:
            return self._to_json(result)
        if self._result_type is not None and not isinstance(result, self._result_type):
            raise TypeError(f"{self.name} returned {type(result).__name__}, not {self._result_type.__name__}")
        if self.result is not None:
            return self.result.serializer.to_json(result, warnings="error")
        return to_json(result)

    def _bind_body(
        self,
        body: TypeAdapter[Any],
        scope: Scope,
        content: bytes,
        arguments: dict[str, Any],
        errors: list[dict[str, Any]],
    ) -> None:
        if not content and self.body_is_optional:
            return
        require_json(scope)
        try:
            arguments["body"] = body.validator.validate_json(content)
        except ValidationError as error:
            for one in error.errors(include_url=False, include_context=False, include_input=False):
                if one["type"] == "json_invalid":
                    raise Problem(400, f"The body is not JSON. {one['msg']}") from error
                pointer = "".join(f"/{_escape(part)}" for part in one["loc"])
                errors.append({"in": "body", "pointer": f"#{pointer}", "detail": one["msg"]})


def to_json(value: object) -> bytes:
    """Any value as JSON, which has no way to say NaN or infinity (RFC 8259, section 6)."""
    return pydantic_core.to_json(value, inf_nan_mode="null")


async def read_body(receive: Receive) -> bytes:
    """The whole body; raises `ClientDisconnect` when the client leaves before its end."""
    chunks: list[bytes] = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        chunks.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(chunks) if len(chunks) > 1 else chunks[0]


def require_json(scope: Scope) -> None:
    """415 unless the body is called JSON (RFC 8259, or a `+json` type of RFC 6839)."""
    for name, value in scope["headers"]:
        if name == b"content-type":
            kind = value.partition(b";")[0].strip().lower()
            if kind == b"application/json" or (kind.startswith(b"application/") and kind.endswith(b"+json")):
                return
            break
    raise Problem(415, "Send the body as application/json.", headers={"accept-post": "application/json"})


def _escape(part: int | str) -> str:
    return str(part).replace("~", "~0").replace("/", "~1")  # RFC 6901, section 3


def _result_annotation(annotation: Any) -> Any:
    """The type inside of `Reply[…]`."""
    return get_args(annotation)[0] if get_origin(annotation) is Reply else annotation


def _is_class(annotation: Any, base: type) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, base)
