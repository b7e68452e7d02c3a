"""Routes behind a guard: it is asked before the application of a route reads anything of the request."""

from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from typing import Any

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..problem import send_problem
from ..response_sender import ResponseSender, is_json_result, private
from .access import PRINCIPAL, Guard, Requirement, for_method

Application = Callable[[Scope, Receive, Send], Coroutine[Any, Any, None]]


def guarded(app: Application, guard: Guard, requirement: Requirement) -> Application:
    """`app` behind the guard; `app` itself if the requirement is public."""
    if requirement.is_public:
        return app

    # A plain function, for performance: without a verification, it needs no coroutine of its own.
    def call(scope: Scope, receive: Receive, send: Send) -> Coroutine[Any, Any, None]:
        waits = guard.admit(scope, requirement)
        if isinstance(send, ResponseSender):  # most are, and need no call
            send.is_private = True
        else:
            send = for_one_principal(send)
        if waits is None:
            return app(scope, receive, send)
        return _call_after(waits, app, scope, receive, send)

    return call


async def _call_after(waits: Awaitable[None], app: Application, scope: Scope, receive: Receive, send: Send) -> None:
    await waits
    await app(scope, receive, send)


def for_one_principal(send: Send) -> Send:
    """A `send` of responses that caches do not give to another principal."""
    if isinstance(send, ResponseSender):
        send.is_private = True
        return send

    def send_for_one(message: Message) -> Awaitable[None]:
        if message["type"] == "http.response.start" and not is_json_result(message.get("headers", ())):
            message = {**message, "headers": private(message.get("headers", ()))}
        return send(message)

    return send_for_one


class GuardedApp:
    """An ASGI application behind the guard, for routes that are not of handlers. By default it serves every method."""

    def __init__(self, app: ASGIApp, guard: Guard, levels: Sequence[Mapping[str, Requirement]], default: Requirement):
        self.app: ASGIApp = app
        self._guard = guard
        self.levels: Sequence[Mapping[str, Requirement]] = levels
        self.default: Requirement = default

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # In upper case, because an application may compare methods without regard to case.
        method = scope["method"].upper() if scope["type"] == "http" else "GET"
        requirement = for_method(method, *self.levels) or self.default
        if requirement.is_public:
            await self.app(scope, receive, send)
            return
        try:
            waits = self._guard.admit(scope, requirement)
            if waits is not None:
                await waits
        except HTTPException as error:
            if scope["type"] != "websocket" or "websocket.http.response" not in (scope.get("extensions") or {}):
                raise
            await send_problem(denying(send), error)
            return
        scope["user"] = scope.get(PRINCIPAL)  # `request.user` in Starlette
        await self.app(scope, receive, for_one_principal(send))


def denying(send: Send) -> Send:
    """A `send` for the HTTP response that rejects the handshake of a WebSocket."""

    def deny(message: Message) -> Awaitable[None]:
        return send({**message, "type": f"websocket.{message['type']}"})

    return deny
