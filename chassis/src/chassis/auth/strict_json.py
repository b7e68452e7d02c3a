"""JSON that has only one meaning: for tokens, and for the documents of their issuer."""

import json
from typing import Any


class AmbiguousJsonError(ValueError):
    """An object has a member twice, or a number is not finite."""


def parse_object(text: bytes) -> dict[str, Any]:
    """The JSON object in UTF-8 text. Raises `ValueError` for anything else, whatever the input is.

    Parsers disagree about the value of a member that an object has twice (RFC 8259, section 4), so it is an error.
    """
    try:
        value = json.loads(text.decode(), object_pairs_hook=_object, parse_constant=_not_finite)
    except RecursionError:
        value = None
    if not isinstance(value, dict):
        raise ValueError("not a JSON object, or nested too deeply")
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise AmbiguousJsonError("an object has a member twice")
    return members


def _not_finite(name: str) -> float:
    raise AmbiguousJsonError(f"{name} is not a number in JSON")
