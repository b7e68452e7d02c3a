"""One method of a handler, its signature compiled once: binds a request, calls the method, sends the response."""

import inspect
from collections.abc import Callable, Collection, Mapping
from functools import partial
from http import HTTPStatus
from types import NoneType
from typing import Any, get_args, get_origin, get_type_hints

import pydantic_core
from pydantic import BaseModel, PydanticSchemaGenerationError, PydanticUserError, TypeAdapter, ValidationError
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from ..problem import Problem
from ..response_sender import send_response
from ..threads import threads_of
from .handler import Handler, Reply, declared_responses
from .parameters import Parameter, Parameters, from_text

JSON_HEADER = (b"content-type", b"application/json")


class SignatureError(TypeError):
    """A method of a handler cannot be bound as it is written. Raised when its route is added."""


class Operation:
    """`method` of `handler` on a route whose path gives `path_names`; an ASGI application."""

    def __init__(self, handler: Handler, verb: str, path_names: Collection[str]) -> None:
        self.verb = verb
        self.method: Callable[..., Any] = getattr(handler, verb)
        self.name: str = f"{type(handler).__name__}.{verb}"
        signature = inspect.signature(self.method)
        hints = self._hints()
        self.path: dict[str, Parameter] = {}
        self.query: dict[str, Parameter] = {}
        self.body: TypeAdapter[Any] | None = None
        self.body_is_optional: bool = False
        self._wants_request = False
        for parameter in signature.parameters.values():
            self._add(parameter, hints, path_names)
        missing = [name for name in path_names if name not in self.path]
        if missing and not self._wants_request:
            raise SignatureError(
                f"{self.name}: the route's path has {', '.join(map(repr, missing))}, "
                f"but the method's parameters are {', '.join(map(repr, signature.parameters)) or 'none'}"
            )
        self._parameters = Parameters(self.path, self.query) if self.path or self.query else None
        returned = _result_annotation(hints.get("return", Any))
        has_schema = not (returned is Any or returned is NoneType or _is_class(returned, Response))
        self.result: TypeAdapter[Any] | None = self._adapter("return", returned) if has_schema else None
        self._to_json = self.result.serializer.to_json if self.result is not None else to_json
        responses = declared_responses(self.method)
        self.errors: Mapping[int, str] = responses.errors
        self.status: int = responses.status or (204 if returned is NoneType else 200)
        self._tells_length = self.status != HTTPStatus.NO_CONTENT
        self._has_content = self._tells_length and returned is not NoneType
        # An instance of exactly this class is serialized without checking its type again.
        self._result_type = _model_class(returned) if self._has_content else None
        self._is_async = inspect.iscoroutinefunction(self.method)

    # Once, when the route is added.

    def _hints(self) -> dict[str, Any]:
        try:
            return get_type_hints(self.method, include_extras=True)
        except NameError as error:
            raise SignatureError(f"{self.name}: unknown annotation: {error}") from error

    def _add(self, parameter: inspect.Parameter, hints: dict[str, Any], path_names: Collection[str]) -> None:
        name = parameter.name
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD, parameter.POSITIONAL_ONLY):
            raise SignatureError(f"{self.name}: parameter {name!r} cannot be passed by name")
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
                raise SignatureError(
                    f"{self.name}: path parameter {name!r} is always present, so it cannot have a default"
                )
            self.path[name] = self._parameter(name, annotation, parameter.default)
        else:
            query = self._parameter(name, annotation, parameter.default)
            if query.is_structured:
                raise SignatureError(
                    f"{self.name}: query parameter {name!r} cannot hold {annotation!r}; "
                    f"name it 'body' if it is the request's JSON"
                )
            self.query[name] = query

    def _parameter(self, name: str, annotation: Any, default: Any) -> Parameter:
        annotation = from_text(annotation)
        return Parameter(self._adapter(name, annotation), annotation, default)

    def _adapter(self, name: str, annotation: Any) -> TypeAdapter[Any]:
        try:
            return TypeAdapter(annotation)
        except (PydanticSchemaGenerationError, PydanticUserError) as error:
            raise SignatureError(f"{self.name}: unknown annotation of {name!r}: {annotation!r}") from error

    # For each request.

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        arguments: dict[str, Any] = {}
        errors: list[dict[str, Any]] = []
        if self._parameters is not None:
            arguments = self._parameters.bind(scope, errors)
        if self.body is not None:
            self._bind_body(self.body, scope, await read_body(receive), arguments, errors)
        if errors:
            raise Problem(422, "The request has invalid values; `errors` lists them.", errors=errors)
        if self._wants_request:
            arguments["request"] = Request(scope, receive, send)
        if self._is_async:
            try:
                result = await self.method(**arguments)
            except (SystemExit, KeyboardInterrupt) as error:  # a library's; only a signal ends the process
                raise RuntimeError(f"{self.name} raised {type(error).__qualname__}") from error
        else:
            result = await threads_of(scope).run(partial(self.method, **arguments))
        headers: list[tuple[bytes, bytes]] = []
        if type(result) is self._result_type:  # the most frequent case
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
        # The response to HEAD has the length and no content (RFC 9110, section 9.3.2).
        await send_response(send, self.status, headers, b"" if scope["method"] == "HEAD" else body)

    def _content(self, result: Any) -> bytes:
        """`result` as JSON; raises `TypeError` when it is not of the type that the signature declares."""
        if not self._has_content:
            return b""
        expected = self._result_type
        if type(result) is expected:
            return self._to_json(result)
        if expected is not None and not isinstance(result, expected):
            raise TypeError(f"{self.name} returned {type(result).__name__}, not {expected.__name__}")
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
            for detail in error.errors(include_url=False, include_context=False, include_input=False):
                if detail["type"] == "json_invalid":
                    raise Problem(400, f"The body is not valid JSON: {detail['msg']}") from error
                pointer = "".join(f"/{_escape(part)}" for part in detail["loc"])
                errors.append({"in": "body", "pointer": f"#{pointer}", "detail": detail["msg"]})


def to_json(value: object) -> bytes:
    """Any value as JSON; NaN and infinity become null (RFC 8259, section 6, has no numbers for them)."""
    return pydantic_core.to_json(value, inf_nan_mode="null")


async def read_body(receive: Receive) -> bytes:
    """The whole body; raises `ClientDisconnect` when the client disconnects before its end."""
    chunks: list[bytes] = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        chunks.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(chunks) if len(chunks) > 1 else chunks[0]


def require_json(scope: Scope) -> None:
    """Raise a `Problem` of 415 unless Content-Type is JSON (RFC 8259, or a `+json` type of RFC 6839)."""
    for name, value in scope["headers"]:
        if name == b"content-type":
            media_type = value.partition(b";")[0].strip().lower()
            if media_type == b"application/json":
                return
            if media_type.startswith(b"application/") and media_type.endswith(b"+json"):
                return
            break
    raise Problem(415, "Content-Type must be application/json.", headers={"accept-post": "application/json"})


def _escape(part: int | str) -> str:
    return str(part).replace("~", "~0").replace("/", "~1")  # RFC 6901, section 3


def _result_annotation(annotation: Any) -> Any:
    """The type inside of `Reply[…]`."""
    return get_args(annotation)[0] if get_origin(annotation) is Reply else annotation


def _model_class(annotation: Any) -> type[BaseModel] | None:
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None


def _is_class(annotation: Any, base: type) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, base)
