"""Requests that are executed to completion after their client has disconnected."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import Scope

MAX_CONTINUED = 100
CANCELLATION = "a request whose client has disconnected took too long, or the service is stopping"


class DetachedError(OSError, ClientDisconnect):
    """A continued request sends a response, but its client has disconnected.

    ASGI 2.4 requires an `OSError`; Starlette and the chassis handle `ClientDisconnect`.
    """


class Continuation:
    """Runs requests in tasks of their own, which may continue when the request is cancelled.

    They continue as background tasks of the application, so the shutdown waits for them. At most `MAX_CONTINUED`
    continue at a time, because the load shedder does not count them. Further ones are cancelled like any request.
    """

    def __init__(self, name: str, seconds: float) -> None:
        """`name` is the name of the background tasks; `seconds` is the longest time for which one may continue."""
        self.count: int = 0
        """The number of requests that continue now."""
        self._name = name
        self._seconds = seconds

    async def run(
        self,
        scope: Scope,
        work: Coroutine[Any, Any, None],
        *,
        continues: Callable[[], bool],
        on_detached: Callable[[], object],
    ) -> None:
        """Run `work`. When the caller is cancelled and `continues()` is true, `work` continues in the background.

        `on_detached` is called before it continues.
        """
        task = asyncio.create_task(work, name=self._name)
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError as error:
            tasks = getattr(scope.get("app"), "tasks", None)
            if tasks is not None and self.count < MAX_CONTINUED and continues():
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
        """Wait for `task`, and raise its exception if that is unexpected."""
        try:
            await asyncio.wait({task}, timeout=self._seconds)
        finally:
            self.count -= 1
            if not task.done():
                task.cancel(CANCELLATION)
                await asyncio.wait({task})
        error = None if task.cancelled() else task.exception()
        # Expected: a problem document for the client, or the failed attempt to send a response.
        if error is not None and not isinstance(error, HTTPException | ClientDisconnect):
            raise error
