"""Calls the function of a command: its arguments, its dependencies, its span and its log lines."""

import asyncio
import inspect
import time
from collections.abc import Hashable, Mapping, Sequence
from contextlib import AsyncExitStack
from functools import partial
from typing import Any

import structlog
from opentelemetry import context as otel_context
from opentelemetry.trace import Span, Status, StatusCode, set_span_in_context
from starlette.requests import Request
from structlog.typing import FilteringBoundLogger

from ..api.callables import innermost
from ..api.request_tasks import RequestTasks
from ..app import App
from ..command import Command
from ..health import is_async
from ..request_info import RequestInfo
from ..tasks import contained
from ..telemetry.error_type import record_failure
from ..threads import in_thread
from ..work_scope import scope_of_work
from .arguments import Arguments
from .parser import parser_for

log: FilteringBoundLogger = structlog.get_logger()

FAILED = 1
MAX_STATUS = 255


class Execution:
    """A command with its arguments, for an app that is open.

    `words` follow its name on the command line. Raises `UsageError` if they are wrong, and `SignatureError` for a
    function whose parameters are neither arguments nor provided.
    """

    def __init__(self, app: App, command: Command, words: Sequence[str]) -> None:
        self._app = app
        self._name = command.name
        self._function = command.function
        self._arguments = arguments_of(app, command)
        self._values = self._arguments.bind(vars(parser_for(self._arguments).parse(words)))

    async def run(self) -> int:
        """Call the function, in a span that is the root of a trace. Returns the exit status."""
        span = self._app.telemetry.tracing.begin_task(self._name)
        token = otel_context.attach(set_span_in_context(span, otel_context.Context()))
        began = time.monotonic()
        try:
            with structlog.contextvars.bound_contextvars(command=self._name):
                status = await self._observed(span)
                if status == 0:
                    log.info("command done", duration_ms=round((time.monotonic() - began) * 1000, 3))
                return status
        finally:
            span.end()
            otel_context.detach(token)

    async def _observed(self, span: Span) -> int:
        try:
            result = await self._call_provided()
        except asyncio.CancelledError:
            record_failure(span, asyncio.CancelledError("the command was stopped"))
            raise
        except SystemExit as error:
            status = error.code if isinstance(error.code, int) else FAILED
            reason = None if isinstance(error.code, int) else str(error.code)
            log.error("command failed", status=status, **({} if reason is None else {"reason": reason}))
            record_failure(span, error)
            return _status_of(status)
        except Exception as error:
            log.exception("command failed", status=FAILED)
            record_failure(span, error)
            return FAILED
        status = _status_of(result)
        if status:
            log.error("command failed", status=status)
            span.set_status(Status(StatusCode.ERROR))
        return status

    async def _call_provided(self) -> object:
        """Call the function. The background tasks of `RequestTasks` start when its dependencies have exited."""
        provided: dict[Hashable, Any] = {Request: request_of(self._app, self._name)}
        try:
            result = await self._call_within(provided)
        except BaseException:
            if RequestTasks in provided:
                provided[RequestTasks].discard()
            raise
        if RequestTasks in provided:
            provided[RequestTasks].begin()
        return result

    async def _call_within(self, provided: dict[Hashable, Any]) -> object:
        arguments = {**self._values, **self._arguments.constants}
        failure: BaseException = RuntimeError(f"the command {self._name} was not called")
        async with AsyncExitStack() as stack:
            try:
                await self._arguments.dependencies.fill(arguments, provided, stack)
                return _unless_exit(await contained(self._call(arguments)))
            except BaseException as error:
                failure = error
                raise
        raise failure  # a provider has suppressed it

    async def _call(self, arguments: Mapping[str, Any]) -> object:
        """Call the function. `SystemExit` is returned, because it must not pass through the event loop."""
        call = partial(self._function, **arguments)
        try:
            if is_async(self._function) or inspect.iscoroutinefunction(innermost(self._function)):
                result: object = call()
            else:
                result = await self._in_thread(call)
            return await result if inspect.isawaitable(result) else result
        except SystemExit as error:
            return error

    async def _in_thread(self, call: "partial[object]") -> object:
        """Call a `def` in a thread. It cannot be cancelled, but it may read `app.draining`."""

        def exiting() -> object:
            try:
                return call()
            except SystemExit as error:
                return error

        future = asyncio.wrap_future(in_thread(exiting, name="command"))
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            # Its resources stay open meanwhile. `run_process` limits the time.
            await asyncio.wait({future})
            raise


def arguments_of(app: App, command: Command) -> Arguments:
    """The parameters of a command of the app. Raises `SignatureError` for one without a source."""
    constants: dict[Hashable, object] = dict.fromkeys(type(app.settings).__mro__, app.settings)
    return Arguments(command, app.parts.providers, {**constants, App: app})


def request_of(app: App, name: str) -> Request:
    """A request that stands for a command, for providers that need one: a POST without headers and deadline."""
    return Request(scope_of_work("command", f"/{name}", RequestInfo(), app))


def _unless_exit(result: object) -> object:
    """The result. `SystemExit` is raised, so that a transaction is rolled back, unless it is a success."""
    if isinstance(result, SystemExit):
        if result.code in (None, 0):
            return None
        raise result
    return result


def _status_of(result: object) -> int:
    """The exit status: an `int` that a process can have; anything else that a function returns is a success."""
    if not isinstance(result, int) or isinstance(result, bool):
        return 0
    return result if 0 <= result <= MAX_STATUS else FAILED
