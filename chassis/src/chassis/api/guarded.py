"""Routes behind a guard: it is asked before the application of a route reads anything of the request."""

from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from typing import Any

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..problem import send_problem
from ..response_sender import API_TYPES, VALIDATORS, is_json_result
from .access import Guard, Requirement, for_method

Application = Callable[[Scope, Receive, Send], Coroutine[Any, Any, None]]

CACHE_CONTROL = b"cache-control"
# A browser may keep the response, but asks before each use, so that the guard is asked too.
REVALIDATED = (CACHE_CONTROL, b"private, no-cache")
# With these, the owner has said that the response is not kept, or that everybody may get it (RFC 9111, section 3.5).
DECIDED = (b"no-store", b"no-cache", b"public", b"s-maxage")
CREDENTIALS = b"authorization, x-api-key"


def guarded(app: Application, guard: Guard, requirement: Requirement) -> Application:
    """`app` behind the guard; `app` itself if the requirement is public."""
    if requirement.is_public:
        return app

    # A plain function, for performance: without a verification, it needs no coroutine of its own.
    def call(scope: Scope, receive: Receive, send: Send) -> Coroutine[Any, Any, None]:
        waits = guard.admit(scope, requirement)
        if waits is None:
            return app(scope, receive, for_one_principal(send))
        return _call_after(waits, app, scope, receive, for_one_principal(send))

    return call


async def _call_after(waits: Awaitable[None], app: Application, scope: Scope, receive: Receive, send: Send) -> None:
    await waits
    await app(scope, receive, send)


def for_one_principal(send: Send) -> Send:
    """A `send` that keeps caches from giving the response to another principal (RFC 9111, sections 3.5 and 4.1).

    JSON and other content of an API has `no-store` by default. A response that may be cached, because it has a
    validator or is a file, gets `private, no-cache`. One that the owner lets browsers cache gets `Vary`.
    """

    def send_for_one(message: Message) -> Awaitable[None]:
        if message["type"] == "http.response.start":
            headers = message.get("headers", ())
            if not is_json_result(headers):
                message = {**message, "headers": _private(headers)}
        return send(message)

    return send_for_one


def _private(headers: Iterable[Iterable[bytes]]) -> list[tuple[bytes, bytes]]:
    pairs = [(bytes(name), bytes(value)) for name, value in headers]
    present = {name.lower(): value for name, value in pairs}
    directives = present.get(CACHE_CONTROL)
    if directives is not None:
        is_decided = any(word in directives.lower() for word in DECIDED)
        return pairs if is_decided else [*pairs, (b"vary", CREDENTIALS)]
    media_type = present.get(b"content-type", b"").partition(b";")[0].strip().lower()
    is_of_api = not media_type or media_type.endswith(API_TYPES)
    if is_of_api and VALIDATORS.isdisjoint(present):
        return pairs  # gets the default, `no-store`
    return [*pairs, REVALIDATED]


class GuardedApp:
    """An ASGI application behind the guard, for routes that are not of handlers. By default it serves every method."""

    def __init__(self, app: ASGIApp, guard: Guard, levels: Sequence[Mapping[str, Requirement]], default: Requirement):
        self._app = app
        self._guard = guard
        self._levels = levels
        self._default = default

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # In upper case, because an application may compare methods without regard to case.
        method = scope["method"].upper() if scope["type"] == "http" else "GET"
        requirement = for_method(method, *self._levels) or self._default
        if requirement.is_public:
            await self._app(scope, receive, send)
            return
        try:
            waits = self._guard.admit(scope, requirement)
            if waits is not None:
                await waits
        except HTTPException as error:
            if scope["type"] != "websocket" or "websocket.http.response" not in (scope.get("extensions") or {}):
                raise
            await send_problem(_denying(send), error)
            return
        await self._app(scope, receive, for_one_principal(send))


def _denying(send: Send) -> Send:
    """A `send` for the HTTP response that rejects the handshake of a WebSocket."""

    def deny(message: Message) -> Awaitable[None]:
        return send({**message, "type": f"websocket.{message['type']}"})

    return deny
