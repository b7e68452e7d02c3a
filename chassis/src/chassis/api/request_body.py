"""Reads and validates the body of a request: JSON, a form, or bytes."""

from collections.abc import Sequence
from typing import Any

import pydantic_core
from pydantic import TypeAdapter, ValidationError
from starlette.datastructures import FormData
from starlette.formparsers import MultiPartException
from starlette.requests import ClientDisconnect, Request
from starlette.types import Receive, Scope

from ..problem import Problem
from ..request_info import REQUEST_INFO, RequestInfo

URL_ENCODED, MULTIPART = b"application/x-www-form-urlencoded", b"multipart/form-data"


async def read_body(receive: Receive) -> bytes:
    """The whole body. Raises `ClientDisconnect` if the client disconnects before its end."""
    chunks: list[bytes] = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        chunks.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(chunks) if len(chunks) > 1 else chunks[0]


def bind_json(
    body: TypeAdapter[Any], scope: Scope, content: bytes, arguments: dict[str, Any], errors: list[dict[str, Any]]
) -> None:
    """Validate JSON as the argument `body`. Raises a `Problem` if the content is not JSON (400, 415)."""
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


def bind_bytes(body: TypeAdapter[Any], content: bytes, arguments: dict[str, Any], errors: list[dict[str, Any]]) -> None:
    """Validate the raw content, of any media type, as the argument `body`."""
    try:
        arguments["body"] = body.validator.validate_python(content)
    except ValidationError as error:
        errors += [{"in": "body", "pointer": "#", "detail": detail["msg"]} for detail in error.errors()]


async def read_form(request: Request, *, has_files: bool) -> FormData:
    """The fields and files of a form. Raises a `Problem` if the content is not a form (400, 415).

    Files larger than one megabyte are stored on disk. Close the request to close them.
    """
    allowed = [MULTIPART] if has_files else [URL_ENCODED, MULTIPART]
    _require_no_coding(RequestInfo.of(request.scope))
    if _media_type(request.scope) not in allowed:
        types = b", ".join(allowed).decode()
        raise Problem(415, f"Content-Type must be {types.replace(', ', ' or ')}.", headers={"accept-post": types})
    try:
        return await request.form()
    except MultiPartException as error:
        raise Problem(400, f"The form is invalid: {error.message}") from error


def require_json(scope: Scope) -> None:
    """Raise a `Problem` of 415 unless the content is uncompressed JSON (RFC 8259, or a `+json` type of RFC 6839)."""
    info = scope[REQUEST_INFO] if REQUEST_INFO in scope else RequestInfo.of(scope)
    if info.content_encoding:
        _require_no_coding(info)
    media_type = _media_type(scope)
    if media_type == b"application/json":
        return
    if media_type.startswith(b"application/") and media_type.endswith(b"+json"):
        return
    raise Problem(415, "Content-Type must be application/json.", headers={"accept-post": "application/json"})


def _require_no_coding(info: RequestInfo) -> None:
    if not _is_identity(info.content_encoding):
        # RFC 9110, section 15.5.16
        detail = "Content-Encoding is not supported; send the body uncompressed."
        raise Problem(415, detail, headers={"accept-encoding": "identity"})


def _media_type(scope: Scope) -> bytes:
    for name, value in scope["headers"]:
        if name == b"content-type":
            media_type: bytes = value.partition(b";")[0].strip().lower()
            return media_type
    return b""


def _is_identity(content_encoding: bytes) -> bool:
    """Whether the field names no coding except `identity`, which means none (RFC 9110, section 12.5.3)."""
    return all(coding.strip().lower() in (b"", b"identity") for coding in content_encoding.split(b","))


def _pointer(location: Sequence[int | str], document: Any, is_missing: bool) -> str:
    """The JSON Pointer of an error in the client's document (RFC 6901).

    pydantic's location may also name members of unions, which are left out.
    """
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
