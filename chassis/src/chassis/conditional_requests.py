"""Conditional requests: entity tags, and the preconditions that clients send (RFC 9110, sections 8.8 and 13)."""

import hashlib
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import format_datetime, parsedate_to_datetime
from typing import Literal, TypeVar, cast
from uuid import UUID

import pydantic_core
from starlette.datastructures import Headers
from starlette.requests import Request

from .api.handler import Reply
from .problem import Problem

Result = TypeVar("Result")

OPAQUE = r"[\x21\x23-\x7e\x80-\xff]*"
ENTITY_TAG = re.compile(rf'(?:W/)?"{OPAQUE}"')
# Of lists, empty members included (section 5.6.1).
ENTITY_TAGS = re.compile(rf'[ \t,]*(?:(?:W/)?"{OPAQUE}"[ \t]*(?:,[ \t,]*|$))+')
NEVER = datetime.min.replace(tzinfo=UTC)
SAFE_METHODS = frozenset({"GET", "HEAD"})


def etag_of(value: object, *, weak: bool = False) -> str:
    """An entity tag for a version, such as `"7"`, or for the content of a model.

    An integer, a UUID, or text without spaces and quotes becomes the tag. An entity tag is returned unchanged. Any
    other value, such as a pydantic model, becomes a hash of its JSON.

    A `weak` tag means that two contents are equivalent for caches, while their bytes may differ; `If-Match` never
    matches it. Some proxies make a tag weak when they compress a response. So exclude resources whose clients send
    `If-Match` from compression.
    """
    if isinstance(value, str) and ENTITY_TAG.fullmatch(value):
        return value
    text = str(value) if isinstance(value, str | int | UUID) else ""
    if not re.fullmatch(r"[\x21\x23-\x7e]+", text):
        text = hashlib.blake2b(pydantic_core.to_json(value), digest_size=16).hexdigest()
    return f'W/"{text}"' if weak else f'"{text}"'


def conditional(
    request: Request,
    result: Result,
    *,
    etag: object = None,
    last_modified: datetime | None = None,
    headers: Mapping[str, str] | None = None,
) -> Reply[Result]:
    """The response to a conditional GET: `result` with its validators, or 304 if the client has this version.

        async def get(self, order_id: UUID, request: Request) -> Reply[Order]:
            order = self._store.get(order_id)
            return conditional(request, order, etag=order.version)

    `etag` is a version or another value for `etag_of`. `headers`, such as `cache-control`, are sent with both
    responses. With a validator, the chassis does not add `no-store`, so clients may cache the response and revalidate
    it. Raises a `Problem` of 412 if the client requires another version with `If-Match`.
    """
    tag = None if etag is None else etag_of(etag)
    status = precondition_status(request.method, request.headers, etag=tag, last_modified=last_modified)
    if status == 412:
        raise precondition_failed()
    validators = validator_headers(tag, last_modified)
    validators |= {name.lower(): value for name, value in (headers or {}).items()}
    if status == 304:
        # A 304 has no content, so the type of the result does not matter.
        return Reply(cast("Result", None), validators, status=304)
    return Reply(result, validators)


def check_conditions(
    request: Request, *, etag: object = None, last_modified: datetime | None = None, required: bool = False
) -> None:
    """Raise a `Problem` of 412 unless the conditions of a PUT, PATCH or DELETE match the current version.

    `etag` and `last_modified` are those of the current version. Pass neither if the resource does not exist: then
    `If-None-Match: *` matches, and `If-Match` never does. With `required`, a request without a condition gets a
    `Problem` of 428 (RFC 6585, section 3). This prevents lost updates.

    Check and change without an `await` in between, or in one transaction, because another request may come between.
    """
    tag = None if etag is None else etag_of(etag)
    dates = last_modified is not None and _date(request.headers, "if-unmodified-since", NEVER) is not NEVER
    if required and not (dates or "if-match" in request.headers or "if-none-match" in request.headers):
        raise Problem(428, "This request needs a condition: send If-Match with the ETag of the version that you read.")
    if precondition_status(request.method, request.headers, etag=tag, last_modified=last_modified) == 412:
        raise precondition_failed(None if tag is None else {"etag": tag})


def precondition_status(
    method: str, headers: Headers, *, etag: str | None = None, last_modified: datetime | None = None
) -> Literal[304, 412] | None:
    """The status that the preconditions of a request lead to; None if its method is to be performed.

    Follows the order of RFC 9110, section 13.2.2. Without `etag` and `last_modified`, the resource does not exist. An
    invalid date is ignored. Invalid entity tags are ignored in a GET or HEAD. For any other method they raise a
    `Problem` of 400, because ignoring them could overwrite data that the client wants to protect.
    """
    is_safe = method in SAFE_METHODS
    exists = etag is not None or last_modified is not None
    modified = None if last_modified is None else _seconds(last_modified)
    required_tags = _tags(headers, "if-match", is_safe)
    if required_tags is not None:
        if not (exists if required_tags == ["*"] else etag in required_tags and not _is_weak(etag)):
            return 412
    elif (
        "if-match" not in headers
        and modified is not None
        and modified > _date(headers, "if-unmodified-since", modified)
    ):
        return 412
    known_tags = _tags(headers, "if-none-match", is_safe)
    if known_tags is not None:
        if exists if known_tags == ["*"] else etag is not None and _opaque(etag) in map(_opaque, known_tags):
            return 304 if is_safe else 412
    elif is_safe and "if-none-match" not in headers and modified is not None:
        return 304 if modified <= _date(headers, "if-modified-since", NEVER) else None
    return None


def validator_headers(etag: str | None, last_modified: datetime | None) -> dict[str, str]:
    """The header fields of these validators."""
    fields = {} if etag is None else {"etag": etag}
    if last_modified is not None:
        fields["last-modified"] = format_datetime(_seconds(last_modified), usegmt=True)
    return fields


def precondition_failed(headers: Mapping[str, str] | None = None) -> Problem:
    """412 (RFC 9110, section 15.5.13)."""
    detail = "The current version of the resource does not match the condition of the request; read it again."
    return Problem(412, detail, headers=headers)


def _tags(headers: Headers, name: str, is_safe: bool) -> list[str] | None:
    """The entity tags in a field; `["*"]` for any version, None without the field."""
    if name not in headers:
        return None
    value = ", ".join(headers.getlist(name)).strip(" \t")
    if value == "*":
        return ["*"]
    if ENTITY_TAGS.fullmatch(value):
        return ENTITY_TAG.findall(value)
    if is_safe:
        return None
    raise Problem(400, f'{name.title()} must be * or entity tags in double quotes, such as "7".')


def _date(headers: Headers, name: str, default: datetime) -> datetime:
    """The date in a field, in any format of RFC 9110, section 5.6.7; `default` without a valid date."""
    values = headers.getlist(name)
    if len(values) != 1:
        return default
    try:
        return _seconds(parsedate_to_datetime(values[0]))
    except (ValueError, OverflowError):
        return default


def _seconds(date: datetime) -> datetime:
    """`date` in UTC with the precision of a header field; a date without a time zone counts as UTC."""
    return (date if date.tzinfo is not None else date.replace(tzinfo=UTC)).astimezone(UTC).replace(microsecond=0)


def _is_weak(tag: str | None) -> bool:
    return tag is not None and tag.startswith("W/")


def _opaque(tag: str) -> str:
    """The tag for the weak comparison (RFC 9110, section 8.8.3.2)."""
    return tag.removeprefix("W/")
