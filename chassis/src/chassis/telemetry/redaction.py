"""Keeps secrets out of log lines."""

import re
from collections.abc import Collection, Mapping
from datetime import date, datetime, time
from enum import Enum
from typing import Any

from structlog.typing import EventDict, WrappedLogger

from .plain_values import key_text, plain, text
from .secret_text import REDACTED, SecretText

# `token` is the last word of `access_token` as well: see `Redactor`.
SECRET_KEYS = frozenset(
    {
        "authorization",
        "proxy-authorization",
        "cookie",
        "cookies",
        "set-cookie",
        "password",
        "passwd",
        "passphrase",
        "secret",
        "client-secret",
        "secret-key",
        "token",
        "api-key",
        "apikey",
        "x-api-key",
        "private-key",
        "credentials",
    }
)
CIRCULAR = "[circular]"
TOO_DEEP = "[too deep]"
MAX_DEPTH = 20
PAIR = 2
# The lowest and the highest integer of orjson.
MIN_INTEGER, MAX_INTEGER = -(2**63), 2**64 - 1
WORD_STARTS = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
SEPARATORS = re.compile(r"[_. ]")
ASCII_RUN = re.compile(r"[a-z0-9-]+")


class Redactor:
    """Replaces the values of secret keys, at any depth: in mappings, objects with fields, lists, pairs and text.

    A key is secret if its last words are one of `keys`: with `token`, `access_token` and `X-Auth-Token` are, and
    `token_count` is not. Case, and the separators `-`, `_` and `.`, make no difference.

    It works on a copy that has only what JSON has: text keys, dictionaries, lists, text, numbers, booleans and None.
    It never raises, for any event.
    """

    def __init__(self, keys: Collection[str] = ()) -> None:
        """`keys` in addition to `SECRET_KEYS`."""
        folded = {fold(key) for key in keys if key} | SECRET_KEYS
        self._is_secret = re.compile(rf"(?:^|-)(?:{'|'.join(map(re.escape, folded))})$").search
        self._text = SecretText(folded)
        self._mentions = _mention(folded).search

    def concerns(self, line: bytes) -> bool:
        """Whether a rendered line may have a secret in it. A line without one needs no redaction."""
        return (b"://" in line and b"@" in line) or self._mentions(line.lower()) is not None

    def __call__(self, _logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        return self.redact(event)

    def redact(self, event: Mapping[str, Any]) -> dict[str, Any]:
        """The event without secrets."""
        return {key_text(key): self._redact_entry(key, value) for key, value in event.items()}

    def redact_text(self, whole: str) -> str:
        """A text without secrets."""
        return self._text.redact(text(whole))

    def redact_traceback(self, whole: str) -> str:
        """A traceback without secrets; its lines of source code stay as they are."""
        return self._text.redact_traceback(text(whole))

    def _redact_entry(self, key: Any, value: Any) -> Any:
        if key in ("exception", "stack") and isinstance(value, str):
            return self.redact_traceback(value)
        return REDACTED if self.is_secret(key) else self._redact(value, ())

    def is_secret(self, key: object) -> bool:
        """Whether values of this key must not be shown."""
        if isinstance(key, bytes):
            key = key.decode("latin-1")
        return isinstance(key, str) and self._is_secret(fold(key)) is not None

    def _redact(self, value: Any, above: tuple[int, ...]) -> Any:
        """`above` are the ids of what `value` is in."""
        try:
            if value is None or isinstance(value, bool | float):
                return value
            if isinstance(value, Enum):
                return self._redact(value.value, above)
            if isinstance(value, int):
                return value if MIN_INTEGER <= value <= MAX_INTEGER else text(value)
            if isinstance(value, datetime | date | time):
                return value.isoformat().replace("+00:00", "Z")
            return self.redact_text(value) if isinstance(value, str) else self._redact_inside(value, above)
        except Exception:  # noqa: BLE001 - whatever a property or a method of the value raises, the line must be written
            return f"<{type(value).__qualname__} that cannot be shown>"

    def _redact_inside(self, value: Any, above: tuple[int, ...]) -> Any:
        if id(value) in above:
            return CIRCULAR
        values = plain(value)
        if isinstance(values, str):
            return self._text.redact(values)
        if len(above) >= MAX_DEPTH:
            return TOO_DEEP
        inside = (*above, id(value))
        if isinstance(values, list):
            if len(values) == PAIR and self.is_secret(values[0]):
                return [key_text(values[0]), REDACTED]
            return [self._redact(item, inside) for item in values]
        # The form of pydantic's `ValidationError.errors()`: the input of a field that is named beside it.
        location = values.get("loc")
        is_secret_input = isinstance(location, list | tuple) and any(map(self.is_secret, location))
        return {
            text(key): REDACTED
            if self.is_secret(key) or (is_secret_input and key == "input")
            else self._redact(item, inside)
            for key, item in values.items()
        }


def fold(key: str) -> str:
    """A key in lower case, with `-` between its words."""
    return SEPARATORS.sub("-", WORD_STARTS.sub("-", key)).lower()


def _mention(keys: Collection[str]) -> re.Pattern[bytes]:
    """Finds a key in a rendered line in lower case; of a key that is not ASCII, its longest part that is."""
    parts = {max(ASCII_RUN.findall(key), key=len, default="") for key in keys}
    # A part with another one inside, such as `set-cookie`, is found by that.
    shortest = [part for part in parts if not any(other in part for other in parts - {part})]
    return re.compile(
        b"|".join(rb"[-_. ]?".join(map(re.escape, part.encode().split(b"-"))) for part in sorted(shortest))
    )
