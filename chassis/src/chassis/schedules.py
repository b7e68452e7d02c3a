"""When periodic work is due: arithmetic alone, and the clock that it is about."""

import asyncio
import math
import time
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta, tzinfo
from datetime import time as time_of_day
from typing import Protocol
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

DAY_SECONDS = 86_400.0


class Clock:
    """The time, and the wait for it; tests give one of their own."""

    def monotonic(self) -> float:
        """Seconds that nobody sets back."""
        return time.monotonic()

    def time(self) -> float:
        """Seconds since the epoch."""
        return time.time()

    async def sleep(self, seconds: float, unless: asyncio.Event) -> None:
        """Wait for so many seconds, or until the event is set."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await unless.wait()


class Schedule(Protocol):
    """The ticks of periodic work. Moments are seconds of one of the two clocks."""

    seconds: float
    """From one tick to the next."""
    uses_wall_clock: bool
    """Whether moments are seconds since the epoch; else they are monotonic."""

    def begin(self, moment: float) -> float:
        """The first tick of a service that starts at `moment`."""
        ...

    def next(self, moment: float) -> float:
        """The first tick after `moment`; those in between are skipped."""
        ...

    def take_over(self, moment: float) -> None:
        """This instance does at `moment` what another one has done until now."""
        ...


class Every:
    """A tick every `seconds`, counted from the first one, which is `first_after` seconds after the start."""

    uses_wall_clock: bool = False

    def __init__(self, seconds: float, *, first_after: float = 0.0) -> None:
        if not 0 < seconds < math.inf:
            raise ValueError(f"every({seconds}) is no interval; give a number of seconds above 0")
        if not 0 <= first_after < math.inf:
            raise ValueError(f"first_after is {first_after}; give a number of seconds from 0")
        self.seconds: float = seconds
        self._first_after = first_after
        self._origin = 0.0

    def begin(self, moment: float) -> float:
        self._origin = moment + self._first_after
        return self._origin

    def next(self, moment: float) -> float:
        return self._origin + (math.floor((moment - self._origin) / self.seconds) + 1) * self.seconds

    def take_over(self, moment: float) -> None:
        self._origin = moment  # or its own next tick might come too soon after this run


class Daily:
    """A tick a day, at the time of day `at` in `timezone`.

    Daylight saving: a time that exists twice on a day counts the first time. A time that a day skips is as much later
    as the clock is put forward: 02:30 becomes 03:30 (PEP 495, `fold=0`). So each day has one tick.
    """

    seconds: float = DAY_SECONDS
    uses_wall_clock: bool = True

    def __init__(self, at: time_of_day | str, timezone: tzinfo | str = UTC) -> None:
        self._at = _time_of_day(at)
        self._timezone = _timezone(timezone)

    def begin(self, moment: float) -> float:
        return self.next(moment)

    def next(self, moment: float) -> float:
        # From the day before, since a tick that a day skips may be on the next one.
        day = datetime.fromtimestamp(moment, self._timezone).date() - timedelta(days=1)
        while True:
            tick = self._tick_of(day)
            if tick > moment:
                return tick
            day += timedelta(days=1)

    def take_over(self, moment: float) -> None:
        """All instances have the same ticks."""

    def _tick_of(self, day: date) -> float:
        return datetime.combine(day, self._at, tzinfo=self._timezone).timestamp()


def _time_of_day(at: time_of_day | str) -> time_of_day:
    if isinstance(at, str):
        try:
            at = time_of_day.fromisoformat(at)
        except ValueError:
            raise ValueError(f'daily({at!r}) is no time of day; write "03:30", or datetime.time(3, 30)') from None
    if at.tzinfo is not None:
        raise ValueError(f"daily({at}) has a time zone of its own; give it as timezone=")
    return at.replace(fold=0)


def _timezone(timezone: tzinfo | str) -> tzinfo:
    if isinstance(timezone, tzinfo):
        return timezone
    try:
        return ZoneInfo(timezone)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError(
            f"the time zone {timezone!r} is not known; write a name such as Europe/Berlin, and install the package "
            "tzdata where the system has no time zones"
        ) from None
