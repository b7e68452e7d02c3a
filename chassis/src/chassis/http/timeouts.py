"""The deadlines of a connection."""

import asyncio
from math import inf
from random import uniform
from typing import Protocol

from .limits import ConnectionLimits

NEVER = inf
LINGER_SECONDS = 2.0
AGE_JITTER = 0.1  # so that connections that were opened together are not all closed together


class Owner(Protocol):
    """The connection that the deadlines belong to."""

    def on_head_timeout(self) -> None: ...

    def on_idle_timeout(self) -> None: ...

    def on_body_timeout(self) -> None: ...

    def on_age(self) -> None: ...

    def waits_for_application(self) -> bool:
        """Whether the client may not send its body now, because the application has not read what was sent."""
        ...


class Timeouts:
    """The deadlines of one connection, which share one timer.

    The timer is set again only when it has fired, or for an earlier deadline. An ordinary request changes deadlines
    and never touches the timer.
    """

    __slots__ = (
        "_body_bytes_before",
        "_keep_alive_seconds",
        "_limits",
        "_loop",
        "_owner",
        "_timer",
        "_timer_due",
        "_transport",
        "_unsent_bytes",
        "age_due",
        "body_bytes",
        "body_due",
        "head_due",
        "idle_due",
        "linger_due",
        "write_due",
    )

    def __init__(
        self, owner: Owner, transport: asyncio.Transport, limits: ConnectionLimits, keep_alive_seconds: float
    ) -> None:
        self._owner = owner
        self._transport = transport
        self._limits = limits
        self._keep_alive_seconds = keep_alive_seconds
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_due = NEVER
        self.idle_due: float = NEVER
        self.head_due: float = NEVER
        self.body_due: float = NEVER
        self.write_due: float = NEVER
        self.linger_due: float = NEVER
        self.age_due: float = NEVER
        self.body_bytes: int = 0
        """Bytes of the body received since its pace is measured, that is, while `body_due` is set."""
        self._body_bytes_before = 0
        self._unsent_bytes = 0

    def start_age(self) -> None:
        """The connection is new."""
        seconds = self._limits.max_connection_age_seconds
        self.age_due = self._fire_in(seconds * uniform(1 - AGE_JITTER, 1 + AGE_JITTER))  # noqa: S311 - no secret

    def start_idle(self) -> None:
        """The connection has no request; close it after `keep_alive_seconds`."""
        self.idle_due = due = self._loop.time() + self._keep_alive_seconds
        if self._timer_due > due:
            self._fire_at(due)

    def start_head(self) -> None:
        """A head is expected within `head_seconds`, unless it was expected before."""
        if self.head_due == NEVER:
            self.head_due = self._fire_in(self._limits.head_seconds)

    def start_body(self) -> None:
        """More of a body is expected; measure its pace, unless it is measured already."""
        if self.body_due == NEVER:
            self.body_bytes = self._body_bytes_before = 0
            self.body_due = self._fire_in(self._limits.body_seconds)

    def start_writing(self) -> None:
        """Bytes wait in the transport; measure the pace at which the client takes them."""
        self._unsent_bytes = self._transport.get_write_buffer_size()
        self.write_due = self._fire_in(self._limits.body_seconds)

    def start_linger(self) -> None:
        """The response is written, and the client may still send; abort the connection after a while."""
        self.linger_due = self._fire_in(LINGER_SECONDS)

    def stop_reading(self) -> None:
        """Nothing more is expected from the client."""
        self.idle_due = self.head_due = self.body_due = NEVER

    def close(self) -> None:
        """Stop the timer, and drop the reference to the owner, which would be a reference cycle."""
        if self._timer is not None:
            self._timer.cancel()
        self.stop_reading()
        self.write_due = self.linger_due = self.age_due = NEVER
        del self._owner

    def _fire_in(self, seconds: float) -> float:
        due = self._loop.time() + seconds
        if self._timer_due > due:
            self._fire_at(due)
        return due

    def _fire_at(self, due: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_due = due
        self._timer = self._loop.call_at(due, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self._timer_due = NEVER
        now = self._loop.time()
        if self.age_due <= now:
            self.age_due = NEVER
            self._owner.on_age()
        if self.head_due <= now:
            self._owner.on_head_timeout()
        elif self.idle_due <= now:
            self._owner.on_idle_timeout()
        elif self.body_due <= now:
            self._check_body_pace()
        if self.write_due <= now:
            self._check_write_pace()
        if self.linger_due <= now:
            self.linger_due = NEVER
            if not self._transport.get_write_buffer_size():  # else the write pace decides
                self._transport.abort()
                return
        next_due = min(self.idle_due, self.head_due, self.body_due, self.write_due, self.linger_due, self.age_due)
        if self._timer_due > next_due:
            self._fire_at(next_due)

    def _check_body_pace(self) -> None:
        self.body_due = NEVER
        received = self.body_bytes - self._body_bytes_before
        if received >= self._limits.min_bytes_per_period or self._owner.waits_for_application():
            self._body_bytes_before = self.body_bytes
            self.body_due = self._fire_in(self._limits.body_seconds)
        else:
            self._owner.on_body_timeout()

    def _check_write_pace(self) -> None:
        self.write_due = NEVER
        unsent_bytes = self._transport.get_write_buffer_size()
        if not unsent_bytes:
            return
        if self._unsent_bytes - unsent_bytes < self._limits.min_bytes_per_period:
            self._transport.abort()
        else:
            self.start_writing()
