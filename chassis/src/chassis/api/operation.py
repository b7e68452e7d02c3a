"""One method of a handler, its signature compiled once: binds a request, calls the method, sends the response."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from http import HTTPStatus
from types import NoneType
from typing import Any

import pydantic_core
from pydantic import BaseModel, TypeAdapter, ValidationError
from starlette.convertors import Convertor
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from ..problem import Problem
from ..request_info import REQUEST_INFO, RequestInfo
from ..response_sender import JSON, LENGTH, send_response
from ..threads import threads_of
from .handler import DeclaredResponses, Handler, Reply, declared_responses
from .parameters import Parameter, Parameters
from .signature import Signature, SignatureError

NO_CONTENT = frozenset({HTTPStatus.NO_CONTENT, HTTPStatus.RESET_CONTENT, HTTPStatus.NOT_MODIFIED})


class Operation:
    """`method` of `handler` on a route whose path has `convertors`; an ASGI application."""

    def __init__(self, handler: Handler, verb: str, convertors: Mapping[str, Convertor[Any]]) -> None:
        self.verb = verb
        self.method: Callable[..., Any] = getattr(handler, verb)
        self.name: str = f"{type(handler).__name__}.{verb}"
        if not callable(self.method):
            raise SignatureError(f"{self.name} is {self.method!r}, not a method")
        signature = Signature(self.name, self.method, convertors)
        function = signature.function
        if inspect.isasyncgenfunction(function):
            raise SignatureError(f"{self.name} yields its result; return a StreamingResponse of a generator")
        self.documentation: str = inspect.cleandoc(function.__doc__ or "")
        self.path: Mapping[str, Parameter] = signature.path
        self.query: Mapping[str, Parameter] = signature.query
        self.body: TypeAdapter[Any] | None = signature.body
        self.body_is_optional: bool = signature.body_is_optional
        self._wants_request = signature.wants_request
        self._parameters = Parameters(self.path, self.query) if self.path or self.query else None
        responses = declared_responses(self.method) or declared_responses(function) or DeclaredResponses()
        self.errors: Mapping[int, str] = responses.errors
        self.status: int = responses.status or (204 if signature.returned is NoneType else 200)
        if not 200 <= self.status < 600:
            raise SignatureError(f"{self.name} declares status {self.status}; a response has one from 200 to 599")
        self.result: TypeAdapter[Any] | None = signature.result
        self._to_json = _encoder_of(self.result)
        self._tells_length = self.status not in (HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED)
        self.has_content: bool = self.status not in NO_CONTENT and signature.returned is not NoneType
        # An instance of exactly this class is serialized without checking its type again.
        self._result_type = _model_class(signature.returned) if self.has_content else None
        self._is_async = inspect.iscoroutinefunction(self.method)
        # A plain function around an `async def`, such as a decorator's, returns its coroutine.
        self._is_wrapped_async = not self._is_async and inspect.iscoroutinefunction(function)

    # For each request.

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        arguments: dict[str, Any] = {}
        errors: list[dict[str, Any]] = []
        request = Request(scope, receive, send) if self._wants_request else None
        if self._parameters is not None:
            arguments = self._parameters.bind(scope, errors)
        if self.body is not None:
            # The request keeps the body that it has read, for a method that wants its bytes as well.
            content = await (read_body(receive) if request is None else request.body())
            self._bind_body(self.body, scope, content, arguments, errors)
        if errors:
            raise Problem(422, "The request has invalid values; `errors` lists them.", errors=errors)
        if request is not None:
            arguments["request"] = request
        try:
            result = await (self.method(**arguments) if self._is_async else self._call(scope, arguments))
        except (SystemExit, KeyboardInterrupt) as error:  # a library's; only a signal ends the process
            raise RuntimeError(f"{self.name} raised {type(error).__qualname__}") from error
        headers: list[tuple[bytes, bytes]] = []
        if type(result) is self._result_type:  # the most frequent case
            body = self._to_json(result)
        elif isinstance(result, Response):
            await result(scope, receive, send)
            return
        elif isinstance(result, Reply):
            headers = _reply_headers(result)
            body = self._content(result.result)
        else:
            body = self._content(result)
        if self.has_content and not (headers and _names_content_type(headers)):
            headers.append(JSON)
        if self._tells_length:
            headers.append((LENGTH, b"%d" % len(body)))
        # The response to HEAD has the length and no content (RFC 9110, section 9.3.2).
        await send_response(send, self.status, headers, b"" if scope["method"] == "HEAD" else body)

    async def _call(self, scope: Scope, arguments: dict[str, Any]) -> Any:
        """Call a method that is a plain function: in a thread, unless the owner has written an `async def`."""
        if self._is_wrapped_async:
            result = self.method(**arguments)
        else:
            result = await threads_of(scope).run(partial(self.method, **arguments))
        return await result if inspect.isawaitable(result) else result

    def _content(self, result: Any) -> bytes:
        """`result` as JSON; raises `TypeError` when it is not of the type that the signature declares."""
        if not self.has_content:
            return b""
        expected = self._result_type
        if type(result) is expected:
            return self._to_json(result)
        if expected is not None and not isinstance(result, expected):
            raise TypeError(f"{self.name} returned {type(result).__name__}, not {expected.__name__}")
        if self.result is not None:
            return self.result.serializer.to_json(result, warnings="error", by_alias=True)
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
            details = error.errors(include_url=False, include_context=False, include_input=False)
            if details[0]["type"] == "json_invalid":
                raise Problem(400, f"The body is not valid JSON: {details[0]['msg']}") from error
            document = pydantic_core.from_json(content)
            for detail in details:
                pointer = _pointer(detail["loc"], document, detail["type"] == "missing")
                errors.append({"in": "body", "pointer": pointer, "detail": detail["msg"]})


def _encoder_of(result: TypeAdapter[Any] | None) -> Callable[[Any], bytes]:
    if result is None:
        return to_json
    encode = result.serializer.to_json
    # An argument by name costs as much as the encoding of a small model.
    options: Any = {"mode": "serialization"}
    has_aliases = result.json_schema(by_alias=True, **options) != result.json_schema(by_alias=False, **options)
    return partial(encode, by_alias=True) if has_aliases else encode


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
    """Raise a `Problem` of 415 unless the content is JSON (RFC 8259, or a `+json` type of RFC 6839), not compressed."""
    info = scope[REQUEST_INFO] if REQUEST_INFO in scope else RequestInfo.of(scope)
    if info.content_encoding and not _is_identity(info.content_encoding):
        # RFC 9110, section 15.5.16
        raise Problem(415, "Send the body without Content-Encoding.", headers={"accept-encoding": "identity"})
    for name, value in scope["headers"]:
        if name == b"content-type":
            media_type = value.partition(b";")[0].strip().lower()
            if media_type == b"application/json":
                return
            if media_type.startswith(b"application/") and media_type.endswith(b"+json"):
                return
            break
    raise Problem(415, "Content-Type must be application/json.", headers={"accept-post": "application/json"})


def _is_identity(content_encoding: bytes) -> bool:
    """Whether the field names no coding but `identity`, which stands for none (RFC 9110, section 12.5.3)."""
    return all(coding.strip().lower() in (b"", b"identity") for coding in content_encoding.split(b","))


def _pointer(location: Sequence[int | str], document: Any, is_missing: bool) -> str:
    """The place of an error in the client's document (RFC 6901); pydantic's also names members of unions."""
    pointer = "#"
    for number, part in enumerate(location, 1):
        if isinstance(document, dict) and str(part) in document:
            document = document[str(part)]
        elif isinstance(document, list) and isinstance(part, int) and part < len(document):
            document = document[part]
        elif not (is_missing and number == len(location)):
            continue
        pointer += "/" + str(part).replace("~", "~0").replace("/", "~1")
    return pointer


def _reply_headers(reply: Reply[Any]) -> list[tuple[bytes, bytes]]:
    """The headers of a `Reply`; the length is that of the content, whatever the owner says."""
    headers = reply.headers
    pairs: Any = headers.items() if isinstance(headers, Mapping) else headers
    encoded = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in pairs]
    return [header for header in encoded if header[0] != b"content-length"]


def _names_content_type(headers: list[tuple[bytes, bytes]]) -> bool:
    return any(name == b"content-type" for name, _ in headers)


def _model_class(annotation: Any) -> type[BaseModel] | None:
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None
