"""The lifespan of a mounted application (ASGI specification, "Lifespan Protocol")."""

import asyncio
from typing import Any, Self

from starlette.types import ASGIApp, Message, Receive, Scope, Send


class Lifespan:
    """An async context manager that starts an ASGI application on entry and stops it on exit.

    In between, `state` has the values that the application's lifespan yields or puts into `scope["state"]`.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.state: dict[str, Any] = {}
        self._app = app
        self._events: asyncio.Queue[Message] = asyncio.Queue()
        self._sent: asyncio.Queue[Message] = asyncio.Queue()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        """Start the application. Raises its exception, or `RuntimeError`, if it fails to start."""
        self._task = asyncio.create_task(self._run(), name="lifespan of a mounted application")
        try:
            await self._run_stage("startup")
        except BaseException:
            self._task.cancel()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop the application. Raises its exception, or `RuntimeError`, if it fails to stop."""
        try:
            await self._run_stage("shutdown")
            if self._task is not None:
                await self._task
        finally:
            if self._task is not None:
                self._task.cancel()
            self.state.clear()

    async def _run(self) -> None:
        scope: Scope = {
            "type": "lifespan",
            "asgi": {"version": "3.0", "spec_version": "2.0"},
            "state": self.state,
        }
        await self._app(scope, self._events.get, self._sent.put)

    async def _run_stage(self, stage: str) -> None:
        if self._task is None:
            raise RuntimeError("the lifespan of the mounted application has not started; use `async with`")
        self._events.put_nowait({"type": f"lifespan.{stage}"})
        response = asyncio.ensure_future(self._sent.get())
        try:
            await asyncio.wait({self._task, response}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            response.cancel()
        message = response.result() if response.done() and not response.cancelled() else None
        if message is not None and message["type"] == f"lifespan.{stage}.complete":
            return
        if self._task.done():
            self._task.result()  # raises the exception of the application
        detail = message.get("message", "") if message is not None else "it returned too early"
        raise RuntimeError(f"the {stage} of a mounted application failed: {detail}")


class StateMiddleware:
    """Adds a shallow copy of `state` to the `scope["state"]` of each request and WebSocket."""

    def __init__(self, app: ASGIApp, state: dict[str, Any]) -> None:
        self._app = app
        self._state = state

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # The scope is changed and not copied: telemetry reads the route of the mounted application from it.
        scope["state"] = {**scope.get("state", {}), **self._state}
        await self._app(scope, receive, send)
