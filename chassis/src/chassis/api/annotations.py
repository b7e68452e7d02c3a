"""Annotations of parameters: their names in a request, and whether text can be parsed as their type."""

from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping, MutableSequence, MutableSet, Sequence
from collections.abc import Set as AbstractSet
from enum import Enum
from types import UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, BeforeValidator, Field, GetCoreSchemaHandler, GetJsonSchemaHandler, create_model
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError, PydanticUndefined, core_schema
from typing_extensions import TypeAliasType

from .sources import Source, UploadFile

COLLECTIONS: tuple[Any, ...] = (list, set, frozenset, tuple, deque)
# Abstract types, and the concrete collections that repeated values become.
CONCRETE: dict[Any, Any] = {
    AbstractSet: set,
    Collection: list,
    Iterable: list,
    MutableSequence: list,
    MutableSet: set,
    Sequence: list,
}
# Types of pydantic core schemas: those that repeated values can become, and those that text cannot express.
LISTS = frozenset({"deque", "frozenset", "list", "set", "tuple"})
STRUCTURED = frozenset({"arguments", "call", "dataclass", "dict", "model", "named-tuple", "typed-dict"})
NO_TEXT = LISTS | STRUCTURED | {"callable", "generator", "is-subclass", "none"}
# Wrapper schemas, and the key of the inner schema that gets the value.
INNER = {"chain": "steps", "definitions": "schema", "json-or-python": "python_schema", "lax-or-strict": "lax_schema"}


class FileSchema:
    """Makes pydantic accept an uploaded file, and describe it as OpenAPI does."""

    @staticmethod
    def check(value: object) -> UploadFile:
        """`value`, if it is a file."""
        if not isinstance(value, UploadFile):
            raise PydanticCustomError("file", "Input should be an uploaded file")
        return value

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        return core_schema.no_info_plain_validator_function(self.check)

    def __get_pydantic_json_schema__(
        self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return {"type": "string", "format": "binary", "contentMediaType": "application/octet-stream"}


class AnnotationError(TypeError):
    """An annotation is not supported. The message completes a sentence that starts with the parameter's name."""


def unwrap_alias(annotation: Any) -> Any:
    """The type behind an alias such as `type Limit = …`; other annotations are returned unchanged."""
    while isinstance(annotation, TypeAliasType):
        annotation = annotation.__value__
    return annotation


def request_name(annotation: Any, argument: str) -> str:
    """The parameter's name in the request: the alias of its pydantic `Field`, else the argument's name.

    Raises `AnnotationError` for a `Field` that would have no effect.
    """
    name = argument
    arguments = get_args(annotation) if get_origin(annotation) is Annotated else (annotation,)
    for metadata in arguments[1:]:
        if not isinstance(metadata, FieldInfo):
            continue
        if type(metadata) is not FieldInfo:
            raise AnnotationError(
                f"is annotated with {type(metadata).__name__}(…) of another framework; use pydantic's Field(…)"
            )
        if metadata.default is not PydanticUndefined or metadata.default_factory is not None:
            raise AnnotationError(f"has a default inside Field(…); write '{argument}: … = default' instead")
        alias = metadata.validation_alias or metadata.alias
        if alias is not None and not isinstance(alias, str):
            raise AnnotationError(f"has the alias {alias!r}; use a string, because a parameter has one name")
        name = alias or name
    if any(_has_alias(argument) for argument in get_args(arguments[0])):
        raise AnnotationError(
            "has an alias on a part of its type; write Annotated[…, Field(alias=…)] around the whole type"
        )
    return name


def source_of(annotation: Any) -> Source | None:
    """The marker in `annotation`, such as `Header()`. Raises `AnnotationError` for a marker without effect."""
    annotation = unwrap_alias(annotation)
    metadata = get_args(annotation)[1:] if get_origin(annotation) is Annotated else ()
    markers = [item for item in metadata if isinstance(item, Source)]
    classes = [item for item in metadata if isinstance(item, type) and issubclass(item, Source)]
    if classes:
        raise AnnotationError(f"is marked with the class {classes[0].__name__}; write {classes[0].__name__}()")
    if len(markers) > 1:
        names = " and ".join(f"{type(marker).__name__}()" for marker in markers)
        raise AnnotationError(f"is marked with {names}; keep one of them")
    if markers:
        return markers[0]
    for part in get_args(annotation):
        inner = None if isinstance(part, Source) else source_of(part)
        if inner is not None:
            marker = f"{type(inner).__name__}()"
            raise AnnotationError(
                f"has {marker} on a part of its type; write Annotated[…, {marker}] around the whole type"
            )
    return None


def holds_file(annotation: Any) -> bool:
    """Whether a part of the annotation is an uploaded file."""
    annotation = unwrap_alias(annotation)
    return annotation is UploadFile or any(holds_file(part) for part in get_args(annotation))


def model_of(annotation: Any) -> type[BaseModel] | None:
    """The pydantic model that makes a marked parameter a group; None for any other type."""
    annotation = unwrap_alias(annotation)
    if get_origin(annotation) is Annotated:
        annotation = unwrap_alias(get_args(annotation)[0])
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None


def from_texts(model: type[BaseModel]) -> type[BaseModel]:
    """`model`, or a subclass of it, whose fields accept values as text."""
    changed: dict[str, Any] = {}
    for name, field in model.model_fields.items():
        converted = from_text(field.annotation)
        if converted != field.annotation:
            changed[name] = (converted, field)
    if not changed:
        return model
    subclass: type[BaseModel] = create_model(
        model.__name__, __base__=model, __module__=model.__module__, __doc__=model.__doc__, **changed
    )
    return subclass


def without_alias(annotation: Any) -> Any:
    """`annotation` without the alias of its `Field`, because pydantic warns about an alias outside a model."""
    if get_origin(annotation) is not Annotated:
        return annotation
    kept: list[Any] = []
    for metadata in get_args(annotation)[1:]:
        if isinstance(metadata, FieldInfo):
            kept += metadata.metadata
            kept.append(
                Field(
                    title=metadata.title,
                    description=metadata.description,
                    examples=metadata.examples,
                    deprecated=metadata.deprecated,
                    json_schema_extra=metadata.json_schema_extra,
                )
            )
        else:
            kept.append(metadata)
    return Annotated[(get_args(annotation)[0], *kept)]


def from_text(annotation: Any) -> Any:
    """`annotation`, changed so that it accepts values as text, as in a URL.

    pydantic parses text as numbers. But it compares literals and enumerations by value only, and does not convert a
    list to an abstract collection such as `Sequence`.
    """
    annotation = unwrap_alias(annotation)
    if annotation is UploadFile:
        return Annotated[UploadFile, FileSchema()]
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return _accepting_text(annotation, arguments)
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return _accepting_text(annotation, [member.value for member in annotation])
    if origin is Annotated:
        return Annotated[(from_text(arguments[0]), *arguments[1:])]
    if origin in (Union, UnionType):
        return Union[tuple(from_text(argument) for argument in arguments)]  # noqa: UP007 - their number varies
    collection = origin or annotation
    if isinstance(collection, type) and (collection in COLLECTIONS or collection in CONCRETE):
        concrete = CONCRETE.get(collection, collection)
        return concrete[tuple(from_text(argument) for argument in arguments)] if arguments else concrete
    return annotation


def is_list(schema: Mapping[str, Any]) -> bool:
    """Whether a parameter of this core schema may be repeated.

    Raises `AnnotationError` if text cannot be parsed as its values.
    """
    if _has_type(schema, STRUCTURED):
        raise AnnotationError(
            "is structured data; name the parameter 'body' for a JSON body, and combine several bodies into one model"
        )
    lists = list(_lists(schema))
    if not lists:
        if not _reads_text(schema):
            raise AnnotationError("cannot be parsed from text; use a type such as str, int, UUID or datetime")
        return False
    for list_schema in lists:
        if list_schema is None:
            raise AnnotationError("is either one value or several; use list[…], which accepts one value as well")
        items = list_schema.get("items_schema", {"type": "any"})
        is_strict = list_schema.get("strict") and list_schema["type"] != "list"
        if is_strict or not all(_reads_text(item) for item in (items if isinstance(items, list) else [items])):
            raise AnnotationError("has items that cannot be parsed from text; use items such as str, int or UUID")
    return True


def has_generator(schema: Any) -> bool:
    """Whether a part of a core schema is validated only while the handler iterates over it."""
    return _has_type(schema, {"generator"})


def has_type_variable(annotation: Any) -> bool:
    """Whether a part of the annotation is a type variable, which pydantic treats as `Any`."""
    if isinstance(annotation, TypeVar):
        return True
    return any(has_type_variable(argument) for argument in get_args(annotation))


def _accepting_text(annotation: Any, values: Any) -> Any:
    by_text = {str(value).lower(): value for value in values if isinstance(value, bool | int | float)}
    strings = {value for value in values if isinstance(value, str)}
    by_text = {text: value for text, value in by_text.items() if text not in strings}
    if not by_text:
        return annotation
    return Annotated[annotation, BeforeValidator(lambda value: by_text.get(value, value))]


def _has_alias(annotation: Any) -> bool:
    arguments = get_args(annotation)
    if get_origin(annotation) is Annotated:
        fields = [metadata for metadata in arguments[1:] if isinstance(metadata, FieldInfo)]
        if any(field.alias or field.validation_alias for field in fields):
            return True
        arguments = arguments[:1]
    return any(_has_alias(argument) for argument in arguments)


def _has_type(schema: Any, types: AbstractSet[str]) -> bool:
    if isinstance(schema, Mapping):
        schema_type = schema.get("type")
        if schema_type in types:
            return True
        if schema_type == "json":  # pydantic parses its text as JSON, so it may have any structure
            return False
        return any(_has_type(value, types) for key, value in schema.items() if key not in ("metadata", "serialization"))
    return isinstance(schema, list | tuple) and any(_has_type(part, types) for part in schema)


def _inner(schema: Mapping[str, Any]) -> Any:
    """The inner schema of a wrapper that gets the value first; None if there is none."""
    inner = schema.get(INNER.get(schema["type"], "schema"))
    return inner[0] if isinstance(inner, list) else inner


def _choices(schema: Mapping[str, Any]) -> Iterator[Any]:
    choices = schema.get("choices", ())
    for choice in choices.values() if isinstance(choices, Mapping) else choices:
        yield choice[0] if isinstance(choice, tuple) else choice


def _lists(schema: Mapping[str, Any]) -> Iterator[Mapping[str, Any] | None]:
    """The list schemas that a value may have. If only some members of a union are lists, None stands for the others."""
    schema_type = schema["type"]
    if schema_type in LISTS:
        yield schema
    elif schema_type in ("union", "tagged-union"):
        choices = [list(_lists(choice)) for choice in _choices(schema) if choice["type"] != "none"]
        if any(choices):
            for lists in choices:
                yield from lists or [None]
    elif schema_type not in ("function-plain", "json", "json-or-python"):
        inner = _inner(schema)
        if inner is not None:
            yield from _lists(inner)


def _reads_text(schema: Mapping[str, Any]) -> bool:
    """Whether text can be parsed as a value of this core schema. True if the schema does not show it."""
    schema_type = schema["type"]
    if schema_type in NO_TEXT:
        return False
    if schema_type == "is-instance":
        return isinstance("", schema["cls"])
    if schema_type in ("union", "tagged-union"):
        return any(_reads_text(choice) for choice in _choices(schema))
    if schema_type in ("function-before", "function-wrap", "function-plain", "json"):
        return True
    inner = _inner(schema)
    if inner is not None:
        return _reads_text(inner)
    return not (schema.get("strict") and schema_type != "str")
