"""Leases: work that runs once for all instances of a service."""

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
    """Where instances agree which of them does a piece of work, such as a table of a database that all of them use.

    A lease belongs to one holder for a time, and is free when that has passed. So an instance that has died holds up
    the others only until then. Time must be measured in one place, such as by the database's `now()`.

    With a table, `acquire` is one statement: insert the row, or update it where it is the holder's or has expired. With
    PostgreSQL's advisory locks the lock belongs to a connection that is kept open: `acquire` tries to take it and
    checks that the connection is alive, and `seconds` has no meaning, because the lock ends with the connection.
    """

    async def acquire(self, name: str, holder: str, seconds: float) -> bool:
        """Let `holder` have the lease for `seconds` from now on, also if it has it already; False if another has it.

        Raises any exception when that cannot be found out.
        """
        ...

    async def release(self, name: str, holder: str) -> None:
        """Let others have the lease at once. Does nothing if `holder` does not have it."""
        ...


class MemoryLease:
    """Leases in the memory of this process, for tests and for a service with one instance.

    Several `App`s that share it agree like instances that share a database.
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
    """Another instance may hold the lease by now, so this one has stopped its work."""


class HeldLease:
    """One lease of this instance: acquired for `seconds`, and renewed for as long as the work takes."""

    def __init__(self, lease: Lease, name: str, *, seconds: float) -> None:
        self.seconds: float = seconds
        self._lease = lease
        self._name = name
        self._holder = f"{socket.gethostname()}-{os.getpid()}-{uuid4().hex[:8]}"
        self._valid_until = 0.0

    async def acquire(self) -> bool:
        """Whether this instance has the lease now."""
        asked = monotonic()
        async with asyncio.timeout(self.seconds):
            is_ours = await self._lease.acquire(self._name, self._holder, self.seconds)
        self._valid_until = asked + self.seconds
        return is_ours

    async def keep(self, seconds: float) -> None:
        """Keep others from the work for `seconds` from now on, because it is done."""
        async with asyncio.timeout(self.seconds):
            await self._lease.acquire(self._name, self._holder, seconds)

    async def release(self) -> None:
        """Let another instance try. What fails is only logged: the lease ends by itself."""
        try:
            async with asyncio.timeout(1.0):
                await self._lease.release(self._name, self._holder)
        except Exception as error:
            log.warning("lease was not released", task=self._name, exc_info=error)

    async def until_lost(self) -> None:
        """Renew the lease, and return when that has not worked for so long that another may have it."""
        while True:
            await asyncio.sleep(self.seconds / 3)
            asked = monotonic()
            try:
                async with asyncio.timeout(self._valid_until - asked):
                    is_ours = await self._lease.acquire(self._name, self._holder, self.seconds)
            except Exception as error:
                log.warning("lease was not renewed", task=self._name, exc_info=error)
                # Without time for another attempt it is lost.
                if monotonic() + self.seconds / 3 >= self._valid_until:
                    return
                continue
            if not is_ours:
                return
            self._valid_until = asked + self.seconds
