"""Binds the parameters of a request to the arguments of a handler's method."""

import inspect
import re
from collections import deque
from collections.abc import Iterable, Mapping
from copy import copy
from typing import Any, NamedTuple, NotRequired, Required
from urllib.parse import parse_qsl

from pydantic import TypeAdapter, ValidationError
from starlette.datastructures import FormData, UploadFile
from starlette.requests import HTTPConnection
from starlette.types import Scope
from typing_extensions import TypedDict

from ..problem import Problem

MAX_QUERY_FIELDS = 1000
# The members of a list in a field's value. A quoted string may contain commas (RFC 9110, section 5.6).
LIST_MEMBERS = re.compile(r'(?:"(?:\\.|[^"\\])*"|[^,"])+')


class Member(NamedTuple):
    """A field of a group: its name in the request, and its key in the group's model."""

    name: str
    key: str
    is_list: bool
    is_required: bool


class Parameter:
    """A parameter: its place in the request (`where`), its name there and in the method, its type and default.

    A group has `members`, each of which is a parameter in the request.
    """

    def __init__(
        self,
        where: str,
        name: str,
        argument: str,
        annotation: Any,
        adapter: TypeAdapter[Any],
        default: Any,
        *,
        is_list: bool,
        members: tuple[Member, ...] = (),
        takes_others: bool = False,
    ) -> None:
        self.where = where
        self.name = name
        self.argument = argument
        self.annotation = annotation
        self.adapter = adapter
        self.default = default
        self.is_list = is_list
        self.members = members
        self.takes_others = takes_others
        """Whether the model of a group gets undeclared parameters too, because it allows or forbids extra fields."""
        self.is_required: bool = default is inspect.Parameter.empty

    @property
    def names(self) -> list[str]:
        """Its names in the request."""
        return [member.name for member in self.members] if self.members else [self.name]


class _Target(NamedTuple):
    """The argument, and the key in the model of a group, that a value of the request is assigned to."""

    argument: str
    key: str | None
    is_list: bool
    is_required: bool


class _Reader:
    """The parameters from one place of the request, such as the query, by their names there."""

    def __init__(self, where: str, parameters: Iterable[Parameter]) -> None:
        self.where = where
        self.targets: dict[str, _Target] = {}
        self._others: str | None = None
        for parameter in parameters:
            if parameter.takes_others:
                self._others = parameter.argument
            if parameter.members:
                for member in parameter.members:
                    self.targets[member.name] = _Target(
                        parameter.argument, member.key, member.is_list, member.is_required
                    )
            else:
                self.targets[parameter.name] = _Target(
                    parameter.argument, None, parameter.is_list, parameter.is_required
                )

    def read(self, fields: Iterable[tuple[str, Any]], values: dict[str, Any], errors: list[dict[str, Any]]) -> None:
        """Assign `fields` of the request to the arguments in `values`, and add errors for repeated fields."""
        targets, others = self.targets, self._others
        for name, value in fields:
            target = targets.get(name)
            if target is None:
                if others is None:
                    continue
                target = _Target(others, name, False, False)
            argument, key, is_list, _ = target
            arguments = values
            if key is not None:
                arguments = values.setdefault(argument, {})
                argument = key
            if is_list:
                arguments.setdefault(argument, []).append(value)
            elif argument in arguments:
                errors.append({"in": self.where, "name": name, "detail": "Sent more than once; send one value."})
            else:
                arguments[argument] = value


class Parameters:
    """All parameters of a method, validated in one call.

    An optional parameter that the request does not have is left out, and the method's default applies.
    """

    def __init__(self, parameters: Iterable[Parameter]) -> None:
        self._parameters = {parameter.argument: parameter for parameter in parameters}
        by_place: dict[str, list[Parameter]] = {}
        for parameter in self._parameters.values():
            by_place.setdefault(parameter.where, []).append(parameter)
        fields = {
            argument: Required[parameter.annotation] if parameter.is_required else NotRequired[parameter.annotation]
            for argument, parameter in self._parameters.items()
        }
        self._adapter: TypeAdapter[Any] = TypeAdapter(TypedDict("Parameters", fields))  # type: ignore[operator]
        # A mutable default that a handler changes must not reach the next request.
        self._mutable_defaults = {
            argument: parameter.default
            for argument, parameter in self._parameters.items()
            if isinstance(parameter.default, list | set | deque)
        }
        self._groups = [argument for argument, parameter in self._parameters.items() if parameter.members]
        self._query, self._header, self._cookie, self._form = (
            _Reader(where, by_place[where]) if where in by_place else None
            for where in ("query", "header", "cookie", "form")
        )
        # Query parameters too: the path of a mount may have a parameter that the route's own path does not name.
        self._in_path = {
            parameter.name: parameter.argument
            for parameter in self._parameters.values()
            if parameter.where in ("path", "query") and not parameter.members
        }
        self._is_path_alone = by_place.keys() == {"path"} and all(
            parameter.name == argument for argument, parameter in self._parameters.items()
        )

    def bind(self, scope: Scope, errors: list[dict[str, Any]], form: FormData | None = None) -> dict[str, Any]:
        """The arguments for a request and its `form`, if it has one. Invalid values are added to `errors`."""
        path: dict[str, Any] = scope["path_params"]
        values = path
        if not self._is_path_alone:
            in_path = self._in_path
            values = {in_path[name]: value for name, value in path.items() if name in in_path}
            if self._query is not None and scope["query_string"]:
                self._read_query(self._query, scope["query_string"], path, values, errors)
            if self._header is not None:
                self._read_headers(self._header, scope["headers"], values)
            if self._cookie is not None:
                self._cookie.read(HTTPConnection(scope).cookies.items(), values, errors)
            if self._form is not None and form is not None:
                self._read_form(self._form, form, values, errors)
            for argument in self._groups:
                values.setdefault(argument, {})
        try:
            bound: dict[str, Any] = self._adapter.validator.validate_python(values)
        except ValidationError as error:
            details = error.errors(include_url=False, include_context=False, include_input=False)
            errors += [self._error(detail["loc"], detail["msg"], path) for detail in details]
            return {}
        for name, default in self._mutable_defaults.items():
            if name not in bound:
                bound[name] = copy(default)
        return bound

    def _read_query(
        self,
        reader: _Reader,
        query: bytes,
        path: Mapping[str, Any],
        values: dict[str, Any],
        errors: list[dict[str, Any]],
    ) -> None:
        try:
            fields = parse_qsl(query.decode("latin-1"), keep_blank_values=True, max_num_fields=MAX_QUERY_FIELDS)
        except ValueError as error:
            raise Problem(400, f"The query has more than {MAX_QUERY_FIELDS} fields; send fewer.") from error
        reader.read([field for field in fields if field[0] not in path] if path else fields, values, errors)

    def _read_headers(self, reader: _Reader, headers: Iterable[tuple[bytes, bytes]], values: dict[str, Any]) -> None:
        joined: dict[str, str] = {}
        for name, value in headers:
            field = name.decode("latin-1")
            if field in reader.targets:
                text = value.decode("latin-1")
                joined[field] = f"{joined[field]}, {text}" if field in joined else text
        fields: list[tuple[str, str]] = []
        for field, text in joined.items():
            if reader.targets[field].is_list:
                fields += [(field, stripped) for member in LIST_MEMBERS.findall(text) if (stripped := member.strip())]
            else:
                fields.append((field, text))
        reader.read(fields, values, [])

    def _read_form(self, reader: _Reader, form: FormData, values: dict[str, Any], errors: list[dict[str, Any]]) -> None:
        fields: list[tuple[str, Any]] = []
        for name, value in form.multi_items():
            target = reader.targets.get(name)
            # For a field that is not filled in, a browser sends a file without a name, or an empty text.
            if isinstance(value, UploadFile):
                is_empty = not value.filename and not value.size
            else:
                is_empty = not value and target is not None and not target.is_required
            if not is_empty:
                fields.append((name, value))
        reader.read(fields, values, errors)

    def _error(self, location: tuple[int | str, ...], detail: str, path: Mapping[str, Any]) -> dict[str, Any]:
        parameter = self._parameters[str(location[0])]
        where, name = parameter.where, parameter.name
        if parameter.members:
            by_key = {member.key: member.name for member in parameter.members}
            if len(location) == 1:  # an error of the group as a whole
                return {"in": where, "detail": detail}
            name = by_key.get(str(location[1]), str(location[1]))
        elif where == "query" and name in path:
            where = "path"
        return {"in": where, "name": name, "detail": detail}
