"""The differences between two settings: those that apply at once, and those that need a restart."""

import inspect
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import structlog
from pydantic import BaseModel
from structlog.typing import FilteringBoundLogger

from .live import live_mark
from .schema import Schema, names_of

log: FilteringBoundLogger = structlog.get_logger()

Model = TypeVar("Model", bound=BaseModel)
Path = tuple[str, ...]
OnChange = Callable[[Any, Any], object]
"""Is called with the settings before and after a change. If it returns an awaitable, that is awaited."""


class Changes:
    """The differences between the settings of a service and those that it would have after a restart."""

    def __init__(self) -> None:
        self.applied: list[Path] = []
        """The settings that have changed, without a restart."""
        self.waiting: dict[Path, object] = {}
        """The values that need a restart."""

    def apply(self, before: Model, wanted: Model, path: Path = (), *, is_live: bool = False) -> Model:
        """The settings `before` with those values of `wanted` that need no restart. Notes all differences.

        Nested models without a difference stay the same objects. `path` is that of the model, and `is_live` says that
        all of its values may change.
        """
        values: dict[str, object] = {}
        for name, definition in type(before).model_fields.items():
            old, new = getattr(before, name), getattr(wanted, name)
            if old == new:
                continue
            mark = live_mark(definition)
            place = (*path, names_of(name, definition)[0])
            if isinstance(old, BaseModel) and type(old) is type(new):
                values[name] = self.apply(old, new, place, is_live=is_live or mark is not None)
            elif is_live or (mark is not None and not (mark.only_if_set and None in (old, new))):
                values[name] = new
                self.applied.append(place)
            else:
                self.waiting[place] = new
        values = {name: value for name, value in values.items() if value is not getattr(before, name)}
        return before.model_copy(update=values) if values else before


def variable_of(schema: Schema, path: Path) -> str:
    """The variable of the setting at a path."""
    settings, _ = schema.at(path)
    return settings[-1].variables[0] if settings else ".".join(path)


def counterpart(model: Model, before: BaseModel, after: BaseModel) -> Model:
    """The object in `after` at the place that `model` has in `before`; `model` itself if it is not in there."""
    if model is before:
        return after  # type: ignore[return-value]
    for name in type(before).model_fields:
        old, new = getattr(before, name), getattr(after, name)
        if isinstance(old, BaseModel) and isinstance(new, type(old)):
            found = counterpart(model, old, new)
            if found is not model:
                return found
    return model


class ChangeCallbacks:
    """The functions that are called when settings have changed, in the order in which they were added."""

    def __init__(self) -> None:
        self._callbacks: list[OnChange] = []

    def add(self, callback: OnChange) -> None:
        """Call `callback` after each change, on the event loop."""
        self._callbacks.append(callback)

    async def call(self, before: object, after: object) -> None:
        """Call all of them. An exception of one is logged, and does not prevent the others."""
        for callback in self._callbacks:
            try:
                result = callback(before, after)
                if inspect.isawaitable(result):
                    await _finished(result)
            except Exception:
                name = getattr(callback, "__qualname__", repr(callback))
                log.exception("changed settings were not applied by a callback; restart the service", callback=name)


async def _finished(result: Awaitable[object]) -> None:
    await result
