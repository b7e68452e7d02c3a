"""Values validated against the schemas of a document, by the library `jsonschema`, which only tests need."""

import json
from datetime import datetime
from typing import Any

from .openapi_document import Schemas
from .openapi_schemas import Node

MOST_ERRORS = 3


class MissingLibraryError(ImportError):
    """`jsonschema` is not installed."""


class Validator:
    """Validates values against schemas of a document."""

    def __init__(self, schemas: Schemas) -> None:
        """Raises `MissingLibraryError` without `jsonschema`."""
        try:
            from jsonschema import Draft202012Validator, FormatChecker
            from jsonschema.exceptions import best_match
        except ImportError:
            raise MissingLibraryError(
                "a FakeService from an OpenAPI document needs jsonschema; add it to the tests: uv add --dev jsonschema"
            ) from None
        self._validator = Draft202012Validator
        self._best_match = best_match
        self._schemas = schemas
        self._formats = FormatChecker()
        self._formats.checks("date-time", raises=ValueError)(is_date_time)

    def errors(self, value: Any, schema: Node) -> list[str]:
        """The errors of a value, in one phrase each; at most three."""
        # References begin at the root of the document, so the schema becomes a part of it.
        root = self._schemas.root | self._schemas.as_object(schema)
        validator = self._validator(root, format_checker=self._formats)
        found = sorted(validator.iter_errors(value), key=lambda error: list(map(str, error.absolute_path)))
        return [self._phrase(self._best_match([error])) for error in found[:MOST_ERRORS]]

    def parameter_errors(self, values: list[str], parameter: Node) -> list[str]:
        """The errors of a parameter's text. The text is read as the types that the schema allows."""
        schema = self._schemas.flatten(parameter.get("schema", {}))[0]
        items = [item for value in values for item in value.split(",")]
        candidates = [readings(values[-1])[-1], values[-1], [readings(item)[-1] for item in items], items]
        failures = [self.errors(candidate, schema) for candidate in candidates]
        return [] if [] in failures else failures[0]

    def _phrase(self, error: Any) -> str:
        place = "".join(f"/{part}" for part in error.absolute_path)
        return f"{place}: {error.message}" if place else str(error.message)


def readings(text: str) -> list[Any]:
    """Text, and the number or truth value that it may be."""
    try:
        value = json.loads(text)
    except ValueError:
        return [text]
    return [text] if isinstance(value, dict | list | str) else [text, value]


def is_date_time(value: object) -> bool:
    """Whether text is a date with its time and offset (RFC 3339). Other values have no format."""
    return not isinstance(value, str) or datetime.fromisoformat(value).tzinfo is not None
