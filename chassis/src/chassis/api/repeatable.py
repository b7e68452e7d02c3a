"""`repeatable`: a method whose request is handled again after a conflict, such as a deadlock of its transaction."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, overload

import structlog
from structlog.typing import FilteringBoundLogger

from ..context import annotate

log: FilteringBoundLogger = structlog.get_logger()

DEFAULT_ATTEMPTS = 3
FIRST_DELAY_SECONDS = 0.02

Method = TypeVar("Method", bound=Callable[..., Any])
Result = TypeVar("Result")


class RepeatableError(Exception):
    """Nothing was done, and the same request may succeed when it is handled again.

    A dependency raises it, such as a transaction that was rolled back because of a conflict with another one.
    """


@overload
def repeatable(method: Method) -> Method: ...


@overload
def repeatable(*, attempts: int = DEFAULT_ATTEMPTS) -> Callable[[Method], Method]: ...


def repeatable(
    method: Method | None = None, *, attempts: int = DEFAULT_ATTEMPTS
) -> Method | Callable[[Method], Method]:
    """Declare that a handler's method may be called again for the same request, after a `RepeatableError`.

        @repeatable
        async def post(self, body: NewTransfer, transaction: Transaction) -> Transfer: ...

    Each attempt gets new dependencies, and so a new transaction. The arguments from the request are the same objects:
    do not change them. Everything that the method does outside of its transaction, such as calls to other services, is
    done in each attempt. The delay between attempts grows and is random. The request's deadline limits all attempts.

    `attempts` is the number of calls in all. After the last one the error is raised. Raises `ValueError` if `attempts`
    is less than 1.
    """
    if attempts < 1:
        raise ValueError(f"attempts is {attempts}; it must be 1 or more")

    def mark(decorated: Method) -> Method:
        decorated.__repeatable__ = attempts  # type: ignore[attr-defined]
        return decorated

    return mark if method is None else mark(method)


def attempts_of(method: Callable[..., Any]) -> int:
    """How often a method may be called for one request: 1 without `repeatable`."""
    attempts = getattr(method, "__repeatable__", 1)
    return attempts if isinstance(attempts, int) else 1


async def repeat(attempt: Callable[[], Awaitable[Result]], attempts: int, name: str) -> Result:
    """Call `attempt` until it does not raise `RepeatableError`, at most `attempts` times. `name` is for the log."""
    for number in range(1, attempts):
        try:
            return await attempt()
        except RepeatableError as error:
            log.info("request is handled again", handler=name, attempt=number, reason=str(error))
            annotate(attempts=number + 1)
        # Random, because two requests in conflict would otherwise meet again.
        await asyncio.sleep(FIRST_DELAY_SECONDS * 2 ** (number - 1) * (0.5 + random.random()))  # noqa: S311 - no secret
    return await attempt()
