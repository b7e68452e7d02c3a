"""Requests that are executed to their end, although nobody waits for the response any more."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import Scope

MAX_CONTINUED = 100
CANCELLATION = "a request whose client has disconnected took too long, or the service is stopping"


class NobodyWaitsError(OSError, ClientDisconnect):
    """A request that goes on has sent a response; what sends it knows one of the two (ASGI 2.4, and Starlette)."""


class Continuation:
    """Runs requests in tasks of their own, which may go on when the request is cancelled.

    They go on as background tasks of the application, so that the shutdown waits for them, and at most
    `MAX_CONTINUED` at a time, because they hold no place in the load shedder: others are cancelled as any request.
    """

    def __init__(self, name: str, seconds: float) -> None:
        """`name` is that of the background task; `seconds` is how long one may go on."""
        self.count: int = 0
        """The number of those that go on now."""
        self._name = name
        self._seconds = seconds

    async def run(
        self,
        scope: Scope,
        work: Coroutine[Any, Any, None],
        *,
        goes_on: Callable[[], bool],
        on_detached: Callable[[], object],
    ) -> None:
        """Run `work`. When this is cancelled, `goes_on` says whether `work` is not; `on_detached` is called then."""
        task = asyncio.create_task(work, name=self._name)
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError as error:
            tasks = getattr(scope.get("app"), "tasks", None)
            if tasks is not None and self.count < MAX_CONTINUED and goes_on():
                on_detached()
                self.count += 1
                tasks.start(self._finish(task), name=self._name)
                raise
            task.cancel(*error.args)
            await asyncio.wait({task})
            if task.cancelled():
                raise
        task.result()

    async def _finish(self, task: asyncio.Task[None]) -> None:
        """Wait for `task`, and raise the unexpected exception that it ends with."""
        try:
            await asyncio.wait({task}, timeout=self._seconds)
        finally:
            self.count -= 1
            if not task.done():
                task.cancel(CANCELLATION)
                await asyncio.wait({task})
        error = None if task.cancelled() else task.exception()
        # The client would have got a problem document, or has not taken the response.
        if error is not None and not isinstance(error, HTTPException | ClientDisconnect):
            raise error
