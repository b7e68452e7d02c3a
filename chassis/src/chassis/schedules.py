"""The schedules of periodic work, and the clock that they use. They do no I/O."""

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
    """The clock of periodic work. Tests replace it."""

    def monotonic(self) -> float:
        """Monotonic seconds."""
        return time.monotonic()

    def time(self) -> float:
        """Seconds since the epoch."""
        return time.time()

    async def sleep(self, seconds: float, unless: asyncio.Event) -> None:
        """Wait for `seconds`, or until the event `unless` is set."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await unless.wait()


class Schedule(Protocol):
    """The ticks of periodic work. A `moment` is a time in seconds, by the clock that `uses_wall_clock` selects.

    Its text names it, such as `every 60 s`.
    """

    seconds: float
    """The interval between two ticks, in seconds."""
    uses_wall_clock: bool
    """Whether moments are seconds since the epoch; otherwise they are monotonic seconds."""

    def begin(self, moment: float) -> float:
        """The first tick of a service that starts at `moment`."""
        ...

    def next(self, moment: float) -> float:
        """The first tick after `moment`. Earlier ticks are skipped."""
        ...

    def take_over(self, moment: float) -> None:
        """Note that this instance continues the work of another one at `moment`."""
        ...


class Every:
    """A tick every `seconds`, counted from the first one, which is `first_after` seconds after the start."""

    uses_wall_clock: bool = False

    def __init__(self, seconds: float, *, first_after: float = 0.0) -> None:
        if not 0 < seconds < math.inf:
            raise ValueError(f"every({seconds}) has an invalid interval; pass a number of seconds above 0")
        if not 0 <= first_after < math.inf:
            raise ValueError(f"first_after is {first_after}; pass a number of seconds, 0 or more")
        self.seconds: float = seconds
        self._first_after = first_after
        self._origin = 0.0

    def __str__(self) -> str:
        return f"every {self.seconds:g} s"

    def begin(self, moment: float) -> float:
        self._origin = moment + self._first_after
        return self._origin

    def next(self, moment: float) -> float:
        return self._origin + (math.floor((moment - self._origin) / self.seconds) + 1) * self.seconds

    def take_over(self, moment: float) -> None:
        self._origin = moment  # otherwise this instance's own next tick might come too soon after this run


class Daily:
    """One tick a day, at the time of day `at` in `timezone`.

    Each day has exactly one tick, also when daylight saving time begins or ends (PEP 495, `fold=0`). If the time occurs
    twice, the first one is used. If the clock skips it, the tick is later by the skipped hour: 02:30 becomes 03:30.
    """

    seconds: float = DAY_SECONDS
    uses_wall_clock: bool = True

    def __init__(self, at: time_of_day | str, timezone: tzinfo | str = UTC) -> None:
        self._at = _time_of_day(at)
        self._timezone = _timezone(timezone)

    def __str__(self) -> str:
        return f"daily at {self._at.isoformat('auto').removesuffix(':00')} {self._timezone}"

    def begin(self, moment: float) -> float:
        return self.next(moment)

    def next(self, moment: float) -> float:
        # Starts at the day before, because a skipped time may move its tick to the next day.
        day = datetime.fromtimestamp(moment, self._timezone).date() - timedelta(days=1)
        while True:
            tick = self._tick_of(day)
            if tick > moment:
                return tick
            day += timedelta(days=1)

    def take_over(self, moment: float) -> None:
        """Nothing to note: all instances have the same ticks."""

    def _tick_of(self, day: date) -> float:
        return datetime.combine(day, self._at, tzinfo=self._timezone).timestamp()


def _time_of_day(at: time_of_day | str) -> time_of_day:
    if isinstance(at, str):
        try:
            at = time_of_day.fromisoformat(at)
        except ValueError:
            raise ValueError(
                f'daily({at!r}) has an invalid time of day; pass "03:30" or datetime.time(3, 30)'
            ) from None
    if at.tzinfo is not None:
        raise ValueError(f"daily({at}) has a time with a time zone; pass the zone as timezone= instead")
    return at.replace(fold=0)


def _timezone(timezone: tzinfo | str) -> tzinfo:
    if isinstance(timezone, tzinfo):
        return timezone
    try:
        return ZoneInfo(timezone)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError(
            f"unknown time zone {timezone!r}; pass a name such as Europe/Berlin, and install the package tzdata "
            "if the system has no time zones"
        ) from None
