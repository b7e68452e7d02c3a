"""Converts any value of Python to the types of JSON: objects become their fields, other values their text."""

import dataclasses
from collections import deque
from collections.abc import ItemsView, Iterable, KeysView, Mapping, ValuesView
from types import MemberDescriptorType
from typing import Any

from pydantic import BaseModel

# Not every sequence: the items of a long range, or of an array, are not worth a log line.
LISTS = (list, tuple, set, frozenset, deque, KeysView, ValuesView, ItemsView)


def plain(value: object) -> Any:
    """A dictionary with text keys, a list, or text; its members are not changed.

    Mappings (such as the headers of a request), dataclasses, pydantic models, attrs classes and named tuples become
    dictionaries. Fields that their class excludes from its `repr` are omitted, and so are names with an underscore.
    Raises the exceptions of the value's own code.
    """
    if isinstance(value, Mapping):
        return {key_text(key): item for key, item in value.items()}
    if isinstance(value, LISTS):
        names = getattr(value, "_fields", None)  # of a named tuple
        return dict(zip(names, value, strict=True)) if isinstance(names, tuple) else list(value)
    names = None if isinstance(value, type) else _field_names(value)
    return text(value) if names is None else _fields(value, names)


def key_text(key: object) -> str:
    """The text of a dictionary's key; bytes, such as the names of ASGI's headers, are Latin-1 (RFC 9110, 5.5)."""
    return key.decode("latin-1") if isinstance(key, bytes) else text(key)


def text(value: object) -> str:
    """The text of any value, which can be encoded as UTF-8; never raises."""
    try:
        whole = value if isinstance(value, str) else str(value)
        # By the class, since a subclass may have its own.
        return str.encode(whole, "utf-8", "backslashreplace").decode()
    except Exception:  # noqa: BLE001 - the line must be written
        return f"<{type(value).__qualname__} that cannot be shown>"


def _field_names(value: object) -> Iterable[str] | None:
    """The names of the fields that may be shown; None for an object without declared fields."""
    if isinstance(value, BaseModel):
        fields = type(value).model_fields.items()
        return [name for name, field in fields if field.repr and not field.exclude] + [*(value.model_extra or ())]
    if dataclasses.is_dataclass(value):
        return [field.name for field in dataclasses.fields(value) if field.repr]
    attributes = getattr(type(value), "__attrs_attrs__", None)  # documented by attrs for other libraries
    return None if attributes is None else [attribute.name for attribute in attributes if attribute.repr]


def _fields(value: object, names: Iterable[str]) -> dict[str, Any]:
    # Not through `getattr` alone: an object of an ORM would ask its database for fields that are not loaded.
    extra = value.model_extra if isinstance(value, BaseModel) else None
    held = {**getattr(value, "__dict__", {}), **(extra or {})}
    found: dict[str, Any] = {}
    for name in names:
        if name.startswith("_"):
            continue
        if name in held:
            found[name] = held[name]
        elif isinstance(getattr(type(value), name, None), MemberDescriptorType) and hasattr(value, name):
            found[name] = getattr(value, name)
    return found
