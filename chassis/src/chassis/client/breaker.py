"""`CircuitBreaker`: stops the calls to a dependency while most of them fail."""

import random
from collections.abc import Callable
from enum import StrEnum
from time import monotonic

SLOTS = 10  # of the window; the oldest one leaves it at once
JITTER = 0.25


class BreakerState(StrEnum):
    """Whether attempts are admitted: all, a few probes, or none."""

    CLOSED = "closed"
    HALF_OPEN = "half-open"
    OPEN = "open"


CLOSED, HALF_OPEN, OPEN = BreakerState.CLOSED, BreakerState.HALF_OPEN, BreakerState.OPEN


class CircuitBreaker:
    """Opens when a share of recent attempts has failed, and tries again with a few probes.

    It opens when `ratio` of the attempts that have begun within `window_seconds` have failed; a ratio of 1 means never.
    It needs `min_calls` of them, so that it never opens for a service with one call a minute. Attempts in progress
    count as successes until they end. Connections that are rejected fail sooner than others succeed, so the first
    outcomes of a burst say nothing about the dependency.

    It stays open for `open_seconds`, up to a quarter more or less, so that the replicas of a service do not probe
    together. Then it is half-open: `probes` attempts may begin, and it closes when so many have succeeded. One that
    fails opens it again. Probes that never report are replaced after `open_seconds`.

    A failure is an attempt from which nothing is to be expected: no connection, no response in time, or a status
    of 500 and above. Backpressure (429, or 503 with `Retry-After`) is not: the dependency is alive, and protects
    itself. Release attempts that were cancelled, or that failed because their own service was late.
    """

    __slots__ = (
        "_calls",
        "_clock",
        "_failures",
        "_left",
        "_min_calls",
        "_on_change",
        "_open_seconds",
        "_open_until",
        "_permit",
        "_probes",
        "_ratio",
        "_renewed_at",
        "_slot",
        "_slot_calls",
        "_slot_ends_at",
        "_slot_failures",
        "_slot_seconds",
        "_state",
        "_succeeded",
    )

    def __init__(
        self,
        ratio: float,
        open_seconds: float,
        *,
        min_calls: int = 20,
        window_seconds: float = 10.0,
        probes: int = 3,
        clock: Callable[[], float] = monotonic,
        on_change: Callable[[BreakerState], None] | None = None,
    ) -> None:
        """`on_change` is called with the new state, by the attempt that has changed it."""
        self.set_limits(ratio, open_seconds)
        self._min_calls = min_calls
        self._probes = probes
        self._clock = clock
        self._on_change = on_change
        self._state = CLOSED
        self._permit = 1  # grows with each change of the state
        self._open_until = 0.0
        # While half-open: probes that may begin, those that have succeeded, and when lost ones are replaced.
        self._left = 0
        self._succeeded = 0
        self._renewed_at = 0.0
        # The window: sums, and the parts of them in each slot.
        self._slot_seconds = window_seconds / SLOTS
        self._clear(clock())

    def set_limits(self, ratio: float, open_seconds: float) -> None:
        """Use other limits for what happens from now on."""
        self._ratio = ratio if ratio < 1 else float("inf")
        self._open_seconds = open_seconds

    @property
    def state(self) -> BreakerState:
        """The state for an attempt that would begin now. So an open one is half-open when its time is over.

        Otherwise a service would stay open, and perhaps not ready, until its next call, which may never come.
        """
        return HALF_OPEN if self._state is OPEN and self._clock() >= self._open_until else self._state

    @property
    def seconds_until_probe(self) -> float:
        """Seconds until an attempt may be admitted; 0 unless the breaker is open."""
        return max(0.0, self._open_until - self._clock()) if self._state is OPEN else 0.0

    def admit(self) -> int:
        """Whether an attempt may begin: 0 if not. Otherwise a permit; `record` or `release` must follow with it."""
        now = self._clock()
        if self._state is not CLOSED:
            return self._admit_probe(now)
        if now >= self._slot_ends_at:
            self._roll(now)
        self._calls += 1
        self._slot_calls[self._slot] += 1
        return self._permit

    def record(self, failed: bool, permit: int = 0) -> None:
        """An admitted attempt has ended.

        With its permit, it is ignored if the state has changed since it began. Otherwise an attempt from before the
        breaker opened would count as a probe.
        """
        if permit and permit != self._permit:
            return
        if self._state is HALF_OPEN:
            self._record_probe(failed)
        elif failed and self._state is CLOSED:
            now = self._clock()
            if now >= self._slot_ends_at:
                self._roll(now)
            self._failures += 1
            self._slot_failures[self._slot] += 1
            if self._calls >= self._min_calls and self._failures >= self._ratio * self._calls:
                self._open(now)

    def release(self, permit: int = 0) -> None:
        """An admitted attempt has ended without an outcome."""
        if self._state is HALF_OPEN and permit in {0, self._permit}:
            self._left = min(self._left + 1, self._probes - self._succeeded)

    def _admit_probe(self, now: float) -> int:
        if self._state is OPEN:
            if now < self._open_until:
                return 0
            self._succeeded = 0
            self._left = self._probes
            self._change(HALF_OPEN)
        elif self._left <= 0:
            if now < self._renewed_at:
                return 0
            self._left = self._probes - self._succeeded
        self._left -= 1
        self._renewed_at = now + self._open_seconds
        return self._permit

    def _record_probe(self, failed: bool) -> None:
        if failed:
            self._open(self._clock())
            return
        self._succeeded += 1
        if self._succeeded >= self._probes:
            self._clear(self._clock())
            self._change(CLOSED)

    def _open(self, now: float) -> None:
        self._open_until = now + self._open_seconds * random.uniform(1 - JITTER, 1 + JITTER)  # noqa: S311 - jitter
        self._change(OPEN)

    def _change(self, state: BreakerState) -> None:
        self._state = state
        self._permit += 1
        if self._on_change is not None:
            self._on_change(state)

    def _clear(self, now: float) -> None:
        self._calls = self._failures = 0
        self._slot = 0
        self._slot_calls = [0] * SLOTS
        self._slot_failures = [0] * SLOTS
        self._slot_ends_at = now + self._slot_seconds

    def _roll(self, now: float) -> None:
        """Begin the slot of this moment; what is older than the window leaves it."""
        steps = int((now - self._slot_ends_at) / self._slot_seconds) + 1
        if steps >= SLOTS:
            self._clear(now)
            return
        for _ in range(steps):
            self._slot = (self._slot + 1) % SLOTS
            self._calls -= self._slot_calls[self._slot]
            self._failures -= self._slot_failures[self._slot]
            self._slot_calls[self._slot] = self._slot_failures[self._slot] = 0
        self._slot_ends_at += steps * self._slot_seconds
