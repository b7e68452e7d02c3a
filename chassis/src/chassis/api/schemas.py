"""JSON Schemas for the OpenAPI document."""

from collections.abc import Sequence
from typing import Any

from pydantic import TypeAdapter

from .operation import Operation

REF_TEMPLATE = "#/components/schemas/{model}"


class Schemas:
    """The JSON Schemas of the adapters of `operations`, and their shared components."""

    def __init__(self, operations: Sequence[Operation]) -> None:
        adapters: list[tuple[tuple[int, str], Any, TypeAdapter[Any]]] = []
        for operation in operations:
            inputs = [parameter.adapter for parameter in operation.parameters]
            if operation.body is not None and not operation.body_is_raw:
                inputs.append(operation.body)
            adapters += [((id(adapter), "validation"), "validation", adapter) for adapter in inputs]
            results = [operation.results.adapter, *operation.results.others.values()]
            adapters += [
                ((id(result), "serialization"), "serialization", result) for result in results if result is not None
            ]
        schemas, definitions = TypeAdapter.json_schemas(adapters, ref_template=REF_TEMPLATE) if adapters else ({}, {})
        self._schemas = {key: schema for (key, _), schema in schemas.items()}
        self.components: dict[str, Any] = definitions.get("$defs", {})

    def of(self, adapter: TypeAdapter[Any], mode: str) -> dict[str, Any]:
        """The schema of an adapter, which may be a reference to a component."""
        schema: dict[str, Any] = self._schemas[id(adapter), mode]
        return schema

    def resolved(self, adapter: TypeAdapter[Any], mode: str) -> dict[str, Any]:
        """The schema of an adapter, without a reference at its top level."""
        schema = self.of(adapter, mode)
        while "$ref" in schema:
            schema = self.components[schema["$ref"].rpartition("/")[2]]
        return schema
