"""Log levels that operators change for some time."""

import asyncio
import logging
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from ..telemetry.levels import LEVELS
from ..telemetry.logs import Logs
from .audit import EXPIRY, Audit

ROOT = "root"
"""The name of the service's own level, which all loggers without a level of their own have."""
MAX_CHANGES = 100


class _Change(NamedTuple):
    """A level that an operator has set."""

    before: int
    level: int
    until: datetime
    timer: asyncio.TimerHandle


class LogLevels:
    """Changes log levels for some time, and restores them.

    A level is restored to that before the first change. If code of the service has changed it meanwhile, that stays.
    """

    def __init__(self, logs: Logs, audit: Audit) -> None:
        self._logs = logs
        self._audit = audit
        self._changes: dict[str, _Change] = {}

    def set(self, name: str, level: str, seconds: float, *, by: str) -> None:
        """Set the level of a logger for `seconds`. Raises `TooManyChangesError` for too many loggers at once."""
        number, level_before = LEVELS[level.lower()], self._level(name)
        earlier = self._changes.get(name)
        if earlier is None and len(self._changes) >= MAX_CHANGES:
            raise TooManyChangesError(f"{MAX_CHANGES} loggers have a changed level; DELETE one of the changes first")
        if earlier is not None:
            earlier.timer.cancel()
        is_in_effect = earlier is not None and self._own_level(name) == earlier.level
        before = earlier.before if earlier is not None and is_in_effect else self._own_level(name)
        timer = asyncio.get_running_loop().call_later(seconds, self._restore, name, EXPIRY)
        self._changes[name] = _Change(before, number, datetime.now(UTC) + timedelta(seconds=seconds), timer)
        self._set_own_level(name, number)
        self._audit.changed("a log level", by=by, logger=name, log_level=level, before=level_before, seconds=seconds)

    def reset(self, name: str, *, by: str) -> None:
        """Restore the level of a logger now, if it was changed."""
        if name in self._changes:
            self._restore(name, by)

    def configure(self, level: str) -> None:
        """Set the level of the service permanently, such as when its setting changes. An operator's change stays."""
        change = self._changes.get(ROOT)
        if change is None or self._own_level(ROOT) != change.level:
            self._logs.set_level(level)
        else:
            self._changes[ROOT] = _Change(LEVELS[level.lower()], change.level, change.until, change.timer)

    def is_known(self, name: str) -> bool:
        """Whether there is a logger of this name. To ask `logging` for it would make it, for good."""
        return name == ROOT or isinstance(logging.root.manager.loggerDict.get(name), logging.Logger)

    def documents(self) -> list[dict[str, Any]]:
        """All loggers: the level in effect, the one without the change of an operator, and when the change ends."""
        loggers = logging.root.manager.loggerDict
        known = {name for name, logger in list(loggers.items()) if isinstance(logger, logging.Logger)}
        return [self.document(name) for name in (ROOT, *sorted(known | self._changes.keys() - {ROOT}))]

    def document(self, name: str) -> dict[str, Any]:
        """One logger. `configured` is null if it has the level of the logger above it."""
        change = self._changes.get(name)
        own = self._own_level(name)
        configured = change.before if change is not None and own == change.level else own
        return {
            "name": name,
            "level": self._level(name),
            "configured": logging.getLevelName(configured) if configured else None,
            "until": None if change is None else change.until.isoformat(timespec="milliseconds"),
        }

    def _restore(self, name: str, by: str) -> None:
        change, level_before = self._changes.pop(name), self._level(name)
        change.timer.cancel()
        if self._own_level(name) == change.level:
            self._set_own_level(name, change.before)
        self._audit.changed("a log level", by=by, logger=name, log_level=self._level(name), before=level_before)

    def _level(self, name: str) -> str:
        """The name of the level in effect."""
        number = self._logs.level if name == ROOT else logging.getLogger(name).getEffectiveLevel()
        return logging.getLevelName(number)

    def _own_level(self, name: str) -> int:
        return self._logs.level if name == ROOT else logging.getLogger(name).level

    def _set_own_level(self, name: str, level: int) -> None:
        if name == ROOT:
            self._logs.set_level(level)
        else:
            logging.getLogger(name).setLevel(level)


class TooManyChangesError(Exception):
    """An operator has changed the levels of too many loggers at once."""
