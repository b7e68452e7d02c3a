"""`Command`: a function that the command line of a service runs, beside those of the chassis."""

import re
from collections.abc import Callable
from typing import Any, NamedTuple

BUILT_IN = ("serve", "settings", "check", "openapi", "routes")
"""The commands that each service has."""
NAME = re.compile(r"[a-z][a-z0-9]*(?:-[a-z0-9]+)*")


class Command(NamedTuple):
    """A command of a service: see `App.add_command`."""

    name: str
    function: Callable[..., Any]


def add_command(commands: dict[str, Command], name: str, function: Callable[..., Any]) -> None:
    """Add a command. Its signature is read when a command runs, so that it costs the start of the server nothing.

    Raises `ValueError` for an invalid name, and for one that another command has.
    """
    if NAME.fullmatch(name) is None:
        raise ValueError(f"the command {name!r} has an invalid name; use lower-case words, such as 'fill-owners'")
    if name in BUILT_IN or name in commands:
        raise ValueError(f"two commands have the name {name!r}; give yours another name")
    if not callable(function):
        raise TypeError(f"the command {name!r} is {function!r}, not a function; pass a def or an async def")
    commands[name] = Command(name, function)
