"""Content negotiation (RFC 9110, section 12.5.1): which media type of a response the client prefers."""

from collections.abc import Callable, Sequence
from typing import Any

Encoder = Callable[[Any], bytes]
"""Encodes a result that consists of JSON types: dictionaries, lists, text, numbers, booleans and None."""


def preferred(accept: str, offered: Sequence[str]) -> str | None:
    """The media type of `offered` that `accept`, the value of the field, prefers; the first one among equals.

    None if it accepts none of them. Invalid members of the field are ignored.
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
    """The quality of the most specific range that includes the media type; 0 without one."""
    top_level_type = media_type.partition("/")[0]
    for candidate in (media_type, f"{top_level_type}/*", "*/*"):
        qualities = [quality for media_range, quality in ranges if media_range == candidate]
        if qualities:
            return max(qualities)
    return 0.0
