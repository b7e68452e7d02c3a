"""A clock that stands still until a test lets time pass."""

import asyncio

from chassis.schedules import Clock

from .service import until


class ManualClock(Clock):
    """Both clocks of the machine; they advance when the test advances them."""

    def __init__(self, now: float = 1_000_000.0) -> None:
        self.now = now
        self._sleepers: dict[asyncio.Event, float] = {}

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return self.now

    async def sleep(self, seconds: float, unless: asyncio.Event) -> None:
        woken = asyncio.Event()
        self._sleepers[woken] = self.now + seconds
        waits = [asyncio.create_task(event.wait()) for event in (woken, unless)]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._sleepers.pop(woken, None)
            for wait in waits:
                wait.cancel()

    async def wait_for_sleeper(self) -> float:
        """For how many seconds the one that sleeps next will sleep."""
        await until(lambda: self._sleepers)
        return min(self._sleepers.values()) - self.now

    async def sleep_over(self) -> float:
        """Let time pass until the next one wakes up; returns how many seconds that were."""
        seconds = await self.wait_for_sleeper()
        self.advance(seconds)
        return seconds

    def advance(self, seconds: float) -> None:
        """Let so many seconds pass."""
        self.now += seconds
        for woken, at in list(self._sleepers.items()):
            if at <= self.now:
                del self._sleepers[woken]
                woken.set()
