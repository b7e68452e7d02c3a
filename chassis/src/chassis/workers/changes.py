"""Changes that operators have made, for workers that start later: log levels, faults, readiness."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import orjson

MAX_CHANGES = 1000


@dataclass(frozen=True, slots=True)
class Change:
    """A successful `PUT` or `DELETE`, for one slot or with None for all."""

    target: bytes
    is_deletion: bool
    headers: Sequence[tuple[bytes, bytes]]
    body: bytes
    made: float
    """When, monotonic seconds."""
    lasts: float | None
    """For how many seconds, as its response says; None if it does not."""


class Changes:
    """The last change of each path, for all workers and for single slots.

    A change of one slot is always newer than that for all, and replaces it there. So does a `DELETE` of one slot. A
    `DELETE` for all removes all changes of its path: the worker that starts has the initial state.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._changes: dict[tuple[bytes, int | None], Change] = {}

    def note(
        self,
        method: str,
        target: bytes,
        slot: int | None,
        headers: Sequence[tuple[bytes, bytes]],
        body: bytes,
        response: bytes,
    ) -> None:
        """Note a request that has succeeded, without its token. `POST` starts something, which is not repeated.

        `until` in the response says when the change ends, also if its body leaves the default of `seconds`.
        """
        path = target.partition(b"?")[0]
        if method not in ("PUT", "DELETE"):
            return
        for key in [key for key in self._changes if key[0] == path and slot in (None, key[1])]:
            del self._changes[key]
        is_deletion = method == "DELETE"
        if is_deletion and (path, None) not in self._changes:
            return  # a worker that starts has the initial state anyway
        kept = [(name, value) for name, value in headers if name != b"authorization"]
        self._changes[path, slot] = Change(target, is_deletion, kept, body, self._clock(), _seconds_left(response))
        if len(self._changes) > MAX_CHANGES:
            del self._changes[next(iter(self._changes))]

    def of(self, slot: int) -> Iterator[tuple[Change, bytes]]:
        """The changes that apply to a worker that starts in this slot, each with its body.

        If the body, or an object in its array, has `seconds`, it is for a limited time. Then only the remaining time is
        repeated, also if only the response says when the change ends.
        """
        for (path, which), change in self._changes.items():
            is_replaced = which is None and (path, slot) in self._changes
            if which not in (None, slot) or is_replaced or change.is_deletion:
                continue
            body = _rest(change.body, self._clock() - change.made, change.lasts)
            if body is not None:
                yield change, body


def _seconds_left(response: bytes) -> float | None:
    """The seconds to `until` in the response to a change; None without it."""
    try:
        return (datetime.fromisoformat(orjson.loads(response)["until"]) - datetime.now(UTC)).total_seconds()
    except (KeyError, TypeError, ValueError):
        return None


def _rest(body: bytes, age: float, lasts: float | None) -> bytes | None:
    """The body of a change of this age; None if nothing of it is in effect any more."""
    try:
        document: Any = orjson.loads(body)
    except ValueError:
        return body
    if isinstance(document, list):
        items = [rest for item in document if (rest := _rest_of(item, age)) is not None]
        return orjson.dumps(items) if items or not document else None
    if lasts is not None and isinstance(document, dict):
        document = {"seconds": lasts, **document}
    rest = _rest_of(document, age)
    return None if rest is None else orjson.dumps(rest)


def _rest_of(item: Any, age: float) -> Any:
    if not isinstance(item, dict) or not isinstance(item.get("seconds"), (int, float)):
        return item
    seconds = item["seconds"] - age
    return {**item, "seconds": max(1, round(seconds))} if seconds > 0 else None
