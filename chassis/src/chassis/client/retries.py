"""Retries: which failures may be retried, when, and how many of them.

All of it is ours. `stamina` and similar libraries decide about the calls of one function. They know neither a budget
over all calls, nor the replicas, the hedges and the remaining deadline of a call.
"""

import random
import re
from collections.abc import Callable
from datetime import UTC
from email.utils import parsedate_to_datetime
from time import monotonic

from .transport import NotSentError, ResponseTooLargeError, TransportError

# The statuses that another attempt may change.
RETRIED_STATUSES: frozenset[int] = frozenset({429, 500, 502, 503, 504})

EXPIRY_SECONDS = 5.0
FLOOR_SECONDS = 10.0
MAX_BACKOFF_SECONDS = 1.0
MAX_RETRY_AFTER_SECONDS = 86_400.0
# `int` raises for more than 4,300 digits. So many seconds are no time to wait anyway.
DELTA_SECONDS = re.compile("[0-9]{1,9}")
# The characters of the three formats of dates in RFC 9110, section 5.6.7. The parser accepts a lot more.
HTTP_DATE = re.compile("(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun)[a-z]{0,6},? [A-Za-z0-9: -]{16,26}")


class RetryBudget:
    """Bounds the retries and hedges of all calls: a share of the calls, and a few more for quiet services.

    Without a budget, retries multiply the load of a dependency just when it fails. Calls that were not used for a
    retry expire after `EXPIRY_SECONDS`, or those of a quiet hour could be spent in one second. So the retries in any
    period are at most `ratio` of the calls in it and in the `EXPIRY_SECONDS` before, plus `floor_per_second` and what
    the floor has saved within `FLOOR_SECONDS`.
    """

    __slots__ = ("_clock", "_cost", "_floor", "_floor_at", "_floor_per_second", "_new", "_old", "_turn_at")

    def __init__(self, ratio: float, *, floor_per_second: float = 1.0, clock: Callable[[], float] = monotonic) -> None:
        """`ratio` is the number of retries for each call."""
        self._clock = clock
        self.set_ratio(ratio)
        self._new = 0.0  # of the present half of `EXPIRY_SECONDS`
        self._old = 0.0  # of the half before
        now = clock()
        self._turn_at = now + EXPIRY_SECONDS / 2
        self._floor_per_second = floor_per_second
        self._floor = floor_per_second * FLOOR_SECONDS
        self._floor_at = now

    def set_ratio(self, ratio: float) -> None:
        """Use another number of retries for each call from now on."""
        # The budget is counted in calls, whose sum is exact: ten times 0.1 is less than 1.
        self._cost = 1 / ratio if ratio > 0 else float("inf")

    def deposit(self) -> None:
        """A call has begun."""
        now = self._clock()
        if now >= self._turn_at:
            self._expire(now)
        self._new += 1

    def withdraw(self) -> bool:
        """Whether one more attempt is allowed. If so, it is paid for."""
        now = self._clock()
        if now >= self._turn_at:
            self._expire(now)
        cost = self._cost
        if self._old + self._new >= cost:
            self._old -= cost
            if self._old < 0:
                self._new = max(0.0, self._new + self._old)
                self._old = 0.0
            return True
        saved = self._floor + (now - self._floor_at) * self._floor_per_second
        self._floor = min(saved, self._floor_per_second * FLOOR_SECONDS)
        self._floor_at = now
        if self._floor < 1:
            return False
        self._floor -= 1
        return True

    def _expire(self, now: float) -> None:
        half = EXPIRY_SECONDS / 2
        self._old = self._new if now < self._turn_at + half else 0.0
        self._new = 0.0
        self._turn_at = now + half


def full_jitter(retry: int, base: float) -> float:
    """Seconds to wait before a retry: random, below `base` for the first one (1), twice that for the second.

    The whole delay is random, so that the calls that failed together are not retried together.
    """
    longest = min(base * 2.0 ** min(retry - 1, 30), max(base, MAX_BACKOFF_SECONDS))
    return random.random() * longest  # noqa: S311 - it spreads retries, and is no secret


def retry_after_seconds(value: str | None, now: float) -> float | None:
    """Seconds to wait by a `Retry-After` field (RFC 9110, section 10.2.3), at most a day; None if it has no valid time.

    `now` is the time of day in seconds since the epoch. A date that has passed is 0: clocks differ.
    """
    if value is None:
        return None
    value = value.strip(" \t")
    if DELTA_SECONDS.fullmatch(value):
        return min(float(value), MAX_RETRY_AFTER_SECONDS)
    if not HTTP_DATE.fullmatch(value):
        return None
    try:
        date = parsedate_to_datetime(value)
    except (ValueError, OverflowError):
        return None
    if date.tzinfo is None:
        date = date.replace(tzinfo=UTC)
    return min(max(0.0, date.timestamp() - now), MAX_RETRY_AFTER_SECONDS)


def may_retry(failure: TransportError | int, *, is_idempotent: bool, retry_after: float | None = None) -> bool:
    """Whether another attempt may succeed, without the risk that the request is executed twice.

    `failure` is the status of the response, or the error of the attempt. `is_idempotent` is true for the methods of
    RFC 9110, section 9.2.2, and for requests with an `Idempotency-Key`. `retry_after` is the time in the response.
    """
    if isinstance(failure, NotSentError):
        return True
    if isinstance(failure, TransportError):
        return is_idempotent and not isinstance(failure, ResponseTooLargeError)
    # A 503 that names a time says that the request was not begun.
    return (is_idempotent and failure in RETRIED_STATUSES) or (failure == 503 and retry_after is not None)
