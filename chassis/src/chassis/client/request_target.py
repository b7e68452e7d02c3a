"""The encoded target and body of a call: values in paths and queries cannot change its meaning."""

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from string import Formatter
from typing import Any, cast
from urllib.parse import quote

from pydantic_core import to_json

Query = Mapping[str, object] | Iterable[tuple[str, object]]
# A server or a proxy resolves these segments (RFC 3986, section 5.2.4), also when they are percent-encoded.
DOT_SEGMENTS = frozenset({".", ".."})
UNRESERVED = re.compile("[A-Za-z0-9._~-]+")


class PathValueError(ValueError):
    """A value cannot be a segment of a path: it is empty, or a dot segment. The text is shown to clients."""


def make_target(prefix: str, route: str, path: Mapping[str, object] | None, params: Query | None) -> str:
    """The target of a request: `/products/{sku}` with the values of `path`, and `params` as the query.

    Values are percent-encoded whole (RFC 3986), so that a slash or a question mark in one stays in its segment. Raises
    `PathValueError` for a value that cannot be encoded, and `KeyError` for a name without a value.
    """
    if "{" in route:
        target = prefix
        for literal, name in _parts_of(route):
            target += literal
            if name is not None:
                target += _segment((path or {})[name])
    else:
        target = prefix + route
    if params:
        query = _query(params)
        if query:
            target += ("&" if "?" in route else "?") + query
    return target


@lru_cache(maxsize=1024)
def _parts_of(route: str) -> tuple[tuple[str, str | None], ...]:
    return tuple((literal, name) for literal, name, _, _ in Formatter().parse(route))


def _segment(value: object) -> str:
    text = _text(value)
    if not text or text in DOT_SEGMENTS:
        raise PathValueError(f"The value {text!r} cannot be a part of a path.")
    return _quoted(text)


def _quoted(text: str) -> str:
    # Most identifiers need no quoting, and `quote` takes longer than the choice of a replica.
    return text if UNRESERVED.fullmatch(text) else quote(text, safe="")


def _query(params: Query) -> str:
    """Names with their values: a list is one pair for each of its values, and None is none."""
    pairs: list[str] = []
    for name, value in cast("Iterable[tuple[str, object]]", params.items() if isinstance(params, Mapping) else params):
        if isinstance(value, (list, tuple, set, frozenset)):
            pairs += [f"{_quoted(name)}={_quoted(_text(one))}" for one in cast("Iterable[object]", value)]
        elif value is not None:
            pairs.append(f"{_quoted(name)}={_quoted(_text(value))}")
    return "&".join(pairs)


def _text(value: object) -> str:
    """A value as JSON has it, without quotation marks: `true` for True, ISO 8601 for a date."""
    if isinstance(value, str):
        return value
    return str(value) if type(value) is int else to_json(value).decode().strip('"')


def json_body(value: Any) -> bytes:
    """A value as JSON: pydantic models, dataclasses, dates, UUIDs and decimals too. Raises `ValueError` for others."""
    return to_json(value)
