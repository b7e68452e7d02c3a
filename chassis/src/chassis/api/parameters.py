"""Path and query parameters of a request, as arguments of a handler's method."""

import inspect
from collections import deque
from collections.abc import Mapping
from copy import copy
from typing import Any, NotRequired, Required
from urllib.parse import parse_qsl

from pydantic import TypeAdapter, ValidationError
from starlette.types import Scope
from typing_extensions import TypedDict

from ..problem import Problem

MAX_QUERY_FIELDS = 1000


class Parameter:
    """A path or query parameter: its name in the request and in the method, its type and default."""

    def __init__(
        self, name: str, argument: str, annotation: Any, adapter: TypeAdapter[Any], default: Any, *, is_list: bool
    ) -> None:
        self.name = name
        self.argument = argument
        self.annotation = annotation
        self.adapter = adapter
        self.default = default
        self.is_list = is_list
        self.is_required: bool = default is inspect.Parameter.empty


class Parameters:
    """All path and query parameters of a method, validated in one call.

    An optional parameter that the request does not have is left out: the method has the default.
    """

    def __init__(self, path: Mapping[str, Parameter], query: Mapping[str, Parameter]) -> None:
        self._query = query
        fields = {
            parameter.argument: Required[parameter.annotation]
            if parameter.is_required
            else NotRequired[parameter.annotation]
            for parameter in [*path.values(), *query.values()]
        }
        self._adapter: TypeAdapter[Any] = TypeAdapter(TypedDict("Parameters", fields))  # type: ignore[operator]
        # A mutable default that a handler changes must not reach the next request.
        self._mutable_defaults = {
            parameter.argument: parameter.default
            for parameter in query.values()
            if isinstance(parameter.default, list | set | deque)
        }
        self._repeated = frozenset(name for name, parameter in query.items() if parameter.is_list)

    def bind(self, scope: Scope, errors: list[dict[str, Any]]) -> dict[str, Any]:
        """The arguments of the request; invalid values are added to `errors`."""
        path: dict[str, Any] = scope["path_params"]
        values = path if not self._query else {**path}
        if self._query and scope["query_string"]:
            self._read_query(scope["query_string"], path, values, errors)
        try:
            bound: dict[str, Any] = self._adapter.validator.validate_python(values)
        except ValidationError as error:
            for detail in error.errors(include_url=False, include_context=False, include_input=False):
                name = str(detail["loc"][0])
                where = "path" if name in path else "query"
                errors.append({"in": where, "name": name, "detail": detail["msg"]})
            return {}
        for name, default in self._mutable_defaults.items():
            if name not in bound:
                bound[name] = copy(default)
        return bound

    def _read_query(
        self, query: bytes, path: Mapping[str, Any], values: dict[str, Any], errors: list[dict[str, Any]]
    ) -> None:
        try:
            fields = parse_qsl(query.decode("latin-1"), keep_blank_values=True, max_num_fields=MAX_QUERY_FIELDS)
        except ValueError as error:
            raise Problem(400, f"The query has more than {MAX_QUERY_FIELDS} fields.") from error
        for name, value in fields:
            # The path of a mount may have a parameter that the route's own path does not name.
            if name not in self._query or name in path:
                continue
            if name in self._repeated:
                values.setdefault(name, []).append(value)
            elif name in values:
                errors.append({"in": "query", "name": name, "detail": "Sent more than once."})
            else:
                values[name] = value
