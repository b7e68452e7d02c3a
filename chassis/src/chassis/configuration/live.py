"""`Live`: marks a setting whose value may change while the service runs."""

from typing import Annotated, NamedTuple, TypeVar

from pydantic.fields import FieldInfo

Value = TypeVar("Value")


class LiveMark(NamedTuple):
    """The metadata of a field whose value may change while the service runs."""

    only_if_set: bool = False
    """Whether a restart is needed to set it, and to remove it. Another value needs none."""


Live = Annotated[Value, LiveMark()]
"""The type of a setting that may change while the service runs: `greeting: Live[str] = "Hello"`.

It says that the service uses the new value: see `App.on_settings_change`. A change of all other settings is logged as a
warning that the service needs a restart. All members of a nested model are live if the model is.
"""

LiveIfSet = Annotated[Value, LiveMark(only_if_set=True)]
"""The type of a setting that may change while it is set. It needs a restart to set it, and to remove it."""


def live_mark(field: FieldInfo) -> LiveMark | None:
    """The mark of a field; None if a change of its value needs a restart."""
    return next((mark for mark in field.metadata if isinstance(mark, LiveMark)), None)
