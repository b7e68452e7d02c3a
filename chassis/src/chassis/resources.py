"""The resources of an `App`: opened at its start, and closed within a bounded time at its end."""

import asyncio
import time
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from types import TracebackType
from typing import Any

import structlog
from structlog.typing import FilteringBoundLogger

log: FilteringBoundLogger = structlog.get_logger()

CLOSE_SECONDS = 3.0


class Resources:
    """Async context managers that are entered in order and exited in reverse, like nested `async with` blocks.

    All exits together get `CLOSE_SECONDS`. Each gets an equal share of the remaining time. An exit that takes longer is
    cancelled and logged, so that a connection that hangs does not keep the others open.
    """

    def __init__(self) -> None:
        self._managers: list[AbstractAsyncContextManager[Any]] = []
        self._entered = AsyncExitStack()
        self._open_count = 0
        self._exit_by: float | None = None

    def add(self, manager: AbstractAsyncContextManager[Any]) -> None:
        """Add a resource. It is entered after the resources that were added before it, and exited before them."""
        self._managers.append(manager)

    async def enter(self) -> None:
        """Enter all resources. If one fails, the entered ones are exited, and its exception is raised."""
        async with AsyncExitStack() as stack:
            for manager in self._managers:
                await stack.enter_async_context(_InTime(manager, self))
                self._open_count += 1
            self._entered = stack.pop_all()

    async def exit(self) -> None:
        """Exit all entered resources; a second call does nothing. Raises the exception of an exit that fails."""
        await self._entered.aclose()

    def next_share(self) -> float:
        """The time limit for the exit of the next resource, in seconds."""
        now = time.monotonic()
        if self._exit_by is None:
            self._exit_by = now + CLOSE_SECONDS
        share = max(0.0, self._exit_by - now) / max(1, self._open_count)
        self._open_count -= 1
        return share


class _InTime:
    """A wrapper of `manager` that cancels its exit when its share of the time is over."""

    def __init__(self, manager: AbstractAsyncContextManager[Any], resources: Resources) -> None:
        self._manager = manager
        self._resources = resources

    async def __aenter__(self) -> object:
        return await self._manager.__aenter__()

    async def __aexit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        seconds = self._resources.next_share()
        timeout = asyncio.timeout(seconds)
        try:
            async with timeout:
                return await self._manager.__aexit__(error_type, error, traceback)
        except TimeoutError:
            if not timeout.expired():
                raise
            log.warning("resource did not close in time", resource=_name_of(self._manager), seconds=round(seconds, 3))
            return None


def _name_of(manager: AbstractAsyncContextManager[Any]) -> str:
    """The class of a resource, or the function that `asynccontextmanager` decorates."""
    generator = getattr(manager, "gen", None)
    return str(getattr(generator, "__qualname__", type(manager).__qualname__))
