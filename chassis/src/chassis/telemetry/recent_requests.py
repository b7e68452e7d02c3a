"""The last requests, the slowest and the failed ones, kept in memory for operators."""

import heapq
import time
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import count
from typing import Any

import orjson

from .access_line import MEMBERS

MAX_RECENT = 1000
MAX_FAILED = 300
MAX_SLOW = 50
"""Of each minute."""
SLOW_MINUTES = 5
MAX_LINE_BYTES = 2000
MAX_TEXT = 300
"""Characters of a text in a line that is too long."""
MAX_FACTS_BYTES = 1000
NO_FACTS = ("level", "event", "worker")
OWN_MEMBERS = (*(name for name in MEMBERS if name not in NO_FACTS), "subject", "error", "first_byte_ms")
"""The members of an access line that are not facts which the service's owner has added."""


class RecentRequests:
    """Keeps the access lines of the last `MAX_RECENT` requests, of `MAX_FAILED` failed ones, and of the `MAX_SLOW`
    slowest of each minute.

    A line is JSON, also where the service logs something else, or nothing. Long lines are shortened, so it takes at
    most about 3 MB. A streamed response is as slow as its start. WebSockets and streams of gRPC are not slow, however
    long they last.
    """

    def __init__(self) -> None:
        self._recent: deque[bytes] = deque(maxlen=MAX_RECENT)
        self._failed: deque[bytes] = deque(maxlen=MAX_FAILED)
        # The slowest of the present minute: a heap of seconds, a number and the line. Then those of the minutes before,
        # each with the time at which the minute ends.
        self._slow: list[tuple[float, int, bytes]] = []
        self._slow_before: deque[tuple[float, list[tuple[float, int, bytes]]]] = deque(maxlen=SLOW_MINUTES)
        self._minute_ends_at = 0.0
        self._slow_above = -1.0
        self._number = count()

    def add(self, line: bytes, ended_at: float, seconds: float, is_failed: bool, is_stream: bool = False) -> None:
        """Keep a request that has ended at a time of day, and has taken so many seconds."""
        if len(line) > MAX_LINE_BYTES:
            line = shortened(line)
        self._recent.append(line)
        if seconds > self._slow_above or ended_at >= self._minute_ends_at:
            self._add_slow(line, ended_at, seconds, is_stream)
        if is_failed:
            self._failed.append(line)

    def recent(self) -> Iterator[dict[str, Any]]:
        """The last requests, the newest first."""
        return documents_of(reversed(list(self._recent)))

    def failed(self) -> Iterator[dict[str, Any]]:
        """The last requests that have failed, the newest first."""
        return documents_of(reversed(list(self._failed)))

    def slow(self) -> Iterator[dict[str, Any]]:
        """The slowest requests of the last minutes, the slowest first."""
        since = time.time() - 60 * SLOW_MINUTES
        minutes = [entries for ends_at, entries in self._slow_before if ends_at > since]
        entries = sorted((entry for minute in (*minutes, self._slow) for entry in minute), reverse=True)
        return documents_of(line for _, _, line in entries)

    def _add_slow(self, line: bytes, ended_at: float, seconds: float, is_stream: bool) -> None:
        if ended_at >= self._minute_ends_at:
            self._slow_before.append((self._minute_ends_at, self._slow))
            self._slow = []
            self._slow_above = -1.0
            self._minute_ends_at = ended_at + 60
        if is_stream:
            return
        entry = (seconds, next(self._number), line)
        if len(self._slow) < MAX_SLOW:
            heapq.heappush(self._slow, entry)
        else:
            heapq.heappushpop(self._slow, entry)
        if len(self._slow) == MAX_SLOW:
            self._slow_above = self._slow[0][0]


def documents_of(lines: Iterable[bytes]) -> Iterator[dict[str, Any]]:
    """The requests of access lines, with the facts of the service's owner as one member."""
    for line in lines:
        event: dict[str, Any] = orjson.loads(line)
        document = {name: event.pop(name, None) for name in OWN_MEMBERS}
        if event.get("event") == "call":  # of gRPC
            document["code"] = event.pop("code")
        yield document | {"facts": {name: value for name, value in event.items() if name not in NO_FACTS}}


def shortened(line: bytes) -> bytes:
    """An access line with at most `MAX_TEXT` characters of each text, and without facts that are large."""
    event: dict[str, Any] = orjson.loads(line)
    facts = {name: event.pop(name) for name in [*event] if name not in OWN_MEMBERS and name not in NO_FACTS}
    event = {name: value[:MAX_TEXT] if isinstance(value, str) else value for name, value in event.items()}
    if len(orjson.dumps(facts)) > MAX_FACTS_BYTES:
        facts = {"dropped": "the facts are too large to be kept"}
    return orjson.dumps(event | facts)
