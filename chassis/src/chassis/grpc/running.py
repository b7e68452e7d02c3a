"""Runs the method of one call: admitted, within its deadline, and with a status for whatever it raises."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from http import HTTPStatus
from inspect import isawaitable
from time import monotonic
from typing import Any

import grpc
from grpc import StatusCode
from structlog.contextvars import get_contextvars

from ..api.access import AUTHENTICATED, PUBLIC
from ..app import App
from ..middleware.failures import problem_of
from ..problem import Problem
from ..tasks import contained
from .call import Call
from .call_telemetry import CALLER, OWN
from .services import Handler, Method, behavior_of
from .status import PUSHBACK, Metadata, code_of, details_of, pushback_of

Context = grpc.aio.ServicerContext[Any, Any]

REQUEST_ID = "x-request-id"
# Client and server measure different durations for a call: the network delays its begin and its end differently.
DEADLINE_TOLERANCE_SECONDS = 0.05
NOT_FOUND = "The server has no such method."
TOO_LATE = "The service did not respond within the deadline of the call."
TOO_MANY = "The service has too many calls in progress; retry later."
STOPPING = "The service is stopping; retry later."
INVALID = "The message cannot be parsed."
SOON: Metadata = ((PUSHBACK, "1000"),)


class RejectedError(Exception):
    """The chassis responds to a call by itself; `args` are the code, the details, and trailing metadata."""


@dataclass(slots=True)
class Policy:
    """The limits and codes of all calls. `deadline_seconds` is for calls without streams."""

    max_calls: int
    deadline_seconds: float
    codes: Mapping[type[Exception], StatusCode] = field(default_factory=dict[type[Exception], StatusCode])
    """The exceptions whose code is not the one of their problem."""
    in_progress: int = 0


class Running:
    """A call whose method runs. Its handler replaces the one that the service has.

    Messages that are not streams are decoded and encoded here, because gRPC would send the client details of a failure.
    """

    def __init__(self, call: Call, method: Method | None, handler: Handler, app: App, policy: Policy) -> None:
        """`method` is None for one that the server does not have. `handler` may be that of an owner's interceptor."""
        self._call = call
        self._method = method
        self._handler = handler
        self._behavior = behavior_of(handler)
        self._app = app
        self._policy = policy

    def handler(self) -> Handler:
        """The handler for gRPC, of the kind that the service has."""
        if not self._handler.request_streaming:
            if not self._handler.response_streaming:
                return grpc.unary_unary_rpc_method_handler(self._unary_unary)
            return grpc.unary_stream_rpc_method_handler(self._unary_stream, None, self._encode)
        if not self._handler.response_streaming:
            return grpc.stream_unary_rpc_method_handler(self._stream_unary, self._decode)
        return grpc.stream_stream_rpc_method_handler(self._stream_stream, self._decode, self._encode)

    async def _unary_unary(self, raw: bytes, context: Context) -> bytes:
        limit = self._policy.deadline_seconds
        return await self._run(context, lambda: self._respond(self._decode(raw), context), limit)

    async def _stream_unary(self, messages: AsyncIterator[Any], context: Context) -> bytes:
        return await self._run(context, lambda: self._respond(messages, context))

    async def _unary_stream(self, raw: bytes, context: Context) -> None:
        await self._run(context, lambda: self._write_all(self._decode(raw), context))

    async def _stream_stream(self, messages: AsyncIterator[Any], context: Context) -> None:
        await self._run(context, lambda: self._write_all(messages, context))

    def _decode(self, raw: bytes) -> Any:
        self._call.count_request(len(raw))
        decode = self._handler.request_deserializer
        if decode is None:
            return raw
        try:
            return decode(raw)
        except Exception:  # noqa: BLE001 - the library of the messages may raise any exception
            raise Problem(HTTPStatus.BAD_REQUEST, INVALID) from None

    def _encode(self, message: Any) -> bytes:
        encode = self._handler.response_serializer
        raw: bytes = message if encode is None else encode(message)
        self._call.count_response(len(raw))
        return raw

    async def _respond(self, request: Any, context: Context) -> bytes:
        response = self._behavior(request, context)
        if isawaitable(response):
            response = await response
        return self._encode(response) if code_set(context) is None else b""

    async def _write_all(self, request: Any, context: Context) -> bytes:
        responses = self._behavior(request, context)
        if isawaitable(responses):  # it writes by itself, with `context.write`
            await responses
            return b""
        async with aclosing(responses):
            async for response in responses:
                await context.write(response)
        return b""

    async def _run(
        self, context: Context, work: Callable[[], Awaitable[bytes]], own_seconds: float | None = None
    ) -> bytes:
        """The result of `work`, or the status for what it raises. gRPC ignores the result of a call with a status."""
        call = self._call
        call.peer = context.peer()
        context.set_trailing_metadata(((REQUEST_ID, call.context.request_id),))
        timeout = asyncio.timeout(self._set_deadline(context, own_seconds))
        try:
            async with timeout:
                result = await contained(self._admitted(work))
            call.code = code_set(context) or StatusCode.OK
            self._keep_request_id(context)
            return result
        except grpc.aio.AbortError:
            call.code = code_set(context)
            raise
        except asyncio.CancelledError:
            await self._end_cancelled(context)
            raise
        except Exception as error:
            if context.done():  # by `context.abort`; the exception comes from the cleanup after it
                self._end_aborted(context, error)
                return b""
            is_late = isinstance(error, TimeoutError) and timeout.expired()
            await self._abort(context, *self._late(context) if is_late else self._status_of(error, context))
            raise
        finally:
            call.bound_facts = get_contextvars()

    async def _admitted(self, work: Callable[[], Awaitable[bytes]]) -> bytes:
        method, policy = self._method, self._policy
        if method is not None and method.is_probe:
            return await work()
        if policy.in_progress >= policy.max_calls:
            raise RejectedError(StatusCode.RESOURCE_EXHAUSTED, TOO_MANY, SOON)
        policy.in_progress += 1
        leave: Callable[[], None] | None = None
        try:
            if not self._call.is_stream:
                leave = await self._enter()
            control = self._app.parts.access_control
            requirement = PUBLIC if method is None else method.requirement or AUTHENTICATED
            if control is not None and not requirement.is_public:
                waits = control.guard.admit(self._call.scope(self._app), requirement)
                if waits is not None:
                    await waits
            return await work()
        finally:
            policy.in_progress -= 1
            if leave is not None:
                leave()

    async def _enter(self) -> Callable[[], None]:
        """Wait for CPU together with requests. Returns the function to call at the end of the call.

        gRPC does not tell how long a call has waited in its own queue. So the wait begins here.
        """
        load_shedder = self._app.load_shedder
        waits = load_shedder.enter(monotonic())
        if waits is None:
            return load_shedder.leave
        problem = await waits
        if problem is not None:
            raise problem
        return load_shedder.leaver()

    def _set_deadline(self, context: Context, own_seconds: float | None) -> float | None:
        """Note when the call must end. Returns the seconds until then, if gRPC does not end it by itself."""
        remaining = context.time_remaining()
        seconds = min((limit for limit in (remaining, own_seconds) if limit is not None), default=None)
        if seconds is not None:
            self._call.info.deadline_at = monotonic() + seconds
        return own_seconds if seconds == own_seconds else None

    async def _end_cancelled(self, context: Context) -> None:
        """Note why the task of the call was cancelled: by gRPC, or at the end of a graceful shutdown."""
        call = self._call
        if call.is_stopped and not context.done():
            if call.task is not None:
                call.task.uncancel()
            await self._abort(context, StatusCode.UNAVAILABLE, STOPPING, SOON)
        remaining = context.time_remaining()
        is_late = remaining is not None and remaining <= DEADLINE_TOLERANCE_SECONDS
        call.deadline = CALLER if is_late else ""
        call.code = StatusCode.DEADLINE_EXCEEDED if is_late else StatusCode.CANCELLED

    def _end_aborted(self, context: Context, error: Exception) -> None:
        self._call.code = code_set(context)
        if not is_abort(error):
            problem_of(error, self._call.info, self._app.parts.problems)

    def _late(self, context: Context) -> tuple[StatusCode, str, Metadata]:
        self._call.deadline = OWN
        return StatusCode.DEADLINE_EXCEEDED, TOO_LATE, ()

    def _status_of(self, error: Exception, context: Context) -> tuple[StatusCode, str, Metadata]:
        """The status for an exception. An unexpected one is logged here, once."""
        if isinstance(error, RejectedError):
            code, details, metadata = error.args
            return code, details, metadata
        if is_lost(error):
            self._call.code = StatusCode.CANCELLED
            raise error
        if isinstance(error, NotImplementedError) and code_set(context) is StatusCode.UNIMPLEMENTED:
            return StatusCode.UNIMPLEMENTED, NOT_FOUND, ()  # a method of generated code
        for base in type(error).__mro__:
            if base in self._policy.codes:
                return self._policy.codes[base], str(error), ()
        problem = problem_of(error, self._call.info, self._app.parts.problems)
        return code_of(problem.status_code), details_of(problem), pushback_of(problem)

    async def _abort(self, context: Context, code: StatusCode, details: str, metadata: Metadata) -> None:
        """End the call with a status. Raises gRPC's `AbortError`."""
        self._call.code = code
        self._keep_request_id(context)
        await context.abort(code, details, (*trailing_of(context), *metadata))

    def _keep_request_id(self, context: Context) -> None:
        """Add the request id again, if the method has replaced the metadata."""
        metadata = trailing_of(context)
        if not any(name == REQUEST_ID for name, _ in metadata):
            context.set_trailing_metadata((*metadata, (REQUEST_ID, self._call.context.request_id)))


def failing(error: Exception | None) -> Handler:
    """A handler that reads nothing and raises `error`; by default, that the server has no such method."""

    async def fail(_messages: object, _context: object) -> None:
        raise error or RejectedError(StatusCode.UNIMPLEMENTED, NOT_FOUND, ())

    return grpc.stream_stream_rpc_method_handler(fail)


def trailing_of(context: Context) -> Metadata:
    """The metadata that is sent at the end."""
    return tuple((name, value) for name, value in context.trailing_metadata() or ())


def code_set(context: Context) -> StatusCode | None:
    """The status that the method has set; None for success."""
    code = context.code()
    if isinstance(code, int):  # as protobuf represents it
        code = next((known for known in StatusCode if known.value[0] == code), StatusCode.UNKNOWN)
    return None if code is StatusCode.OK else code


def is_abort(error: BaseException) -> bool:
    """Whether an exception only says that the method has called `context.abort`, also inside of a group."""
    if isinstance(error, BaseExceptionGroup):
        return all(is_abort(inner) for inner in error.exceptions)
    return isinstance(error, grpc.aio.AbortError)


def is_lost(error: Exception) -> bool:
    """Whether the client has left while a message was being sent to it, or received from it."""
    return isinstance(error, grpc.aio.BaseError) and not isinstance(error, grpc.aio.UsageError | grpc.aio.InternalError)
