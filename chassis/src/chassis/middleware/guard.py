"""What keeps one request from hurting the service: limits, and an answer for everything that escapes."""

import asyncio
from collections.abc import Iterator

import structlog
from prometheus_client import Counter
from starlette.exceptions import HTTPException, WebSocketException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocketDisconnect

from ..context import CLIENT_DISCONNECTED, READ_AT
from ..problem import Problem, send_problem
from ..response_sender import ResponseSender
from .load_shedder import LoadShedder

log = structlog.get_logger()


class GuardMiddleware:
    """Limits a request and turns every failure into a problem document.

    `max_body_bytes` limits the request's body, declared or sent in chunks (413). `deadline_seconds`
    is the time until the answer begins: past it the handler is cancelled, its cleanup runs, and the
    client gets 504; an answer that has begun, such as a stream, may go on. `timed_out` counts them. A
    request whose client has gone is cancelled as well, by the server instance, and has status 499.
    `load` turns requests away when there are too many (503).
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        max_body_bytes: int,
        deadline_seconds: float,
        timed_out: Counter | None = None,
        load: LoadShedder | None = None,
    ) -> None:
        self.app = app
        self.max_body_bytes = max_body_bytes
        self._deadlines = Deadlines(deadline_seconds)
        self._timed_out = timed_out
        self._load = load

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] == "websocket":
            await self._guard_websocket(scope, receive, send)
            return

        outgoing = ResponseSender.of(send)
        load = self._load
        if load is not None:
            try:
                load.enter(scope.get(READ_AT))
            except Problem as problem:
                await send_problem(outgoing, problem)
                return
        deadlines = self._deadlines
        task: asyncio.Task[object] = asyncio.current_task()  # type: ignore[assignment]
        deadlines.set(task, outgoing)
        try:
            await self.app(scope, self._limit_body(scope, receive), outgoing)
        except asyncio.CancelledError as cancelled:
            if cancelled.args == (CLIENT_DISCONNECTED,):
                task.uncancel()
                return  # nobody is left to answer
            if outgoing.status:
                raise
            if deadlines.passed(task):
                task.uncancel()
                if self._timed_out is not None:
                    self._timed_out.inc()
                await send_problem(outgoing, Problem(504, "The answer took longer than the service allows."))
                return
            # Cancelled by the server instance, at its end.
            # The answer is the end of this task, so there is nothing that the cancellation must still reach.
            await send_problem(
                outgoing, Problem(503, "The service is stopping.", headers={"retry-after": "1", "connection": "close"})
            )
        except ClientDisconnect:
            return  # nobody is left to answer
        except Exception as error:
            if outgoing.status:
                raise  # half an answer can't be mended: the server closes the connection and logs the error
            await send_problem(outgoing, answer_to(error))
        finally:
            deadlines.clear(task)
            if load is not None:
                load.under_way -= 1

    def _limit_body(self, scope: Scope, receive: Receive) -> Receive:
        """Refuse a body that says it is too large, and watch one that doesn't say."""
        declared: bytes | None = None
        for name, value in scope["headers"]:
            if name == b"content-length":
                declared = value
                break
            if name == b"transfer-encoding":
                break
        else:
            return receive  # no body: nothing to watch
        if declared is not None and int(declared) > self.max_body_bytes:
            raise body_too_large(self.max_body_bytes)
        received = 0

        async def receive_limited() -> Message:
            nonlocal received
            message = await receive()
            if message["type"] == "http.request":
                received += len(message.get("body", b""))
                if received > self.max_body_bytes:
                    raise body_too_large(self.max_body_bytes)
            return message

        return receive_limited

    async def _guard_websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self.app(scope, receive, send)
        except WebSocketDisconnect:
            return  # the client has left, which is its right
        except WebSocketException as error:
            await send({"type": "websocket.close", "code": error.code, "reason": error.reason[:123]})
        except HTTPException as error:
            await send({"type": "websocket.close", "code": 1008, "reason": error.detail[:123]})
        except Exception:
            log.exception("unhandled exception in a websocket", path=scope["path"])
            await send({"type": "websocket.close", "code": 1011})  # RFC 6455, 7.4.1: internal error


class Deadlines:
    """One timer for all requests: they end in the order in which they began, since all have equal time."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._due: dict[asyncio.Task[object], tuple[float, ResponseSender]] = {}
        self._passed: set[asyncio.Task[object]] = set()
        self._timer: asyncio.TimerHandle | None = None

    def set(self, task: asyncio.Task[object], outgoing: ResponseSender) -> None:
        """Cancel `task` when its time is up, unless its answer has begun by then."""
        loop = asyncio.get_running_loop()
        due = loop.time() + self._seconds
        self._due[task] = (due, outgoing)
        if self._timer is None:
            self._timer = loop.call_at(due, self._cancel_overdue)

    def clear(self, task: asyncio.Task[object]) -> None:
        if self._due.pop(task, None) is None:
            self._passed.discard(task)

    def passed(self, task: asyncio.Task[object]) -> bool:
        """Whether `task` was cancelled by its deadline."""
        return task in self._passed

    def _cancel_overdue(self) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        self._timer = None
        while self._due:
            task, (due, outgoing) = next(iter(self._due.items()))
            if due > now:
                self._timer = loop.call_at(due, self._cancel_overdue)
                return
            del self._due[task]
            if not outgoing.status:
                self._passed.add(task)
                task.cancel("deadline")


def body_too_large(max_body_bytes: int) -> Problem:
    """413; the connection is closed because the rest of the body is not read (RFC 9110, 15.5.14)."""
    return Problem(
        413,
        f"The request's body is larger than {max_body_bytes} bytes.",
        headers={"connection": "close"},
        max_body_bytes=max_body_bytes,
    )


def answer_to(error: Exception) -> HTTPException:
    """What the client is told of `error`; an unexpected one is logged here, once, with its traceback."""
    if isinstance(error, HTTPException):
        return error
    if isinstance(error, ExceptionGroup):
        # A task group fails with a group, even for one expected failure.
        leaves = list(_leaves(error))
        expected = [leaf for leaf in leaves if isinstance(leaf, HTTPException)]
        if len(expected) == len(leaves):
            return expected[0]
    log.error("unhandled exception", exc_info=error)
    return Problem(500, "The service failed to answer; the error is in its log.")


def _leaves(group: ExceptionGroup[Exception]) -> Iterator[Exception]:
    for error in group.exceptions:
        if isinstance(error, ExceptionGroup):
            yield from _leaves(error)
        else:
            yield error
