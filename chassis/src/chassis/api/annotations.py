"""Annotations of parameters: their names in a request, and whether text can become a value of them."""

from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping, MutableSequence, MutableSet, Sequence
from collections.abc import Set as AbstractSet
from enum import Enum
from types import UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, BeforeValidator, Field, GetCoreSchemaHandler, GetJsonSchemaHandler, create_model
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined, core_schema
from typing_extensions import TypeAliasType

from .sources import Source, UploadFile

COLLECTIONS: tuple[Any, ...] = (list, set, frozenset, tuple, deque)
# Abstract types, and what repeated values become for them.
CONCRETE: dict[Any, Any] = {
    AbstractSet: set,
    Collection: list,
    Iterable: list,
    MutableSequence: list,
    MutableSet: set,
    Sequence: list,
}
# Of pydantic core schemas: what repeated values can become; what text cannot express.
LISTS = frozenset({"deque", "frozenset", "list", "set", "tuple"})
STRUCTURED = frozenset({"arguments", "call", "dataclass", "dict", "model", "named-tuple", "typed-dict"})
NO_TEXT = LISTS | STRUCTURED | {"callable", "generator", "is-subclass", "none"}
# Wrappers, and the schema inside of them that gets the value.
INNER = {"chain": "steps", "definitions": "schema", "json-or-python": "python_schema", "lax-or-strict": "lax_schema"}


class FileSchema:
    """Makes pydantic accept an uploaded file, and describe it as OpenAPI does."""

    @staticmethod
    def check(value: object) -> UploadFile:
        """`value`, if it is a file."""
        if not isinstance(value, UploadFile):
            raise ValueError("Should be a file")
        return value

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        return core_schema.no_info_plain_validator_function(self.check)

    def __get_pydantic_json_schema__(
        self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return {"type": "string", "format": "binary", "contentMediaType": "application/octet-stream"}


class AnnotationError(TypeError):
    """The annotation cannot work; the message is the end of a sentence that begins with the parameter."""


def unwrap_alias(annotation: Any) -> Any:
    """The type that `type Limit = …` stands for, if `annotation` is such a name."""
    while isinstance(annotation, TypeAliasType):
        annotation = annotation.__value__
    return annotation


def request_name(annotation: Any, argument: str) -> str:
    """The parameter's name in the request: the alias of its pydantic `Field`, else that of the argument.

    Raises `AnnotationError` for fields that have no effect here.
    """
    name = argument
    arguments = get_args(annotation) if get_origin(annotation) is Annotated else (annotation,)
    for metadata in arguments[1:]:
        if not isinstance(metadata, FieldInfo):
            continue
        if type(metadata) is not FieldInfo:
            raise AnnotationError(f"has {type(metadata).__name__}(…) of another framework; use pydantic's Field(…)")
        if metadata.default is not PydanticUndefined or metadata.default_factory is not None:
            raise AnnotationError(f"has a default inside of Field; write it as '{argument}: … = default'")
        alias = metadata.validation_alias or metadata.alias
        if alias is not None and not isinstance(alias, str):
            raise AnnotationError("has an alias that is not text; a parameter has one name in the request")
        name = alias or name
    if any(_has_alias(argument) for argument in get_args(arguments[0])):
        raise AnnotationError("has an alias on a part of its type; write Annotated[…, Field(alias=…)] around all of it")
    return name


def source_of(annotation: Any) -> Source | None:
    """The marker in `annotation`, such as `Header()`; raises `AnnotationError` for one that has no effect there."""
    annotation = unwrap_alias(annotation)
    metadata = get_args(annotation)[1:] if get_origin(annotation) is Annotated else ()
    found = [one for one in metadata if isinstance(one, Source)]
    classes = [one for one in metadata if isinstance(one, type) and issubclass(one, Source)]
    if classes:
        raise AnnotationError(f"is marked with the class {classes[0].__name__}; write {classes[0].__name__}()")
    if len(found) > 1:
        raise AnnotationError("comes from two places; write one of them")
    if found:
        return found[0]
    if any(source_of(part) for part in get_args(annotation) if not isinstance(part, Source)):
        raise AnnotationError("has its source on a part of its type; write Annotated[…, …] around all of it")
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
    """`model`, or a subclass of it, whose fields accept values as they are written in a request."""
    changed: dict[str, Any] = {}
    for name, field in model.model_fields.items():
        converted = from_text(field.annotation)
        if converted != field.annotation:
            changed[name] = (converted, field)
    if not changed:
        return model
    made: type[BaseModel] = create_model(
        model.__name__, __base__=model, __module__=model.__module__, __doc__=model.__doc__, **changed
    )
    return made


def without_alias(annotation: Any) -> Any:
    """`annotation`, where `Field(alias=…)` has no alias: pydantic warns of one outside of a model."""
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
    """`annotation`, changed so that it accepts values as they are written in a URL.

    pydantic parses text where the type is a number. For literals and enumerations it compares values only, and
    abstract collections, such as `Sequence`, it does not make from a list.
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
    kind = origin or annotation
    if isinstance(kind, type) and (kind in COLLECTIONS or kind in CONCRETE):
        concrete = CONCRETE.get(kind, kind)
        return concrete[tuple(from_text(argument) for argument in arguments)] if arguments else concrete
    return annotation


def is_list(schema: Mapping[str, Any]) -> bool:
    """Whether a parameter of this core schema may be repeated.

    Raises `AnnotationError` when a request cannot express its values.
    """
    if _has_type(schema, STRUCTURED):
        raise AnnotationError(
            "holds structured data; name it 'body' if it is the request's JSON, and make one model if there are two"
        )
    lists = list(_lists(schema))
    if not lists:
        if not _reads_text(schema):
            raise AnnotationError("is of a type that no text can become")
        return False
    for found in lists:
        if found is None:
            raise AnnotationError("is either one value or several; write list[…], which also takes one")
        items = found.get("items_schema", {"type": "any"})
        is_strict = found.get("strict") and found["type"] != "list"
        if is_strict or not all(_reads_text(item) for item in (items if isinstance(items, list) else [items])):
            raise AnnotationError("is a list of lists, or of a type that no text can become")
    return True


def has_generator(schema: Any) -> bool:
    """Whether a part of a core schema is validated only while the handler iterates over it."""
    return _has_type(schema, {"generator"})


def has_type_variable(annotation: Any) -> bool:
    """Whether a part of the annotation is a type variable, which pydantic takes for `Any`."""
    if isinstance(annotation, TypeVar):
        return True
    return any(has_type_variable(argument) for argument in get_args(annotation))


def _accepting_text(annotation: Any, values: Any) -> Any:
    by_text = {str(value).lower(): value for value in values if isinstance(value, bool | int | float)}
    meant_as_text = {value for value in values if isinstance(value, str)}
    by_text = {text: value for text, value in by_text.items() if text not in meant_as_text}
    if not by_text:
        return annotation
    return Annotated[annotation, BeforeValidator(lambda value: by_text.get(value, value))]


def _has_alias(annotation: Any) -> bool:
    arguments = get_args(annotation)
    if get_origin(annotation) is Annotated:
        fields = [one for one in arguments[1:] if isinstance(one, FieldInfo)]
        if any(field.alias or field.validation_alias for field in fields):
            return True
        arguments = arguments[:1]
    return any(_has_alias(argument) for argument in arguments)


def _has_type(schema: Any, types: AbstractSet[str]) -> bool:
    if isinstance(schema, Mapping):
        kind = schema.get("type")
        if kind in types:
            return True
        if kind == "json":  # its text is parsed by pydantic, whatever it holds
            return False
        return any(_has_type(value, types) for key, value in schema.items() if key not in ("metadata", "serialization"))
    return isinstance(schema, list | tuple) and any(_has_type(part, types) for part in schema)


def _inner(schema: Mapping[str, Any]) -> Any:
    """The schema inside of a wrapper that gets the value first; None if there is none."""
    inner = schema.get(INNER.get(schema["type"], "schema"))
    return inner[0] if isinstance(inner, list) else inner


def _choices(schema: Mapping[str, Any]) -> Iterator[Any]:
    choices = schema.get("choices", ())
    for choice in choices.values() if isinstance(choices, Mapping) else choices:
        yield choice[0] if isinstance(choice, tuple) else choice


def _lists(schema: Mapping[str, Any]) -> Iterator[Mapping[str, Any] | None]:
    """The schemas of lists that the value may be, and None beside them where it may be something else."""
    kind = schema["type"]
    if kind in LISTS:
        yield schema
    elif kind in ("union", "tagged-union"):
        choices = [list(_lists(choice)) for choice in _choices(schema) if choice["type"] != "none"]
        if any(choices):
            for lists in choices:
                yield from lists or [None]
    elif kind not in ("function-plain", "json", "json-or-python"):
        inner = _inner(schema)
        if inner is not None:
            yield from _lists(inner)


def _reads_text(schema: Mapping[str, Any]) -> bool:
    """Whether text can become a value of this core schema; True where only trying it would tell."""
    kind = schema["type"]
    if kind in NO_TEXT:
        return False
    if kind == "is-instance":
        return isinstance("", schema["cls"])
    if kind in ("union", "tagged-union"):
        return any(_reads_text(choice) for choice in _choices(schema))
    if kind in ("function-before", "function-wrap", "function-plain", "json"):
        return True
    inner = _inner(schema)
    if inner is not None:
        return _reads_text(inner)
    return not (schema.get("strict") and kind != "str")
