"""Values of two versions of a schema compared: bounds, formats, patterns and lists of values."""

import math
from collections.abc import Iterator
from enum import Enum
from typing import Any, NamedTuple

from ..testing.openapi_schemas import Node

# With the value that a schema without the keyword has.
LOWER = {"minLength": 0, "minItems": 0, "minProperties": 0}
UPPER = ("maxLength", "maxItems", "maxProperties")
NUMBERS = frozenset({"int32", "int64", "float", "double"})
NOT_COMPARED = ("not", "if", "then", "else", "patternProperties", "dependentRequired", "propertyNames", "contains")
KINDS: dict[type, str] = {
    bool: "boolean",
    int: "integer",
    float: "number",
    str: "string",
    list: "array",
    dict: "object",
}


class Direction(Enum):
    """A request is written by the old schema, and a response by the new one."""

    REQUEST = "request"
    RESPONSE = "response"


class Difference(NamedTuple):
    """A difference at a place inside of a schema, such as `lines[].sku`. The schema itself has no place."""

    place: str
    text: str
    breaking: bool

    @property
    def depth(self) -> int:
        """The number of objects and arrays around it."""
        return self.place.count(".") + self.place.count("[") + bool(self.place)

    def inside(self, place: str) -> "Difference":
        """The same difference, seen from a schema that has this one at `place`."""
        separator = "." if place and self.place and not self.place.startswith("[") else ""
        return Difference(f"{place}{separator}{self.place}", self.text, self.breaking)


def keyword_differences(old: Node, new: Node, direction: Direction) -> Iterator[Difference]:
    """Differences of the values that a schema allows. Wider responses are warnings, but other formats break."""
    request = direction is Direction.REQUEST
    yield from listed_values(old, new, direction)
    for keyword in narrowed(old, new) if request else narrowed(new, old):
        versions = f"{keyword} was {old.get(keyword, 'not set')!s} and is {new.get(keyword, 'not set')!s} now"
        yield Difference("", f"allows {'less' if request else 'more'}: {versions}", breaking=request)
    writer, reader = (old, new) if request else (new, old)
    expected = reader.get("format")
    if expected is not None and writer.get("format") != expected:
        had, has = old.get("format", "none"), new.get("format", "none")
        yield Difference("", f"had the format {had} and has {has} now", breaking=expected not in NUMBERS)
    for keyword in NOT_COMPARED:
        if old.get(keyword) != new.get(keyword):
            yield Difference("", f"has another {keyword!r}, which is not compared", breaking=False)


def listed_values(old: Node, new: Node, direction: Direction) -> Iterator[Difference]:
    """Differences of `enum` and `const`."""
    before, after = values_of(old), values_of(new)
    request = direction is Direction.REQUEST
    written, read = (before, after) if request else (after, before)
    if read is None:
        return
    if written is None:
        text = f"accepts only {words(read)} now" if request else f"may have other values now than {words(read)}"
        yield Difference("", text, breaking=request)
        return
    unknown = [value for value in written if value not in read]
    if len(unknown) == len(written):
        yield Difference("", f"was {words(before or [])} and is {words(after or [])} now", breaking=True)
    elif unknown:
        text = f"no longer accepts {words(unknown)}" if request else f"may be {words(unknown)} now"
        yield Difference("", text, breaking=request)


def narrowed(wide: Node, narrow: Node) -> Iterator[str]:
    """The keywords by which `narrow` allows less than `wide`. Patterns that differ are taken for narrower ones."""
    for keyword, default in LOWER.items():
        if narrow.get(keyword, default) > wide.get(keyword, default):
            yield keyword
    for keyword in UPPER:
        if narrow.get(keyword, math.inf) < wide.get(keyword, math.inf):
            yield keyword
    for keyword, exclusive, sign in (("minimum", "exclusiveMinimum", 1), ("maximum", "exclusiveMaximum", -1)):
        if bound(narrow, keyword, exclusive, sign) > bound(wide, keyword, exclusive, sign):
            yield exclusive if exclusive in narrow else keyword
    multiple = narrow.get("multipleOf")
    if multiple and ("multipleOf" not in wide or wide["multipleOf"] % multiple):
        yield "multipleOf"
    for keyword in ("pattern", "uniqueItems"):
        if narrow.get(keyword) and narrow[keyword] != wide.get(keyword):
            yield keyword


def bound(schema: Node, inclusive: str, exclusive: str, sign: int) -> tuple[float, bool]:
    """A bound of numbers; a higher one allows less. An exclusive bound allows less than the same inclusive one."""
    return max(
        (schema[inclusive] * sign if inclusive in schema else -math.inf, False),
        (schema[exclusive] * sign if exclusive in schema else -math.inf, exclusive in schema),
    )


def values_of(schema: Node) -> list[Any] | None:
    """The values of `enum` or `const`; None if there is no list of values."""
    if "const" in schema:
        return [schema["const"]]
    values: list[Any] | None = schema.get("enum")
    return values


def kind_of(schema: Node) -> str | None:
    """The type of a schema, or the one that its keywords imply; None for any."""
    if "type" in schema:
        return str(schema["type"])
    kinds = {KINDS.get(type(value), "null") for value in values_of(schema) or ()}
    if kinds:
        return kinds.pop() if len(kinds) == 1 else None
    if schema.keys() & {"properties", "required", "additionalProperties"}:
        return "object"
    return "array" if schema.keys() & {"items", "prefixItems"} else None


def words(values: list[Any]) -> str:
    """Values in a sentence."""
    return ", ".join(map(repr, values))
