"""Text to values: lists from `a,b` or JSON, objects from JSON."""

import json
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping, MutableSequence, MutableSet, Sequence, Set
from dataclasses import is_dataclass
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin, is_typeddict

from pydantic import BaseModel, Json
from pydantic.fields import FieldInfo
from pydantic_settings import NoDecode

# Types of which pydantic makes a list or a set. Others can be iterated over as well, such as text and IP networks.
LISTS = (Collection, Iterable, MutableSequence, MutableSet, Sequence, Set)


def decode(field: FieldInfo, text: str) -> Any:
    """The value that `text` means for a field: a list, an object, or the text itself.

    A list, set or tuple of plain values is either separated by commas or, when it begins with `[`, JSON. All
    other values that are not plain are JSON. Text that should be JSON and is not is returned as it is, so that pydantic
    rejects it and names its place. The same applies to fields that decode by themselves: `NoDecode`, `Json`.
    """
    if any(mark is NoDecode or type(mark) is Json for mark in field.metadata):
        return text
    types = list(members(field.annotation))
    lists = [member for member in types if is_list(member)]
    objects = [member for member in types if is_object(member)]
    plain = [member for member in types if member not in lists and member not in objects and member is not NoneType]
    if not lists and not objects:
        return text
    begins_as_json = text.strip().startswith(("[", "{"))
    if plain and not begins_as_json and (str in plain or "," not in text):
        return text  # `list[int] | int`
    has_list_of_plain_values = any(holds_plain_values(member) for member in lists)
    if has_list_of_plain_values and not begins_as_json and not (NoneType in types and text.strip() == "null"):
        return [item.strip() for item in text.split(",") if item.strip()]
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def members(annotation: Any) -> Iterator[Any]:
    """The types that a value may have: those of a union, without `Annotated` and names of types."""
    origin = get_origin(annotation)
    if origin is Annotated:
        yield from members(get_args(annotation)[0])
    elif origin in (Union, UnionType):
        for member in get_args(annotation):
            yield from members(member)
    elif hasattr(annotation, "__value__"):  # `type Names = list[str]`, from Python 3.12 on
        yield from members(annotation.__value__)
    else:
        yield annotation


def is_list(annotation: Any) -> bool:
    """Whether a value of this type is a list, set, tuple, or like them."""
    origin = get_origin(annotation) or annotation
    return origin in LISTS or (isinstance(origin, type) and issubclass(origin, (list, tuple, set, frozenset, deque)))


def is_object(annotation: Any) -> bool:
    """Whether a value of this type has named members: a model, dataclass, `TypedDict` or `dict`."""
    origin = get_origin(annotation) or annotation
    if not isinstance(origin, type):
        return False
    return issubclass(origin, (BaseModel, Mapping)) or is_dataclass(origin) or is_typeddict(origin)


def holds_plain_values(annotation: Any) -> bool:
    """Whether the items of this type of list are neither lists nor objects."""
    items = [argument for argument in get_args(annotation) if argument is not Ellipsis]
    return not any(is_list(member) or is_object(member) for item in items for member in members(item))
