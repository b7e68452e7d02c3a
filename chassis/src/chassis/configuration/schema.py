"""The settings of a class, nested ones included, and the variables that they are read from."""

import re
from collections.abc import Iterator, Sequence
from enum import Enum
from typing import Any, NamedTuple, get_args, get_origin

from pydantic import AliasChoices, AliasPath, BaseModel, Secret, SecretBytes, SecretStr
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined
from pydantic_settings import BaseSettings

from .live import live_mark
from .values import is_list, is_object, members

SECRET_NAME = re.compile(
    r"(?:^|_)(?:password|passwd|passphrase|secret|token|credentials?"
    r"|(?:access|account|api|encryption|license|private|shared|signing)_?key)s?(?:_|$)"
)


class Setting(NamedTuple):
    """One field of a settings class, or of a model inside of it."""

    variables: tuple[str, ...]
    """Names of its variable, in upper case; the first one is shown."""
    path: tuple[str, ...]
    """Its place as pydantic names it, such as `("database", "port")`."""
    attributes: tuple[str, ...]
    """Its place in the settings object; another one than `path` if the field has an alias."""
    field: FieldInfo
    default: object
    """None without one; that of the outer model, where that has one."""
    is_required: bool
    has_members: bool
    """Whether its members are settings themselves."""
    takes_any_member: bool
    """Whether members have names that are not known, as in a `dict`."""
    is_live: bool = False
    """Whether a change of its value needs no restart, by its type or that of the model around it: see `Live`."""

    @property
    def is_secret(self) -> bool:
        """Whether its value must not be shown: by its type, or by its name. A boolean is never a secret."""
        if self.field.annotation is bool:
            return False
        return holds_secret(self.field.annotation) or SECRET_NAME.search(self.variables[0].lower()) is not None

    @property
    def default_text(self) -> str:
        """Its default in the notation of a variable; empty without one, and for a secret."""
        return "" if self.is_secret or self.default is None else notation(self.default)

    @property
    def meaning(self) -> str:
        """Its description in one line; empty without one."""
        return " ".join((self.field.description or "").split())


class Schema:
    """The variables that a settings class reads."""

    def __init__(self, settings: type[BaseSettings]) -> None:
        config = settings.model_config
        self.prefix: str = config.get("env_prefix", "")
        self.delimiter: str = config.get("env_nested_delimiter") or ""
        self.settings: list[Setting] = list(self._walk(settings, self.prefix, (), (), None, False, (), False))
        self._by_path = {setting.path: setting for setting in self.settings}
        self._names = {name.lower() for setting in self.settings for name in setting.variables}
        self._open = tuple(
            f"{name}{self.delimiter}".lower()
            for setting in self.settings
            if setting.takes_any_member and self.delimiter
            for name in setting.variables
        )

    def knows(self, name: str) -> bool:
        """Whether a variable or a file of this name is read, in upper or lower case."""
        lower = name.lower()
        return lower in self._names or any(
            len(lower) > len(prefix) and lower.startswith(prefix) for prefix in self._open
        )

    def closest(self, name: str) -> str | None:
        """The variable whose name is closest to one that is not known."""
        from difflib import get_close_matches  # most processes have no such variable

        close = get_close_matches(name.lower(), sorted(self._names), 1)
        return close[0] if close else None

    def at(self, place: Sequence[int | str]) -> tuple[list[Setting], tuple[int | str, ...]]:
        """The settings along a place that pydantic names, the outermost first, and the remaining parts of the place."""
        settings: list[Setting] = []
        path: tuple[str, ...] = ()
        rest: list[int | str] = []
        for part in place:
            # A part that is not a setting is the name of a member of a union, or a place inside of a value.
            setting = self._by_path.get((*path, part)) if isinstance(part, str) else None
            if setting is None:
                rest.append(part)
            else:
                path = setting.path
                settings.append(setting)
                rest = []
        return settings, tuple(rest)

    def required_below(self, setting: Setting) -> list[Setting]:
        """The members of a setting that have no default."""
        depth = len(setting.path)
        return [
            member
            for member in self.settings
            if member.path[:depth] == setting.path and member.is_required
            if not member.has_members and member is not setting
        ]

    def rows(self) -> Iterator[tuple[tuple[str, ...], str]]:
        """The rows of a table in Markdown, each with the path of its setting: variable, default, meaning."""
        for setting in self.settings:
            if not setting.has_members:
                meaning = f"{setting.meaning} {_live_shown(setting)}".strip()
                yield setting.path, f"| `{setting.variables[0]}` |{_cell(setting)}| {meaning} |"

    def _walk(
        self,
        model: type[BaseModel],
        prefix: str,
        path: tuple[str, ...],
        attributes: tuple[str, ...],
        outer_default: object,
        outer_is_optional: bool,
        seen: tuple[type, ...],
        outer_is_live: bool,
    ) -> Iterator[Setting]:
        for name, field in model.model_fields.items():
            key, names = names_of(name, field)
            is_live = outer_is_live or live_mark(field) is not None
            # An alias at the top is the whole name of a variable.
            spelled = names if field.validation_alias is not None and not path else [prefix + name for name in names]
            types = list(members(field.annotation))
            models = [
                member
                for member in types
                if self.delimiter
                and isinstance(member, type)
                and issubclass(member, BaseModel)
                and member not in (*seen, model)
            ]
            default = _default(name, field, outer_default)
            yield Setting(
                tuple(name.upper() for name in spelled),
                (*path, key),
                (*attributes, name),
                field,
                default,
                field.is_required() and outer_default is None and not outer_is_optional,
                bool(models),
                any(is_object(member) and member not in models for member in types),
                is_live,
            )
            for inner in models:
                yield from self._walk(
                    inner,
                    spelled[0] + self.delimiter,
                    (*path, key),
                    (*attributes, name),
                    default,
                    outer_is_optional or (default is None and not field.is_required()),
                    (*seen, model),
                    is_live,
                )


def holds_secret(annotation: Any) -> bool:
    """Whether a value of this type is a secret or may have one inside: `list[SecretStr] | None`, or a model."""
    for member in members(annotation):
        origin = get_origin(member) or member
        if isinstance(origin, type) and issubclass(origin, (Secret, SecretStr, SecretBytes, BaseModel)):
            return True
        if (is_list(member) or is_object(member)) and any(holds_secret(argument) for argument in get_args(member)):
            return True
    return False


def names_of(name: str, field: FieldInfo) -> tuple[str, list[str]]:
    """The key of a field in pydantic's errors, and the names that it is given by."""
    alias = field.validation_alias
    if isinstance(alias, AliasChoices):
        names = [str(choice if isinstance(choice, str) else choice.path[0]) for choice in alias.choices]
        return names[0], names
    if isinstance(alias, AliasPath):
        return str(alias.path[0]), [str(alias.path[0])]
    return (alias, [alias]) if alias else (name, [name])


def _default(name: str, field: FieldInfo, outer: object) -> object:
    if isinstance(outer, BaseModel) and hasattr(outer, name):
        return getattr(outer, name)
    return None if field.default is PydanticUndefined else field.default


def _live_shown(setting: Setting) -> str:
    if not setting.is_live:
        return ""
    mark = live_mark(setting.field)
    return "*Live while it is set.*" if mark is not None and mark.only_if_set else "*Live.*"


def _cell(setting: Setting) -> str:
    if setting.is_required:
        return " required "
    return f" `{setting.default_text}` " if setting.default_text else " "


def notation(value: object) -> str:
    """A value in the notation of a variable."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Enum):
        return str(value.value)
    if isinstance(value, (list, tuple)):
        return ",".join(map(notation, value))
    if isinstance(value, (set, frozenset)):
        return ",".join(sorted(map(notation, value)))
    return "" if value == {} else str(value)
