"""Content negotiation (RFC 9110, section 12.5.1): the media type of a response that the client prefers."""

from collections.abc import Callable, Sequence
from typing import Any

Encoder = Callable[[Any], bytes]
"""Encodes a result, given as what JSON has: dictionaries, lists, text, numbers, booleans and None."""


def preferred(accept: str, offered: Sequence[str]) -> str | None:
    """The one of `offered` that `accept`, the field's value, prefers; the first of those that it likes equally.

    None when it accepts none of them. A member of the field that cannot be read is ignored.
    """
    ranges = [_media_range(member) for member in accept.split(",") if member.strip()]
    if not ranges:
        return offered[0]
    qualities = {media_type: _quality(media_type, ranges) for media_type in offered}
    best = max(offered, key=qualities.__getitem__)
    return best if qualities[best] > 0 else None


def _media_range(member: str) -> tuple[str, float]:
    media_range, *parameters = (part.strip().lower() for part in member.split(";"))
    quality = 1.0
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            try:
                quality = min(max(float(value), 0.0), 1.0)
            except ValueError:
                quality = 0.0
    return media_range, quality


def _quality(media_type: str, ranges: Sequence[tuple[str, float]]) -> float:
    """That of the most specific range which the media type is in; 0 without one."""
    kind = media_type.partition("/")[0]
    for wanted in (media_type, f"{kind}/*", "*/*"):
        found = [quality for media_range, quality in ranges if media_range == wanted]
        if found:
            return max(found)
    return 0.0
