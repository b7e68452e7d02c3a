"""What a request's path and query hold, as a method's parameters."""

import inspect
from collections.abc import Mapping
from enum import Enum
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NotRequired, Required, Union, get_args, get_origin
from urllib.parse import parse_qsl

from pydantic import BeforeValidator, TypeAdapter, ValidationError
from starlette.types import Scope
from typing_extensions import TypedDict

from ..problem import Problem

MAX_QUERY_FIELDS = 1000
STRUCTURED = frozenset({"dataclass", "dict", "model", "typed-dict"})


class Parameter:
    """A path or query parameter: its type, and what stands for it when it isn't given."""

    def __init__(self, adapter: TypeAdapter[Any], annotation: Any, default: Any) -> None:
        self.adapter = adapter
        self.annotation = annotation
        self.default = default
        self.is_required = default is inspect.Parameter.empty
        plain = _plain(annotation)
        self.is_list = get_origin(plain) in (list, tuple, set, frozenset) or plain in (list, tuple, set, frozenset)
        self.is_structured = _has_structure(adapter.core_schema)


class Parameters:
    """All path and query parameters of a method, with one validator, so that they are checked in one call.

    What isn't given and needn't be is left out of the result: the method has the default.
    """

    def __init__(self, path: Mapping[str, Parameter], query: Mapping[str, Parameter]) -> None:
        self._path = path
        self._query = query
        fields = {
            name: Required[one.annotation] if one.is_required else NotRequired[one.annotation]
            for name, one in {**path, **query}.items()
        }
        self._adapter: TypeAdapter[Any] = TypeAdapter(TypedDict("Parameters", fields))  # type: ignore[operator]
        # A default that a request could change must not reach the next one.
        self._mutable_defaults = {
            name: one.default for name, one in query.items() if isinstance(one.default, list | set)
        }
        self._repeated = frozenset(name for name, one in query.items() if one.is_list)

    def bind(self, scope: Scope, errors: list[dict[str, Any]]) -> dict[str, Any]:
        """The arguments that the request gives; what is wrong with it is added to `errors`."""
        values: dict[str, Any] = scope["path_params"] if not self._query else {**scope["path_params"]}
        if self._query and scope["query_string"]:
            self._read_query(scope["query_string"], values, errors)
        try:
            bound: dict[str, Any] = self._adapter.validator.validate_python(values)
        except ValidationError as error:
            for one in error.errors(include_url=False, include_context=False, include_input=False):
                name = str(one["loc"][0])
                where = "path" if name in self._path else "query"
                errors.append({"in": where, "name": name, "detail": one["msg"]})
            return {}
        for name, default in self._mutable_defaults.items():
            if name not in bound:
                bound[name] = default.copy()
        return bound

    def _read_query(self, query: bytes, values: dict[str, Any], errors: list[dict[str, Any]]) -> None:
        try:
            fields = parse_qsl(query.decode("latin-1"), keep_blank_values=True, max_num_fields=MAX_QUERY_FIELDS)
        except ValueError as error:
            raise Problem(400, f"The query has more than {MAX_QUERY_FIELDS} fields.") from error
        for name, value in fields:
            if name not in self._query:
                continue
            if name in self._repeated:
                values.setdefault(name, []).append(value)
            elif name in values:
                errors.append({"in": "query", "name": name, "detail": "Given more than once."})
            else:
                values[name] = value


def from_text(annotation: Any) -> Any:
    """`annotation` so that literals and enumerations take numbers and truth values as they are written in an address.

    pydantic reads a number from text where the type is a number, and compares elsewhere.
    """
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return _taking_text(annotation, arguments)
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return _taking_text(annotation, [member.value for member in annotation])
    if origin is Annotated:
        return Annotated[(from_text(arguments[0]), *arguments[1:])]
    if origin in (Union, UnionType):
        return Union[tuple(from_text(one) for one in arguments)]  # noqa: UP007 - of a number that isn't known here
    if origin in (list, set, frozenset, tuple):
        return origin[tuple(from_text(one) for one in arguments)]
    return annotation


def _taking_text(annotation: Any, values: Any) -> Any:
    by_text = {str(value).lower(): value for value in values if isinstance(value, bool | int | float)}
    meant_as_text = {value for value in values if isinstance(value, str)}
    by_text = {text: value for text, value in by_text.items() if text not in meant_as_text}
    if not by_text:
        return annotation
    return Annotated[annotation, BeforeValidator(lambda value: by_text.get(value, value))]


def _has_structure(schema: Any) -> bool:
    """Whether a pydantic core schema holds something that a query can't spell."""
    if isinstance(schema, Mapping):
        if schema.get("type") in STRUCTURED:
            return True
        return any(_has_structure(value) for key, value in schema.items() if key not in ("metadata", "serialization"))
    return isinstance(schema, list | tuple) and any(_has_structure(one) for one in schema)


def _plain(annotation: Any) -> Any:
    """The type inside of `Annotated[…]` and `… | None`."""
    if get_origin(annotation) is Annotated:
        return _plain(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        rest = [one for one in get_args(annotation) if one is not NoneType]
        if len(rest) == 1:
            return _plain(rest[0])
    return annotation
