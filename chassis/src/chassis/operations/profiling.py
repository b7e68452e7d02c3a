"""One profile at a time, in bounded time."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Annotated

from pydantic import Field

from ..problem import Problem

MAX_SECONDS = 90.0
RENDER_SECONDS = 25.0
"""The time to make the result, after the profile has ended."""

Seconds = Annotated[float, Field(ge=0.1, le=MAX_SECONDS)]


class Profiling:
    """Whether a profile runs in this process: a second one would measure the first one."""

    def __init__(self, draining: asyncio.Event) -> None:
        self._draining = draining
        self._is_running = False

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Run a profile. Raises a `Problem` of 409 while another one runs, and of 503 while the service stops."""
        if self._is_running:
            raise Problem(409, "A profile runs already in this process; wait until it ends.")
        if self._draining.is_set():
            raise Problem(503, "The service is stopping; profile another instance.")
        self._is_running = True
        try:
            yield
        finally:
            self._is_running = False

    async def wait(self, seconds: float) -> None:
        """Wait that long, or until the service begins to stop: a profile does not delay the graceful shutdown."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._draining.wait()
