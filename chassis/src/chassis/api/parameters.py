"""Path and query parameters of a request, as arguments of a handler's method."""

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
COLLECTIONS: tuple[Any, ...] = (list, set, frozenset, tuple)
STRUCTURED = frozenset({"dataclass", "dict", "model", "typed-dict"})


class Parameter:
    """A path or query parameter: its type and default."""

    def __init__(self, adapter: TypeAdapter[Any], annotation: Any, default: Any) -> None:
        self.adapter = adapter
        self.annotation = annotation
        self.default = default
        self.is_required: bool = default is inspect.Parameter.empty
        plain = _plain(annotation)
        self.is_list: bool = get_origin(plain) in COLLECTIONS or plain in COLLECTIONS
        self.is_structured: bool = _has_structure(adapter.core_schema)


class Parameters:
    """All path and query parameters of a method, validated in one call.

    An optional parameter that the request does not have is left out: the method has the default.
    """

    def __init__(self, path: Mapping[str, Parameter], query: Mapping[str, Parameter]) -> None:
        self._path = path
        self._query = query
        fields = {
            name: Required[parameter.annotation] if parameter.is_required else NotRequired[parameter.annotation]
            for name, parameter in {**path, **query}.items()
        }
        self._adapter: TypeAdapter[Any] = TypeAdapter(TypedDict("Parameters", fields))  # type: ignore[operator]
        # A mutable default that a handler changes must not reach the next request.
        self._mutable_defaults = {
            name: parameter.default for name, parameter in query.items() if isinstance(parameter.default, list | set)
        }
        self._repeated = frozenset(name for name, parameter in query.items() if parameter.is_list)

    def bind(self, scope: Scope, errors: list[dict[str, Any]]) -> dict[str, Any]:
        """The arguments of the request; invalid values are added to `errors`."""
        values: dict[str, Any] = scope["path_params"] if not self._query else {**scope["path_params"]}
        if self._query and scope["query_string"]:
            self._read_query(scope["query_string"], values, errors)
        try:
            bound: dict[str, Any] = self._adapter.validator.validate_python(values)
        except ValidationError as error:
            for detail in error.errors(include_url=False, include_context=False, include_input=False):
                name = str(detail["loc"][0])
                where = "path" if name in self._path else "query"
                errors.append({"in": where, "name": name, "detail": detail["msg"]})
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
                errors.append({"in": "query", "name": name, "detail": "Sent more than once."})
            else:
                values[name] = value


def from_text(annotation: Any) -> Any:
    """`annotation`, changed so that literals and enumerations accept numbers and booleans as they are written in a URL.

    pydantic parses text where the type is a number. For literals and enumerations it compares values only.
    """
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return _accepting_text(annotation, arguments)
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return _accepting_text(annotation, [member.value for member in annotation])
    if origin is Annotated:
        return Annotated[(from_text(arguments[0]), *arguments[1:])]
    if origin in (Union, UnionType):
        return Union[tuple(from_text(argument) for argument in arguments)]  # noqa: UP007 - their number varies
    if origin in COLLECTIONS:
        return origin[tuple(from_text(argument) for argument in arguments)]
    return annotation


def _accepting_text(annotation: Any, values: Any) -> Any:
    by_text = {str(value).lower(): value for value in values if isinstance(value, bool | int | float)}
    meant_as_text = {value for value in values if isinstance(value, str)}
    by_text = {text: value for text, value in by_text.items() if text not in meant_as_text}
    if not by_text:
        return annotation
    return Annotated[annotation, BeforeValidator(lambda value: by_text.get(value, value))]


def _has_structure(schema: Any) -> bool:
    """Whether a pydantic core schema has a part that a query cannot express."""
    if isinstance(schema, Mapping):
        if schema.get("type") in STRUCTURED:
            return True
        return any(_has_structure(value) for key, value in schema.items() if key not in ("metadata", "serialization"))
    return isinstance(schema, list | tuple) and any(_has_structure(part) for part in schema)


def _plain(annotation: Any) -> Any:
    """The type inside of `Annotated[…]` and `… | None`."""
    if get_origin(annotation) is Annotated:
        return _plain(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        others = [argument for argument in get_args(annotation) if argument is not NoneType]
        if len(others) == 1:
            return _plain(others[0])
    return annotation
