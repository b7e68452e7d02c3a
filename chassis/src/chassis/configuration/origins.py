"""The places that the values of a settings object come from."""

from collections.abc import Mapping

from pydantic_settings import BaseSettings

from .schema import Schema
from .sources import Given, Variable, given_for

Origins = Mapping[tuple[str, ...], str]
"""The place of each setting that was given, by its path: empty for the environment, else a path of a file."""


def origins_of(settings: BaseSettings) -> Origins:
    """Where its values were given; empty for settings that code has made."""
    given = given_for(settings)
    if not given.sources:
        return {}
    schema = Schema(type(settings))
    origins: dict[tuple[str, ...], str] = {}
    for setting in schema.settings:
        variable = given.find(setting.variables)
        if variable is None and setting.takes_any_member:
            variable = _member(tuple(f"{name}{schema.delimiter}".lower() for name in setting.variables), given)
        if variable is not None:
            origins[setting.path] = variable.place
    return origins


def _member(prefixes: tuple[str, ...], given: Given) -> Variable | None:
    """A variable for a member whose name is not known, as in a `dict`."""
    return next(
        (variable for source in given.sources for name, variable in source.items() if name.startswith(prefixes)), None
    )
