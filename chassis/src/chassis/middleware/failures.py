"""The problem documents for exceptions of handlers and middleware."""

import asyncio
from collections.abc import Iterator, Mapping

import structlog
from opentelemetry import context as otel_context
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from structlog.typing import FilteringBoundLogger

from ..context import annotate, request_context
from ..problem import Problem, ProblemOf
from ..request_info import CALLER_DEADLINE, NOT_BEGUN, OWN_DEADLINE, RequestInfo

log: FilteringBoundLogger = structlog.get_logger()

PASSED = {
    OWN_DEADLINE: "The service did not respond before the request's deadline.",
    CALLER_DEADLINE: "The service did not respond within the time that x-request-timeout-ms allows.",
    NOT_BEGUN: "The time that x-request-timeout-ms allows was over before the service began with the request.",
}


def problem_of(error: BaseException, info: RequestInfo, problems: Mapping[type[Exception], ProblemOf]) -> HTTPException:
    """The response to `error`; an unexpected one is logged here, once, with its traceback, and noted in `info`.

    `problems` maps each expected exception that is not an `HTTPException` to its response.
    """
    if info.timed_out_task is not None:
        deadline_problem(info)  # a handler may turn its cancellation into another exception; the cancellation ends too
    # A task group raises an exception group, even for one expected failure.
    leaves = list(_leaves(error)) if isinstance(error, ExceptionGroup) else [error]
    expected = [problem for leaf in leaves if (problem := _expected(leaf, problems)) is not None]
    if len(expected) == len(leaves):
        return expected[0]
    record_failure(error, info)
    info.reported = id(error)  # not the exception, whose frames refer to `info`
    log.error("unhandled exception", exc_info=error)
    return Problem(500, "The service failed to handle the request; the error is in its log.")


def record_failure(error: BaseException, info: RequestInfo) -> None:
    """Let the metrics and the span of the current request name the unexpected exception that ended it, once."""
    if info.error is not None:
        return
    info.error = type(error)
    context = request_context(otel_context.get_current())
    if context is not None and context.sampled:
        context.span.record_exception(error)


def is_reported(error: BaseException, info: RequestInfo) -> bool:
    """Whether `error` has its log line and its response, and is raised only to be seen by the layers outside.

    Middleware that reports errors, or that rolls something back, needs to see them. A task group of a middleware
    wraps them.
    """
    if id(error) == info.reported:
        return True
    return isinstance(error, BaseExceptionGroup) and all(is_reported(inner, info) for inner in error.exceptions)


def deadline_problem(info: RequestInfo) -> Problem | None:
    """504 if the current task was cancelled by the deadline of its request, else None.

    The cancellation ends here (`Task.uncancel`), so that the layers outside can go on. A task that a middleware
    started for its own part of the request is cancelled by that middleware, and gets None.
    """
    task = asyncio.current_task()
    if task is None or task is not info.timed_out_task:
        return None
    info.timed_out_task = None
    task.uncancel()
    return timed_out_problem(info.timed_out)


def timed_out_problem(reason: str) -> Problem:
    """504, for the deadline that has passed. The access line names that of a caller."""
    if reason != OWN_DEADLINE:
        annotate(deadline=reason)
    return Problem(504, PASSED[reason])


def is_cancelled_from_outside() -> bool:
    """Whether the server, or a timeout of a middleware, has cancelled the current task.

    Otherwise a `CancelledError` comes from a task that the handler awaited and other code cancelled. That is a failure
    of the handler like any other exception.
    """
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def is_disconnect(error: BaseException, info: RequestInfo) -> bool:
    """Whether `error` only means that the client has disconnected, also inside of an exception group."""
    if isinstance(error, BaseExceptionGroup):
        return all(is_disconnect(inner, info) for inner in error.exceptions)
    return isinstance(error, ClientDisconnect) or (info.client_has_gone and isinstance(error, asyncio.CancelledError))


def _expected(error: BaseException, problems: Mapping[type[Exception], ProblemOf]) -> HTTPException | None:
    if isinstance(error, HTTPException):
        return error
    for base in type(error).__mro__:
        problem = problems.get(base)
        if isinstance(problem, int):
            return Problem(problem, str(error))
        if problem is not None:
            try:
                return problem(error)
            except Exception:
                log.exception("exception could not be mapped to a problem", error=type(error).__qualname__)
                return None
    return None


def _leaves(group: ExceptionGroup[Exception]) -> Iterator[Exception]:
    for error in group.exceptions:
        if isinstance(error, ExceptionGroup):
            yield from _leaves(error)
        else:
            yield error
