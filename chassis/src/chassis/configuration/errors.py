"""One line for each wrong setting: the variable, the value unless it is a secret, and what is allowed."""

import re
from collections.abc import Sequence
from types import NoneType

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from .schema import Schema, Setting
from .sources import Given, Variable
from .values import members

MAX_SHOWN = 200  # characters of a value
NO_DESCRIPTION = "see docs/settings.md"
# The types of pydantic's errors for text in place of a list or an object. They mean that the text is not JSON.
NEED_JSON = frozenset(
    f"{name}_type" for name in ("dict", "list", "tuple", "set", "frozen_set", "model", "model_attributes", "dataclass")
)
CREDENTIALS = re.compile(r"(?<=://)([^/@\s:]*):[^/@\s]*(?=@)")


def explain(error: ValidationError, schema: Schema, given: Given) -> list[str]:
    """One line for each wrong setting."""
    lines: dict[tuple[str, str], list[str]] = {}
    for detail in error.errors(include_url=False, include_context=False):
        for start, message, end in _explain(detail, schema, given):
            # A union has a message for each of its members.
            messages = lines.setdefault((start, end), [])
            if message not in messages:
                messages.append(message)
    return [" ".join(f"{start}{' or '.join(messages)}{end}".split()) for (start, end), messages in lines.items()]


def _explain(detail: ErrorDetails, schema: Schema, given: Given) -> list[tuple[str, str, str]]:
    settings, rest = schema.at(detail["loc"])
    if not settings:
        return [("", detail["msg"], "")]  # of a validator for the whole class
    setting = settings[-1]
    end = f"; {_allowed(settings)}"
    if detail["type"] == "missing" and not rest:
        missing = schema.required_below(setting) or [setting]
        return [(f"{member.variables[0]} is not set", "", f": {_allowed([*settings, member])}") for member in missing]
    source, variable = _given_by(settings, given)
    if source is None or variable is None:
        return [(f"{setting.variables[0]}{_default_shown(setting, detail)}: ", detail["msg"], end)]
    if len([member for member in members(setting.field.annotation) if member is not NoneType]) > 1:
        rest = rest[1:]  # the name of a member of the union
    below = [*setting.path[len(source.path) :], *rest]
    is_secret = source.is_secret or setting.is_secret
    shown = "[secret]" if is_secret else _shown(variable.text)
    place = f" in {variable.place}" if variable.place else ""
    start = f"{variable.name.upper()}={shown}{place}: " + (f"{'.'.join(map(str, below))}: " if below else "")
    message = detail["msg"]
    if detail["type"] in NEED_JSON and isinstance(detail["input"], str):
        message = "not JSON"
    if is_secret:
        message = message.replace(variable.text, "[secret]")
        if isinstance(detail["input"], str) and detail["input"]:
            message = message.replace(detail["input"], "[secret]")
    return [(start, message, end)]


def _given_by(settings: Sequence[Setting], given: Given) -> tuple[Setting | None, Variable | None]:
    """The variable that holds a wrong value: the setting's own, or that of an object around it."""
    for setting in reversed(settings):
        if (variable := given.find(setting.variables)) is not None:
            return setting, variable
    return None, None


def _allowed(settings: Sequence[Setting]) -> str:
    meaning = next((setting.meaning for setting in reversed(settings) if setting.meaning), NO_DESCRIPTION)
    return meaning.rstrip(".").replace("`", "")


def _default_shown(setting: Setting, detail: ErrorDetails) -> str:
    if setting.is_secret or isinstance(detail["input"], dict):
        return ""
    return f"={_shown(detail['input'])}"


def _shown(value: object) -> str:
    text = CREDENTIALS.sub(r"\1:[secret]", value) if isinstance(value, str) else value
    shown = repr(text)
    return shown if len(shown) <= MAX_SHOWN else f"{shown[:MAX_SHOWN]}…"
