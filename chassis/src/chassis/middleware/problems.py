"""Problem responses inside of the owner's middleware."""

import asyncio
from collections.abc import Mapping

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send

from ..problem import ProblemOf, send_problem
from ..request_info import REQUEST_INFO, RequestInfo
from ..response_sender import ResponseSender
from .failures import deadline_problem, is_cancelled_from_outside, is_disconnect, is_reported, problem_of


class ProblemMiddleware:
    """Innermost: responds with a problem document to exceptions of the router and the handlers.

    So the middleware between this and the guard (CORS, sessions, compression) sees these responses, like all others.
    An unexpected exception is raised again after its response, as Starlette's `ServerErrorMiddleware` does, so that
    middleware that reports errors (Sentry) or rolls something back sees it too. Expected ones are not.
    A request that the guard rejects also gets its response here, without a handler.
    The guard itself responds when a client disconnects, when the service stops, and to exceptions of the middleware.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        problems: Mapping[type[Exception], ProblemOf] | None = None,
        sends_rejections: bool = True,
    ) -> None:
        """`sends_rejections` is false if another one inside of it does so."""
        self.app: ASGIApp = app
        self._sends_rejections = sends_rejections
        self._problems = dict(problems or {})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        info: RequestInfo = scope.get(REQUEST_INFO) or RequestInfo.of(scope)
        if info.rejection is not None and self._sends_rejections:
            await send_problem(send, info.rejection)
            return
        sender = ResponseSender.of(send)
        try:
            await self.app(scope, receive, sender)
        except (Exception, asyncio.CancelledError) as error:
            if sender.status or is_disconnect(error, info):
                raise
            problem: HTTPException | None = None
            if isinstance(error, asyncio.CancelledError):
                problem = deadline_problem(info)
                if problem is None and is_cancelled_from_outside():
                    raise
            await send_problem(sender, problem or problem_of(error, info, self._problems))
            if isinstance(error, Exception) and is_reported(error, info):
                raise
