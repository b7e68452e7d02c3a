"""Leases: periodic work that only one instance of a service runs."""

import asyncio
import os
import socket
from collections.abc import Callable
from time import monotonic
from typing import Protocol
from uuid import uuid4

import structlog
from structlog.typing import FilteringBoundLogger

log: FilteringBoundLogger = structlog.get_logger()


class Lease(Protocol):
    """A shared store in which instances agree which of them runs a piece of work, such as a database table.

    A lease belongs to one holder for a limited time, and expires after it. So an instance that has died blocks the
    others only until then. Measure time in one place, such as with the database's `now()`.

    With a table, `acquire` is one statement: insert the row, or update it if it is the holder's or has expired. With
    PostgreSQL's advisory locks, the lock belongs to an open connection. Then `acquire` tries to take the lock, checks
    that the connection is alive, and ignores `seconds`: the lock ends with the connection.
    """

    async def acquire(self, name: str, holder: str, seconds: float) -> bool:
        """Acquire or renew the lease for `holder` for the next `seconds`; False if another holder has it.

        Raises any exception if the store is not available.
        """
        ...

    async def release(self, name: str, holder: str) -> None:
        """End the lease now, so that others can acquire it. Does nothing if `holder` does not have it."""
        ...


class MemoryLease:
    """Leases in the memory of this process, for tests and for a service with one instance.

    In a test, several `App`s that share it behave like instances that share a database.
    """

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._held: dict[str, tuple[str, float]] = {}

    async def acquire(self, name: str, holder: str, seconds: float) -> bool:
        now = self._clock()
        before, until = self._held.get(name, (holder, now))
        if before != holder and until > now:
            return False
        self._held[name] = (holder, now + seconds)
        return True

    async def release(self, name: str, holder: str) -> None:
        if self._held.get(name, ("", 0.0))[0] == holder:
            del self._held[name]


class LeaseLostError(Exception):
    """The lease could not be renewed, so this instance has cancelled its work. Another one may hold the lease."""


class HeldLease:
    """One lease of this instance: acquired for `seconds`, and renewed while the work runs."""

    def __init__(self, lease: Lease, name: str, *, seconds: float) -> None:
        self.seconds: float = seconds
        self._lease = lease
        self._name = name
        self._holder = f"{socket.gethostname()}-{os.getpid()}-{uuid4().hex[:8]}"
        self._valid_until = 0.0

    async def acquire(self) -> bool:
        """Try to acquire the lease; whether this instance has it now."""
        requested_at = monotonic()
        async with asyncio.timeout(self.seconds):
            is_ours = await self._lease.acquire(self._name, self._holder, self.seconds)
        self._valid_until = requested_at + self.seconds
        return is_ours

    async def keep(self, seconds: float) -> None:
        """Keep the lease for `seconds` after the work is done, so that no other instance repeats it."""
        async with asyncio.timeout(self.seconds):
            await self._lease.acquire(self._name, self._holder, seconds)

    async def release(self) -> None:
        """Release the lease, so that another instance can try. A failure is only logged: the lease will expire."""
        try:
            async with asyncio.timeout(1.0):
                await self._lease.release(self._name, self._holder)
        except Exception as error:
            log.warning("lease not released", task=self._name, exc_info=error)

    async def until_lost(self) -> None:
        """Renew the lease repeatedly. Returns when it is lost: another instance may have it."""
        while True:
            await asyncio.sleep(self.seconds / 3)
            requested_at = monotonic()
            try:
                async with asyncio.timeout(self._valid_until - requested_at):
                    is_ours = await self._lease.acquire(self._name, self._holder, self.seconds)
            except Exception as error:
                log.warning("lease not renewed", task=self._name, exc_info=error)
                # If no time is left for another attempt, the lease is lost.
                if monotonic() + self.seconds / 3 >= self._valid_until:
                    return
                continue
            if not is_ours:
                return
            self._valid_until = requested_at + self.seconds
