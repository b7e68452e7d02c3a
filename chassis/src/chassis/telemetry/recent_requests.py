"""The last requests, the slowest and the failed ones, kept in memory for operators."""

import heapq
import time
from collections import deque
from collections.abc import Mapping
from datetime import UTC, datetime
from itertools import count
from typing import Any, NamedTuple

import orjson

from .observation import Observation
from .route_template import UNMATCHED

MAX_RECENT = 1000
MAX_FAILED = 300
MAX_SLOW = 50
"""Of each minute."""
SLOW_MINUTES = 5
MAX_TEXT = 300
"""Characters of a path or another text that clients choose."""
MAX_FACTS_BYTES = 2000
TOO_LARGE = b'{"dropped":"the facts are too large to be kept"}'
SWITCHING_PROTOCOLS = 101
REJECTED = frozenset({501, 503})
"""Unknown methods and load shedding: so many that they would replace the failures."""

Record = tuple[
    float,
    float,
    int,
    str,
    str,
    str,
    int,
    int,
    Any,
    str,
    str,
    str,
    str | None,
    str | None,
    bytes | None,
    str | None,
]
"""The fields of `RequestRecord` as a plain tuple, which takes a quarter of the time to make."""


class RequestRecord(NamedTuple):
    """The facts of the access line of one request."""

    ended_at: float
    seconds: float
    status: int
    method: str
    route: str
    path: str
    request_bytes: int
    response_bytes: int
    client: Any
    """Address and port, or None."""
    request_id: str
    trace_id: str
    span_id: str
    error: str | None
    subject: str | None
    facts: bytes | None
    """The facts that the service's owner has added, as JSON."""
    code: str | None = None
    """The status of a gRPC call, in addition to `status`, which is the one of HTTP that it corresponds to."""

    def document(self) -> dict[str, Any]:
        """The record in JSON's types, with the names of the access line."""
        timestamp = datetime.fromtimestamp(self.ended_at, UTC).isoformat(timespec="milliseconds")
        return {
            "timestamp": timestamp.replace("+00:00", "Z"),
            "method": self.method,
            "route": self.route,
            "path": self.path,
            "status": self.status,
            "duration_ms": int(self.seconds * 1_000_000) / 1000,
            "request_bytes": self.request_bytes,
            "response_bytes": self.response_bytes,
            "client": self.client[0] if self.client else None,
            "request_id": self.request_id,
            "trace_id": self.trace_id,
            "span_id": self.span_id,
            "subject": self.subject,
            "error": self.error,
            "facts": {} if self.facts is None else orjson.loads(self.facts),
        } | ({} if self.code is None else {"code": self.code})


class RecentRequests:
    """Keeps the last `MAX_RECENT` requests, `MAX_FAILED` failed ones, and the `MAX_SLOW` slowest of each minute.

    All texts that clients choose are cut, so it takes at most about 3 MB. `add` takes about 0.3 µs; measure it with
    `python -m timeit`. WebSockets are not slow, however long they last.
    """

    def __init__(self) -> None:
        self._recent: deque[Record] = deque(maxlen=MAX_RECENT)
        self._failed: deque[Record] = deque(maxlen=MAX_FAILED)
        # The slowest of the present minute as a heap, and those of the minutes before it.
        self._slow: list[tuple[float, int, Record]] = []
        self._slow_before: deque[list[tuple[float, int, Record]]] = deque(maxlen=SLOW_MINUTES)
        self._minute_ends_at = 0.0
        self._slow_above = -1.0
        self._number = count()

    def add(
        self,
        observation: Observation,
        ended_at: float,
        status: int,
        route: str,
        request_bytes: int,
        response_bytes: int,
        facts: Mapping[str, Any] | None,
    ) -> None:
        """Keep a request that has ended at a time of day. `facts` are those of the service's owner, without secrets."""
        info, context, seconds = observation.info, observation.context, observation.seconds
        record: Record = (
            ended_at,
            seconds,
            status,
            observation.method,
            route,
            observation.path[:MAX_TEXT],
            request_bytes,
            response_bytes,
            observation.scope.get("client"),
            observation.response.request_id,
            context.trace_id,
            context.span_id,
            None if info.error is None else info.error.__qualname__[:MAX_TEXT],
            None if info.subject is None else info.subject[:MAX_TEXT],
            _bounded(facts) if facts else None,
            None,
        )
        self._recent.append(record)
        if seconds > self._slow_above or ended_at >= self._minute_ends_at:
            self._add_slow(record)
        if info.error is not None or (status >= 500 and not (route == UNMATCHED and status in REJECTED)):
            self._failed.append(record)

    def add_call(self, call: RequestRecord, facts: Mapping[str, Any], *, is_stream: bool) -> None:
        """Keep a gRPC call that has ended. Streams are not slow, however long they last."""
        record = call._replace(path=call.path[:MAX_TEXT], facts=_bounded(facts) if facts else None)
        self._recent.append(record)
        if not is_stream and (record.seconds > self._slow_above or record.ended_at >= self._minute_ends_at):
            self._add_slow(record)
        if record.status >= 500 or record.error is not None:
            self._failed.append(record)

    def recent(self) -> list[RequestRecord]:
        """The last requests, the newest first."""
        return [RequestRecord(*record) for record in reversed(self._recent)]

    def failed(self) -> list[RequestRecord]:
        """The last requests with a status of 500 and above or an unexpected exception, the newest first.

        Those that were rejected before they reached a route, such as under overload, are not among them.
        """
        return [RequestRecord(*record) for record in reversed(self._failed)]

    def slow(self) -> list[RequestRecord]:
        """The slowest requests of the last minutes, the slowest first."""
        since = time.time() - 60 * SLOW_MINUTES
        entries = [entry for minute in (*self._slow_before, self._slow) for entry in minute if entry[2][0] >= since]
        return [RequestRecord(*record) for _, _, record in sorted(entries, reverse=True)]

    def _add_slow(self, record: Record) -> None:
        if record[0] >= self._minute_ends_at:
            self._slow_before.append(self._slow)
            self._slow = []
            self._slow_above = -1.0
            self._minute_ends_at = record[0] + 60
        if record[2] == SWITCHING_PROTOCOLS:
            return
        entry = (record[1], next(self._number), record)
        if len(self._slow) < MAX_SLOW:
            heapq.heappush(self._slow, entry)
        else:
            heapq.heappushpop(self._slow, entry)
        if len(self._slow) == MAX_SLOW:
            self._slow_above = self._slow[0][0]


def _bounded(facts: Mapping[str, Any]) -> bytes:
    """Facts as JSON of a bounded size, which keep no other objects alive."""
    kept = orjson.dumps(facts)
    return kept if len(kept) <= MAX_FACTS_BYTES else TOO_LARGE
