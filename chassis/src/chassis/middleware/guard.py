"""Limits that keep one request from harming the service, and problem responses to exceptions."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from time import monotonic

import structlog
from prometheus_client import Counter
from starlette.exceptions import HTTPException, WebSocketException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocketDisconnect
from structlog.typing import FilteringBoundLogger

from ..problem import Problem, ProblemOf, send_problem
from ..request_info import NOT_BEGUN, REQUEST_INFO, RequestInfo, body_too_large
from ..response_sender import ResponseSender
from ..route_limits import NO_LIMITS, RouteLimits
from .deadlines import CallerDeadlines, Deadlines
from .failures import (
    deadline_problem,
    is_cancelled_from_outside,
    is_disconnect,
    is_reported,
    problem_of,
    record_failure,
    timed_out_problem,
)
from .load_shedder import LoadShedder

log: FilteringBoundLogger = structlog.get_logger()

POLICY_VIOLATION, INTERNAL_ERROR = 1008, 1011  # RFC 6455, section 7.4.1
MAX_REASON_BYTES = 123  # the most that a control frame can hold (RFC 6455, section 5.5)

LimitsOf = Callable[[Scope], RouteLimits | None]


class GuardMiddleware:
    """Limits a request, and responds with a problem document to exceptions of the layers inside.

    `max_body_bytes` limits the request's body, whether its size is declared or not (413). `deadline_seconds` is the
    time until the response starts, without the time in which the handler waits for the body. Then the handler is
    cancelled, its cleanup runs, and the client gets 504. A response that has started, such as a stream, may continue.
    A caller can shorten the time of its request with the header `x-request-timeout-ms`. A request whose time is over
    already is not begun (504). `timed_out` counts both, by `reason`. `load_shedder` rejects requests under overload
    (503). A request whose client disconnects is cancelled by the server and has status 499.

    `problems` is the status of each expected exception that is not an `HTTPException`, whose text becomes the detail,
    or a function that makes the problem.

    `limits_of` finds the limits of the request's route, where routes have limits of their own.

    With `forwards_rejections`, a request that the guard rejects still passes through the layers inside, so that
    middleware there sees the response. It is noted in `RequestInfo.rejection`, and a `ProblemMiddleware` inside of
    that middleware sends the response.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        max_body_bytes: int,
        deadline_seconds: float,
        timed_out: Counter | None = None,
        load_shedder: LoadShedder | None = None,
        problems: Mapping[type[Exception], ProblemOf] | None = None,
        forwards_rejections: bool = False,
        limits_of: LimitsOf | None = None,
    ) -> None:
        self.app: ASGIApp = app
        self._max_body_bytes = max_body_bytes
        self._timed_out = timed_out
        self._deadlines_by_seconds: dict[float, Deadlines] = {}
        self._deadlines = self._deadlines_within(deadline_seconds)
        self._caller_deadlines = CallerDeadlines(timed_out)
        self._limits_of = limits_of
        self._load_shedder = load_shedder
        self._problems = dict(problems or {})
        self._forwards_rejections = forwards_rejections

    def set_limits(self, *, max_body_bytes: int, deadline_seconds: float) -> None:
        """Use other limits for requests that begin from now on."""
        self._max_body_bytes = max_body_bytes
        self._deadlines = self._deadlines_within(deadline_seconds)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._guard_websocket(scope, receive, send)
            return
        info: RequestInfo = scope.get(REQUEST_INFO) or RequestInfo.of(scope)
        sender = send if isinstance(send, ResponseSender) else ResponseSender(send)
        load_shedder, deadlines, max_body_bytes = self._load_shedder, self._deadlines, self._max_body_bytes
        if self._limits_of is not None:
            limits = self._limits_of(scope) or NO_LIMITS
            load_shedder = load_shedder if limits.sheds_load else None
            if limits.deadline_seconds is not None:
                deadlines = self._deadlines_within(limits.deadline_seconds)
            if limits.max_body_bytes is not None:
                max_body_bytes = limits.max_body_bytes
        leave: Callable[[], None] | None = None
        task: asyncio.Task[object] = asyncio.current_task()  # type: ignore[assignment]
        deadlines.set(task, sender, info)
        try:
            problem = None if info.timeout_field is None else self._limit_by_caller(task, sender, info)
            if load_shedder is not None and problem is None:
                waits = load_shedder.enter(info.read_at)
                if waits is not None:
                    problem = await self._wait(waits, load_shedder, task, info)
                if problem is None:
                    leave = load_shedder.leave if waits is None else load_shedder.leaver()
                    sender.on_leave = leave  # work after the response is not counted
            if problem is not None:
                if not self._forwards_rejections:
                    await send_problem(sender, problem)
                    return
                info.rejection = problem
            if info.has_body:
                receive = self._limit_body(info, receive, max_body_bytes)
            await self.app(scope, receive, sender)
            # Other servers respond for an application that does not. Only ours reports a client that disconnects.
            if not (sender.is_complete or info.client_has_gone or info.read_at is None):
                raise RuntimeError("ASGI application returned without completing its response")
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - all of them get a response, or are raised
            await self._respond(error, info, sender, task)
        finally:
            deadlines.clear(task)
            info.deadline_at = info.response = None  # what continues without its client has no deadline
            if info.caller_deadline_at is not None:
                info.caller_deadline_at = None
                self._caller_deadlines.clear(task)
            if leave is not None and not sender.is_complete:
                leave()

    async def _respond(
        self, error: BaseException, info: RequestInfo, sender: ResponseSender, task: asyncio.Task[object]
    ) -> None:
        """Respond to an exception, or raise it if the response has started."""
        if sender.is_complete and is_reported(error, info):
            if info.read_at is None:
                raise error  # for what wraps the app behind another server, after the response, as Starlette does
            return
        if is_disconnect(error, info):
            if task.cancelling():
                task.uncancel()
            return  # the client has disconnected
        if sender.status and not info.holds_head:
            raise error  # the response is incomplete: the server closes the connection
        problem: HTTPException | None = None
        if isinstance(error, asyncio.CancelledError):
            problem = deadline_problem(info) or (stopping() if is_cancelled_from_outside() else None)
        problem = problem or problem_of(error, info, self._problems)
        if info.holds_head:
            info.replaces_head = True
            sender.status = 0
        if not info.client_has_gone:
            with suppress(ClientDisconnect):
                await send_problem(sender, problem)
        if info.read_at is None and is_reported(error, info):
            raise error

    def _deadlines_within(self, seconds: float) -> Deadlines:
        deadlines = self._deadlines_by_seconds.get(seconds)
        if deadlines is None:
            deadlines = self._deadlines_by_seconds[seconds] = Deadlines(seconds, self._timed_out)
        return deadlines

    def _limit_by_caller(self, task: asyncio.Task[object], sender: ResponseSender, info: RequestInfo) -> Problem | None:
        """Set the deadline that the caller has handed on. Returns a problem if it has passed, else None."""
        seconds = info.caller_seconds()
        if seconds is None:
            return None
        now = monotonic()
        at = (now if info.read_at is None else info.read_at) + seconds
        if at <= now:
            return self._rejection_of_late(info)
        if info.deadline_at is None or at < info.deadline_at or info.has_body:  # uploads defer the service's own
            self._caller_deadlines.set(task, sender, info, at)
        return None

    async def _wait(
        self,
        waits: Awaitable[Problem | None],
        load_shedder: LoadShedder,
        task: asyncio.Task[object],
        info: RequestInfo,
    ) -> Problem | None:
        """Wait until the load shedder admits the request. Returns the problem with which it is rejected, else None."""
        info.is_queued = True
        problem = await waits
        info.is_queued = False
        if problem is None and info.caller_deadline_at is not None and info.caller_deadline_at <= monotonic():
            self._caller_deadlines.clear(task)
            load_shedder.leaver()()
            return self._rejection_of_late(info)
        return problem

    def _rejection_of_late(self, info: RequestInfo) -> Problem:
        info.timed_out = NOT_BEGUN
        if self._timed_out is not None:
            self._timed_out.labels(NOT_BEGUN).inc()
        return timed_out_problem(NOT_BEGUN)

    def _limit_body(self, info: RequestInfo, receive: Receive, limit: int) -> Receive:
        """Reject a body whose declared size is too large, and count one while it is received."""
        if info.max_body_bytes is None or limit < info.max_body_bytes:
            info.max_body_bytes = limit
        if info.content_length is not None and info.content_length > limit:
            if not self._forwards_rejections:
                raise body_too_large(limit)
            info.rejection = info.rejection or body_too_large(limit)
        return receive if info.is_counted else info.counting(receive)

    async def _guard_websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "websocket":
            await self.app(scope, receive, send)
            return
        try:
            await self.app(scope, receive, send)
        except (ClientDisconnect, WebSocketDisconnect):
            return  # the client may disconnect at any time
        except WebSocketException as error:
            await _close(send, error.code, error.reason)
        except HTTPException as error:
            await _close(send, POLICY_VIOLATION, error.detail)
        except Exception as error:
            info = RequestInfo.of(scope)
            record_failure(error, info)
            info.is_logged = True
            log.exception("unhandled exception in websocket", path=scope["path"])
            await _close(send, INTERNAL_ERROR)


async def _close(send: Send, code: int, reason: str = "") -> None:
    """Close the WebSocket, unless it is closed already: then servers raise one of these errors."""
    reason = reason.encode()[:MAX_REASON_BYTES].decode(errors="ignore")
    with suppress(RuntimeError, OSError):
        await send({"type": "websocket.close", "code": code, "reason": reason})


def stopping() -> Problem:
    """503 for a request that the server cancels at the end of a graceful shutdown.

    The cancellation is not ended with `Task.uncancel`: the response is the end of the request's task.
    """
    return Problem(503, "The service is stopping; retry later.", headers={"retry-after": "1", "connection": "close"})
