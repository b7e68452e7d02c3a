"""The lifespan of a mounted application (ASGI, "Lifespan Protocol")."""

import asyncio
from typing import Any, Self

from starlette.types import ASGIApp, Message, Receive, Scope, Send


class Lifespan:
    """Starts an ASGI application when it is entered, and stops it when it is left.

    What the application's lifespan yields, or puts into `scope["state"]`, is in `state` until then.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.state: dict[str, Any] = {}
        self._app = app
        self._events: asyncio.Queue[Message] = asyncio.Queue()
        self._replies: asyncio.Queue[Message] = asyncio.Queue()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        """Start the application. Raises `RuntimeError`, or what the application raised, when it does not start."""
        self._task = asyncio.create_task(self._run(), name="lifespan of a mounted application")
        try:
            await self._tell("startup")
        except BaseException:
            self._task.cancel()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop the application. Raises `RuntimeError`, or what the application raised, when it fails to stop."""
        try:
            await self._tell("shutdown")
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
        await self._app(scope, self._events.get, self._replies.put)

    async def _tell(self, stage: str) -> None:
        if self._task is None:
            raise RuntimeError("the lifespan has not begun")
        self._events.put_nowait({"type": f"lifespan.{stage}"})
        reply = asyncio.ensure_future(self._replies.get())
        try:
            await asyncio.wait({self._task, reply}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            reply.cancel()
        message = reply.result() if reply.done() and not reply.cancelled() else None
        if message is not None and message["type"] == f"lifespan.{stage}.complete":
            return
        if self._task.done():
            self._task.result()  # raises what the application raised
        detail = message.get("message", "") if message is not None else "it returned early"
        raise RuntimeError(f"the {stage} of a mounted application failed: {detail}")


class StateMiddleware:
    """Gives each request and WebSocket a shallow copy of `state` in `scope["state"]`, beside what is there."""

    def __init__(self, app: ASGIApp, state: dict[str, Any]) -> None:
        self._app = app
        self._state = state

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # In the same scope, where telemetry finds the route of the mounted application.
        scope["state"] = {**scope.get("state", {}), **self._state}
        await self._app(scope, receive, send)
