"""The results that a method declares, and the response that one becomes."""

from collections.abc import Callable, Mapping
from functools import partial
from http import HTTPStatus
from types import MappingProxyType, NoneType
from typing import Any, NamedTuple

import pydantic_core
from pydantic import BaseModel, TypeAdapter
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from ..problem import Problem
from ..response_sender import JSON, LENGTH, send_response
from .errors import SignatureError
from .handler import DeclaredResponses, Reply
from .negotiation import Encoder, preferred
from .signature import Signature

JSON_TYPE = "application/json"
NO_CONTENT = frozenset({HTTPStatus.NO_CONTENT, HTTPStatus.RESET_CONTENT, HTTPStatus.NOT_MODIFIED})
WITHOUT_LENGTH = frozenset({HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED})
ALIASES = frozenset({"alias", "serialization_alias"})  # of computed and of other fields


class Encoded(NamedTuple):
    """A response that is ready to be sent: its parts, or a Starlette `Response`."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes
    response: Response | None = None

    async def send(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self.response is not None:
            await self.response(scope, receive, send)
        else:
            # The response to HEAD has the length and no content (RFC 9110, section 9.3.2).
            await send_response(send, self.status, self.headers, b"" if scope["method"] == "HEAD" else self.body)


class Results:
    """The results that a method declares: their statuses and types, and how they become responses."""

    def __init__(self, name: str, signature: Signature, responses: DeclaredResponses) -> None:
        """`name` is that of the method, for errors. Raises `SignatureError` for a wrong status."""
        self._name = name
        self.status: int = responses.status or (204 if signature.returned is NoneType else 200)
        for status in (self.status, *responses.others):
            if not 200 <= status < 600:
                raise SignatureError(f"{name} declares status {status}; use a status from 200 to 599")
        self.errors: Mapping[int, str] = responses.errors
        self.headers: Mapping[str, str] = responses.headers
        self.media_types: list[str] = signature.media_types
        self.adapter: TypeAdapter[Any] | None = signature.result
        self.others: dict[int, TypeAdapter[Any] | None] = {
            status: None if model is None else TypeAdapter(model) for status, model in responses.others.items()
        }
        self.has_content: bool = self.status not in NO_CONTENT and signature.returned is not NoneType
        # An instance of exactly this class is serialized without further checks of its type.
        self.model: type[BaseModel] | None = _model_class(signature.returned) if self.has_content else None
        self.to_json: Callable[[Any], bytes] = _encoder_of(self.adapter)

    def encode(self, result: Any, accept: str = "", encoders: Mapping[str, Encoder] = MappingProxyType({})) -> Encoded:
        """The response to be sent. `encoders` are for media types other than JSON; `accept` chooses among them."""
        if isinstance(result, Response):
            return Encoded(self.status, [], b"", result)
        status, headers = self.status, list[tuple[bytes, bytes]]()
        if isinstance(result, Reply):
            headers = _reply_headers(result)
            status = result.status or status
            result = result.result
        body = self._content(result, status)
        has_content = self.has_content if status == self.status else status not in NO_CONTENT and result is not None
        if has_content and not (headers and _names_content_type(headers)):
            media_type = _negotiate(accept, encoders, headers) if encoders else JSON_TYPE
            if media_type == JSON_TYPE:
                headers.append(JSON)
            else:
                body = encoders[media_type](pydantic_core.from_json(body))
                headers.append((b"content-type", media_type.encode("latin-1")))
        if status not in WITHOUT_LENGTH:
            headers.append((LENGTH, b"%d" % len(body)))
        return Encoded(status, headers, body)

    def _content(self, result: Any, status: int) -> bytes:
        """`result` as JSON. Raises `TypeError` if it does not have the type that the signature declares."""
        if status != self.status:
            if status in NO_CONTENT or result is None:
                return b""
            other = self.others.get(status)
            if other is not None:
                return other.serializer.to_json(result, warnings="error", by_alias=True)
        elif not self.has_content:
            return b""
        expected = self.model
        if type(result) is expected:
            return self.to_json(result)
        if expected is not None and not isinstance(result, expected):
            raise TypeError(
                f"{self._name} returned {type(result).__name__}, but its annotation is {expected.__name__}; "
                "change the annotation or the result"
            )
        if self.adapter is not None:
            return self.adapter.serializer.to_json(result, warnings="error", by_alias=True)
        return any_to_json(result)


def _negotiate(accept: str, encoders: Mapping[str, Encoder], headers: list[tuple[bytes, bytes]]) -> str:
    offered = [JSON_TYPE, *encoders]
    media_type = preferred(accept, offered)
    if media_type is None:
        detail = f"Accept allows none of the available media types: {', '.join(offered)}."
        raise Problem(406, detail, headers={"vary": "accept"})
    headers.append((b"vary", b"accept"))
    return media_type


def _encoder_of(result: TypeAdapter[Any] | None) -> Callable[[Any], bytes]:
    if result is None:
        return any_to_json
    encode = result.serializer.to_json
    # `by_alias` is passed only if it matters, for performance.
    return partial(encode, by_alias=True) if _has_aliases(result.core_schema) else encode


def _has_aliases(schema: object) -> bool:
    """Whether any field in a schema of pydantic-core has another name in JSON."""
    if isinstance(schema, Mapping):
        return not ALIASES.isdisjoint(schema) or any(map(_has_aliases, schema.values()))
    return isinstance(schema, list | tuple) and any(map(_has_aliases, schema))


def any_to_json(value: object) -> bytes:
    """Any value as JSON. NaN and infinity become null, because JSON has no such numbers (RFC 8259, section 6)."""
    return pydantic_core.to_json(value, inf_nan_mode="null")


def _reply_headers(reply: Reply[Any]) -> list[tuple[bytes, bytes]]:
    """The headers of a `Reply`, without a `content-length`: it is computed from the content."""
    headers = reply.headers
    pairs: Any = headers.items() if isinstance(headers, Mapping) else headers
    encoded = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in pairs]
    return [header for header in encoded if header[0] != b"content-length"]


def _names_content_type(headers: list[tuple[bytes, bytes]]) -> bool:
    return any(name == b"content-type" for name, _ in headers)


def _model_class(annotation: Any) -> type[BaseModel] | None:
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None
