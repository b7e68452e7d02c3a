"""Schemas of OpenAPI documents: 3.0 becomes 3.1 (JSON Schema 2020-12), and `allOf` becomes one schema."""

from collections.abc import Callable
from typing import Any

Node = dict[str, Any]
Key = str | int

# The values of these are schemas by name, and those are values and no schemas.
NAMED = frozenset({"properties", "patternProperties", "schemas", "$defs", "headers", "parameters", "responses"})
VALUES = frozenset({"example", "examples", "default", "enum", "const", "mapping", "required"})
BOUNDS = {"exclusiveMinimum": "minimum", "exclusiveMaximum": "maximum"}


def convert(document: Node) -> Node:
    """A document of OpenAPI 3.0 with the schemas of 3.1: `nullable`, exclusive bounds and `example`."""
    return walk_members(document, convert_schema)


def without_hidden(document: Node, flag: str) -> Node:
    """A document without the members of objects that have this flag: `readOnly` or `writeOnly`."""

    def hide(node: Node) -> Node:
        properties = node.get("properties")
        if not isinstance(properties, dict):
            return node
        hidden = {name for name, value in properties.items() if isinstance(value, dict) and value.get(flag) is True}
        if not hidden:
            return node
        changed = node | {"properties": {name: value for name, value in properties.items() if name not in hidden}}
        if "required" in node:
            changed["required"] = [name for name in node["required"] if name not in hidden]
        return changed

    return walk_members(document, hide)


def walk(node: Any, change: Callable[[Node], Node], *, named: bool = False) -> Any:
    """A copy of `node`, in which `change` was applied to all objects that may be schemas."""
    if isinstance(node, list):
        return [walk(item, change) for item in node]
    if not isinstance(node, dict):
        return node
    if named:
        return {name: walk(value, change) for name, value in node.items()}
    return change(walk_members(node, change))


def walk_members(node: Node, change: Callable[[Node], Node]) -> Node:
    """A copy of an object, in which `change` was applied to all objects inside of it."""
    return {name: value if name in VALUES else walk(value, change, named=name in NAMED) for name, value in node.items()}


def convert_schema(node: Node) -> Node:
    """A schema of OpenAPI 3.0 as one of 3.1. Other objects have none of these members."""
    schema = dict(node)
    nullable = schema.pop("nullable", False) is True
    for exclusive, inclusive in BOUNDS.items():
        if isinstance(schema.get(exclusive), bool) and schema.pop(exclusive) and inclusive in schema:
            schema[exclusive] = schema.pop(inclusive)
    if "example" in schema and ("type" in schema or "properties" in schema):
        schema["examples"] = [schema.pop("example")]
    if not nullable:
        return schema
    if isinstance(schema.get("type"), str) and not schema.keys() & {"allOf", "anyOf", "oneOf"}:
        schema["type"] = [schema["type"], "null"]
        if "enum" in schema and None not in schema["enum"]:
            schema["enum"] = [*schema["enum"], None]
        return schema
    return {"anyOf": [schema, {"type": "null"}]}


def merge(schemas: list[Node]) -> Node:
    """One schema in place of several that all apply, as those of `allOf`."""
    merged: Node = {}
    for schema in schemas:
        for name, value in schema.items():
            if name == "properties":
                known = merged.get(name, {})
                both = {key: {"allOf": [known[key], value[key]]} for key in known.keys() & value.keys()}
                merged[name] = known | value | {key: both[key] for key in value if key in both}
            elif name == "required":
                merged[name] = list(dict.fromkeys([*merged.get(name, []), *value]))
            elif name == "enum" and name in merged:
                merged[name] = [item for item in merged[name] if item in value]
            elif name == "allOf":
                merged[name] = [*merged.get(name, []), *value]
            elif name in ("anyOf", "oneOf") and name in merged:
                merged[name] = [{"allOf": [one, other]} for one in merged[name] for other in value]
            else:
                merged[name] = value
    return merged


def key_of(node: Any) -> Key:
    """The reference of a node that has nothing else, or the identity of the node."""
    if isinstance(node, dict) and node.keys() == {"$ref"}:
        return str(node["$ref"])
    return id(node)
