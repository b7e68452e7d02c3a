"""Keeps secrets out of log lines."""

from collections.abc import Collection, Mapping
from typing import Any

from structlog.typing import EventDict, WrappedLogger

REDACTED = "[redacted]"
TOO_DEEP = "[too deep]"
MAX_DEPTH = 20
PAIR = 2


class Redactor:
    """Replaces the values of secret keys, however deep: in dictionaries, lists and pairs such as headers.

    Works on a copy, whose keys are all text, as JSON requires.
    """

    def __init__(self, keys: Collection[str]) -> None:
        self._keys = frozenset(key.lower().replace("_", "-") for key in keys)

    def __call__(self, _logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        exception = event.pop("exc_info", None)  # the console renderer's, which shows it by itself
        redacted = self._redact_mapping(event, 0)
        return redacted if exception is None else {**redacted, "exc_info": exception}

    def _redact_mapping(self, values: Mapping[Any, Any], depth: int) -> dict[str, Any]:
        return {
            key if isinstance(key, str) else text(key): REDACTED if self._is_secret(key) else self._redact(value, depth)
            for key, value in values.items()
        }

    def _redact(self, value: Any, depth: int) -> Any:
        if not isinstance(value, dict | list | tuple):
            return value
        if depth >= MAX_DEPTH:
            return TOO_DEEP
        if isinstance(value, dict):
            return self._redact_mapping(value, depth + 1)
        if isinstance(value, tuple) and len(value) == PAIR and self._is_secret(value[0]):
            return (text(value[0]), REDACTED)
        return [self._redact(item, depth + 1) for item in value]

    def _is_secret(self, key: Any) -> bool:
        if isinstance(key, bytes):
            key = key.decode("latin-1")
        return isinstance(key, str) and key.lower().replace("_", "-") in self._keys


def text(value: object) -> str:
    """The text of any value, which can be encoded as UTF-8; never raises."""
    try:
        return str(value).encode("utf-8", "backslashreplace").decode()
    except Exception:  # noqa: BLE001 - whatever it raises, the line must be written
        return f"<{type(value).__qualname__} that cannot be shown>"
