"""structlog's loggers with a level that can change while they are in use."""

import logging
from collections.abc import Callable
from types import MethodType
from typing import Any, cast

import structlog
from structlog.typing import FilteringBoundLogger

LEVELS: dict[str, int] = {name.lower(): number for name, number in logging.getLevelNamesMapping().items()}
# Below CRITICAL, which is always logged. `exception` is an error.
METHODS = {"debug": "debug", "info": "info", "msg": "info", "warning": "warning", "warn": "warning", "error": "error"}


def make_bound_logger(lowest_level: Callable[[], int]) -> type[FilteringBoundLogger]:
    """The class of structlog's `make_filtering_bound_logger`, but the level is read at each call."""
    everything = structlog.make_filtering_bound_logger(logging.NOTSET)
    little = structlog.make_filtering_bound_logger(logging.CRITICAL)

    class Method:
        """Chooses by the level when it is looked up. A function around it would be the call site in the log."""

        def __init__(self, name: str, level: int) -> None:
            self._enabled: Callable[..., Any] = getattr(everything, name)
            self._disabled: Callable[..., Any] = getattr(little, name)
            self._level = level

        def __get__(self, logger: object, owner: type) -> Callable[..., Any]:
            method = self._enabled if self._level >= lowest_level() else self._disabled
            return method if logger is None else MethodType(method, logger)

    def log(self: FilteringBoundLogger, level: int, event: str, *args: object, **facts: object) -> object:
        return everything.log(self, level, event, *args, **facts) if level >= lowest_level() else None

    async def alog(self: FilteringBoundLogger, level: int, event: str, *args: object, **facts: object) -> object:
        return await everything.alog(self, level, event, *args, **facts) if level >= lowest_level() else None

    methods = {f"{a}{name}": Method(f"{a}{name}", LEVELS[level]) for name, level in METHODS.items() for a in ("", "a")}
    others = {
        "log": log,
        "alog": alog,
        "is_enabled_for": lambda _self, level: level >= lowest_level(),
        "get_effective_level": lambda _self: lowest_level(),
    }
    return cast("type[FilteringBoundLogger]", type("BoundLogger", (everything,), {**methods, **others}))
