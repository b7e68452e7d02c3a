"""Two versions of a schema compared, in a request or in a response: changes that break a consumer, and others.

In a request, the provider must accept what the consumer sends by the old schema. In a response, the consumer must be
able to read what the provider sends by the new one. So one side writes by a schema, and the other reads by another.
"""

from collections.abc import Iterator
from typing import Any

from ..testing.openapi_document import Schemas
from ..testing.openapi_schemas import Key, Node, key_of
from .keywords import Difference, Direction, keyword_differences, kind_of

Pair = tuple[Key, Key]
ANYTHING: Node = {}


class SchemaComparison:
    """Compares the schemas of two documents, in one direction."""

    def __init__(self, old: Schemas, new: Schemas, direction: Direction) -> None:
        self._old = old
        self._new = new
        self._direction = direction
        self._is_request = direction is Direction.REQUEST
        # By the references or identities of both versions, so that each pair is compared once.
        self._found: dict[Pair, list[Difference]] = {}
        self._equal: set[Pair] = set()
        self._kept: list[Node] = []  # a schema that is merged has no other owner, and its identity must not be reused

    def differences(self, old: Any, new: Any) -> list[Difference]:
        """The differences between two versions of a schema that matter to a consumer, the outermost first."""
        self._found.clear()
        differences = sorted(self._compare(old, new), key=lambda difference: difference.depth)
        if not differences:
            self._equal |= self._found.keys()
        return differences

    def _compare(self, old: Any, new: Any) -> list[Difference]:
        pair = key_of(old), key_of(new)
        if pair in self._equal:
            return []
        if pair in self._found:
            # In progress, since the schema contains itself; or reported at another place, so that one is enough here.
            return sorted(self._found[pair], key=lambda one: not one.breaking)[:1]
        self._kept += [old, new]
        self._found[pair] = []
        self._found[pair] = list(self._compare_alternatives(old, new))
        return self._found[pair]

    def _compare_alternatives(self, old: Any, new: Any) -> Iterator[Difference]:
        """Each alternative of the writer must be one that the reader knows."""
        before, after = list(branches(self._old, old)), list(branches(self._new, new))
        writers, readers = (before, after) if self._is_request else (after, before)
        missing = []
        for writer in writers:
            fitting = [reader for reader in readers if fits(writer, reader)]
            if fitting:
                yield from self._closest(writer, fitting)
            else:
                missing.append(writer)
        if missing:
            yield from self._other_types(missing, before, after)

    def _closest(self, writer: Node, readers: list[Node]) -> list[Difference]:
        """The differences from the alternative that differs least."""
        found = []
        for reader in readers:
            old, new = (writer, reader) if self._is_request else (reader, writer)
            found.append(list(self._compare_values(old, new)))
        return min(found, key=lambda differences: (sum(one.breaking for one in differences), len(differences)))

    def _compare_values(self, old: Node, new: Node) -> Iterator[Difference]:
        yield from keyword_differences(old, new, self._direction)
        yield from self._members(old, new)
        yield from self._other_members(old, new)
        yield from needed_members(old, new, self._direction)
        yield from self._inside("[]", old.get("items", ANYTHING), new.get("items", ANYTHING))
        first_items = zip(old.get("prefixItems", ()), new.get("prefixItems", ()), strict=False)
        for index, (old_item, new_item) in enumerate(first_items):
            yield from self._inside(f"[{index}]", old_item, new_item)

    def _inside(self, place: str, old: Any, new: Any) -> Iterator[Difference]:
        return (difference.inside(place) for difference in self._compare(old, new))

    def _members(self, old: Node, new: Node) -> Iterator[Difference]:
        """The members that the old version has."""
        left = new.get("properties", {})
        for name, schema in old.get("properties", {}).items():
            if name in left:
                yield from self._inside(name, schema, left[name])
            elif not self._is_request:
                yield Difference(name, "was removed", breaking=True)
            elif new.get("additionalProperties") is False:
                yield Difference(name, "is no longer accepted", breaking=True)
            elif new.get("additionalProperties"):
                yield from self._inside(name, schema, new["additionalProperties"])
            else:
                yield Difference(name, "is no longer described", breaking=False)

    def _other_members(self, old: Node, new: Node) -> Iterator[Difference]:
        """The members of maps, whose names are not in the schema."""
        old_rest, new_rest = old.get("additionalProperties"), new.get("additionalProperties")
        if isinstance(old_rest, dict) and isinstance(new_rest, dict):
            yield from self._inside("*", old_rest, new_rest)
        elif self._is_request and isinstance(old_rest, dict) and new_rest is False:
            yield Difference("", "accepts no other members now", breaking=True)
        elif not self._is_request and isinstance(old_rest, dict) and old_rest:
            yield Difference("*", "was removed", breaking=True)
        if not self._is_request and isinstance(old_rest, dict):
            for name, schema in new.get("properties", {}).items():
                if name not in old.get("properties", {}):
                    yield from self._inside(name, old_rest, schema)

    def _other_types(self, missing: list[Node], before: list[Node], after: list[Node]) -> Iterator[Difference]:
        """Alternatives of the writer that the reader does not have."""
        names = [name_of(schema) for schema in missing]
        if "null" in names:
            text = "must not be null now" if self._is_request else "may be null now"
            yield Difference("", text, breaking=True)
        others = [name for name in dict.fromkeys(names) if name != "null"]
        was, now = ([name for name in map(name_of, side) if name != "null"] for side in (before, after))
        if others and len(was) == len(now) == 1:
            yield Difference("", f"was {was[0]} and is {now[0]} now", breaking=True)
        elif others:
            text = "is no longer accepted as" if self._is_request else "may now also be"
            yield Difference("", f"{text} {' or '.join(others)}", breaking=True)


def needed_members(old: Node, new: Node, direction: Direction) -> Iterator[Difference]:
    """Members that the reader needs, and that the writer may leave out."""
    if direction is Direction.REQUEST:
        for name in new.get("required", ()):
            if name not in old.get("required", ()):
                known = name in old.get("properties", {})
                yield Difference(name, "is required now" if known else "is new and required", breaking=True)
        return
    for name in old.get("required", ()):
        is_removed = name in old.get("properties", {}) and name not in new.get("properties", {})
        if name not in new.get("required", ()) and not is_removed:
            yield Difference(name, "may be missing now", breaking=True)


def branches(schemas: Schemas, node: Any, inside: frozenset[Key] = frozenset()) -> Iterator[Node]:
    """The alternatives of a schema: of `anyOf` and `oneOf`, and one for each of several types.

    An alternative that is `inside` of itself adds nothing.
    """
    schema, _ = schemas.flatten(node)
    alternatives = [*schema.get("anyOf", ()), *schema.get("oneOf", ())]
    if alternatives:
        rest = {name: value for name, value in schema.items() if name not in ("anyOf", "oneOf")}
        for alternative in alternatives:
            key = key_of(alternative)
            if key not in inside:
                yield from branches(schemas, {"allOf": [rest, alternative]}, inside | {key})
    elif isinstance(schema.get("type"), list):
        for name in schema["type"]:
            yield schema | {"type": name}
    else:
        yield schema


def fits(writer: Node, reader: Node) -> bool:
    """Whether values of the writer's type are of the reader's type."""
    kind, expected = kind_of(writer), kind_of(reader)
    return expected in (None, kind) or (kind == "integer" and expected == "number")


def name_of(schema: Node) -> str:
    """A name of an alternative in a sentence."""
    kind = kind_of(schema) or "any value"
    return f"{kind} {schema['title']}" if kind == "object" and "title" in schema else kind
