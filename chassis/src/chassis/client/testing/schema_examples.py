"""Examples of schemas: the same schema has always the same example."""

import math
import re
from typing import Any

from .openapi_document import Schemas
from .openapi_schemas import Key, Node, key_of

# References, and alternatives of `anyOf` and `oneOf`.
Inside = frozenset[str | tuple[str, Key]]
NOWHERE: Inside = frozenset()
FORMATS = {
    "date-time": "2026-01-01T00:00:00Z",
    "date": "2026-01-01",
    "time": "00:00:00Z",
    "duration": "PT1S",
    "uuid": "00000000-0000-4000-8000-000000000000",
    "email": "name@example.com",
    "hostname": "example.com",
    "ipv4": "192.0.2.1",
    "ipv6": "2001:db8::1",
    "uri": "https://example.com/",
    "uri-reference": "/",
    "byte": "AA==",
    "base64": "AA==",
}
# Tried for a pattern, in this order.
TEXTS = (
    "string",
    "text-1",
    "text_1",
    "TEXT",
    "Text",
    "a",
    "A",
    "1",
    "12",
    "123",
    "1234",
    "00000",
    "0.5",
    "1.0.0",
    "EUR",
)


class NoExampleError(ValueError):
    """A schema has no example that can be found: it needs itself, or has a pattern that no known text matches."""


class Examples:
    """Makes examples of the schemas of a document."""

    def __init__(self, schemas: Schemas) -> None:
        self._schemas = schemas

    def of_media_type(self, node: Node) -> Any:
        """The example of a body: the one in the document, or else one of its schema. Raises `NoExampleError`."""
        if "example" in node:
            return node["example"]
        for example in (node.get("examples") or {}).values():
            named = self._schemas.resolve(example)
            if "value" in named:
                return named["value"]
        return self.of_schema(node.get("schema", {}))

    def of_schema(self, node: Any, inside: Inside = NOWHERE) -> Any:
        """An instance of a schema. References and alternatives that it is `inside` of are not followed again."""
        schema, references = self._schemas.flatten(node)
        if references & inside:
            raise NoExampleError(f"{min(references)} contains itself without an end")
        for name in ("const", "default"):
            if schema.get(name) is not None:
                return schema[name]
        for name in ("examples", "enum"):
            if schema.get(name):
                return schema[name][0]
        alternatives = [*schema.pop("anyOf", ()), *schema.pop("oneOf", ())]
        if alternatives:
            return self._of_alternatives(alternatives, schema, inside)
        return self._of_type(schema, inside | references)

    def _of_alternatives(self, alternatives: list[Node], rest: Node, inside: Inside) -> Any:
        """The example of the first alternative that has one. Null comes last."""
        failure = NoExampleError("a schema contains itself without an end")
        for alternative in sorted(alternatives, key=lambda node: node == {"type": "null"}):
            place = "alternative", key_of(alternative)
            if place in inside:
                continue
            try:
                return self.of_schema({"allOf": [rest, alternative]}, inside | {place})
            except NoExampleError as error:
                failure = error
        raise failure

    def _of_type(self, schema: Node, inside: Inside) -> Any:
        types = schema.get("type", [])
        named = [types] if isinstance(types, str) else [name for name in types if name != "null"] or types
        match named[0] if named else implied_type(schema):
            case "object":
                return self._object(schema, inside)
            case "array":
                return self._array(schema, inside)
            case "integer":
                return int(number(schema, step=1))
            case "number":
                return number(schema, step=0.5)
            case "boolean":
                return True
            case "null":
                return None
            case _:
                return text(schema)

    def _object(self, schema: Node, inside: Inside) -> Node:
        """All members, but those optional ones that have no example."""
        required = schema.get("required", [])
        properties = schema.get("properties", {})
        members = {}
        for name in dict.fromkeys([*properties, *required]):
            try:
                members[name] = self.of_schema(properties.get(name, {}), inside)
            except NoExampleError:
                if name in required:
                    raise
        for index in range(schema.get("minProperties", 0) - len(members)):
            members[f"name-{index + 1}"] = self.of_schema(schema.get("additionalProperties", {}), inside)
        return members

    def _array(self, schema: Node, inside: Inside) -> list[Any]:
        """One item, or as many as there must be; none if items have no example and there need not be one."""
        items = [self.of_schema(node, inside) for node in schema.get("prefixItems", ())]
        least = schema.get("minItems", 0)
        wanted = min(max(least, 1), schema.get("maxItems", max(least, 1)))
        if len(items) < wanted and schema.get("items") is not False:
            try:
                item = self.of_schema(schema.get("items", {}), inside)
            except NoExampleError:
                if least > len(items):
                    raise
                return items
            unique = schema.get("uniqueItems", False)
            items += [varied(item, index) if unique else item for index in range(wanted - len(items))]
        return items


def implied_type(schema: Node) -> str:
    """The type of a schema that names none."""
    if schema.keys() & {"properties", "additionalProperties", "required"}:
        return "object"
    return "array" if schema.keys() & {"items", "prefixItems"} else "string"


def varied(item: Any, index: int) -> Any:
    """An item that differs from those with another index, as far as numbers and text are concerned."""
    if index == 0 or isinstance(item, bool):
        return item
    if isinstance(item, int | float):
        return item + index
    return f"{item}-{index}" if isinstance(item, str) else item


def number(schema: Node, *, step: float) -> int | float:
    """1, or the number closest to it within the bounds."""
    least = max(schema.get("minimum", -math.inf), schema.get("exclusiveMinimum", -math.inf) + step)
    most = min(schema.get("maximum", math.inf), schema.get("exclusiveMaximum", math.inf) - step)
    value: int | float = min(max(1, least), most)
    multiple = schema.get("multipleOf")
    if multiple:
        value = math.ceil(value / multiple) * multiple
    return math.ceil(value) if step == 1 else value


def text(schema: Node) -> str:
    """Text of the format, or that matches the pattern, of a length within the bounds."""
    known = FORMATS.get(str(schema.get("format")))
    if known is not None:
        return known
    least: int = schema.get("minLength", 0)
    most: float = schema.get("maxLength", math.inf)
    pattern = str(schema.get("pattern", ""))
    longer = [candidate * math.ceil(least / len(candidate)) for candidate in TEXTS]
    candidates = [*TEXTS, *longer, *(candidate[: max(least, 1)] for candidate in longer), ""]
    for candidate in candidates:
        if least <= len(candidate) <= most and matches(pattern, candidate):
            return candidate
    raise NoExampleError(f"no text is known that matches the pattern {pattern!r}; add an example to the document")


def matches(pattern: str, candidate: str) -> bool:
    """Whether text has a pattern of JSON Schema. Those that Python cannot read match nothing."""
    try:
        return re.search(pattern, candidate) is not None
    except re.error:
        return False
