"""The errors of the database that a service meets, and which errors of asyncpg they are."""

from collections.abc import Callable
from typing import Any

import asyncpg

from ..api.repeatable import RepeatableError
from ..problem import Problem
from ..unavailable import UnavailableError


class DatabaseError(Exception):
    """An error of the database that is not an error of one query, such as a constraint that is violated."""


class DatabaseUnavailableError(DatabaseError, UnavailableError):
    """The server cannot be reached, does not accept connections, or has closed the connection. The response is 503.

    If a commit raises it, the transaction may have been committed or not.
    """


class PoolExhaustedError(DatabaseUnavailableError):
    """All connections of the pool were in use for `database_pool_wait_seconds`. The response is 503."""


class StatementTimeoutError(DatabaseUnavailableError):
    """A statement took longer than `database_statement_seconds`, or than the deadline allows. The response is 503."""

    is_outage = False


class ConflictError(DatabaseError, RepeatableError):
    """The transaction was rolled back because of another one: a serialization failure or a deadlock.

    A method with `@repeatable` is called again. Otherwise, and after its last attempt, the response is 503.
    """


class TransactionFailedError(DatabaseError):
    """A query had failed, its error was caught, and the transaction was used further. Nothing was written.

    PostgreSQL rolls such a transaction back at its commit. Use `transaction.savepoint()` around a query that may fail.
    After a query that was interrupted, by a timeout or a cancellation, the transaction cannot be used.
    """


class InvalidValueError(DatabaseError):
    """A value does not fit its type in the database.

    Examples are NUL or a lone surrogate in a text, a text that is too long, and a number or time that is out of range.
    The response is 422. Nothing is done by this query. Use `transaction.savepoint()` to go on after it.
    """


# 40001 and 40P01. The last two: a migration has changed a type that this connection had cached.
CONFLICTS = (
    asyncpg.SerializationError,
    asyncpg.DeadlockDetectedError,
    asyncpg.InvalidCachedStatementError,
    asyncpg.OutdatedSchemaCacheError,
)
# 57014: by `statement_timeout`, or by an administrator. asyncpg raises TimeoutError at its own timeout.
TIMEOUTS = (TimeoutError, asyncpg.QueryCanceledError)
# 08…, 57P01 (the server stops), 57P02 (it crashed), 25P03 (idle in a transaction for too long). asyncpg raises
# InternalClientError for a query that begins just when the server has ended the connection.
UNAVAILABLE = (
    OSError,
    asyncpg.PostgresConnectionError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.IdleInTransactionSessionTimeoutError,
    asyncpg.InternalClientError,
)
# The errors of a query if the session had ended before it.
BETWEEN_STATEMENTS = (asyncpg.InterfaceError, asyncpg.IdleInTransactionSessionTimeoutError)

# asyncpg rejects other values before it sends them. Examples of 22P02 are NaN in `jsonb`, and a name that an enum does
# not have. 54000 is a text that is too long for its index.
INVALID_VALUES = (
    asyncpg.InvalidTextRepresentationError,
    asyncpg.StringDataRightTruncationError,
    asyncpg.CharacterNotInRepertoireError,
    asyncpg.UntranslatableCharacterError,
    asyncpg.NumericValueOutOfRangeError,
    asyncpg.DatetimeFieldOverflowError,
    asyncpg.ProgramLimitExceededError,
)


def translated(error: Exception, *, is_closed: bool, may_write: bool) -> DatabaseError | None:
    """The `DatabaseError` that stands for an error of asyncpg; None for an error of the query itself.

    `is_closed` says whether the connection is closed, and `may_write` whether the transaction is not read-only.
    """
    if isinstance(error, INVALID_VALUES) or _is_out_of_range(error):
        return InvalidValueError("a value does not fit its type in the database")
    if isinstance(error, CONFLICTS):
        return ConflictError(f"{type(error).__name__}: {error.args[0]}")
    if isinstance(error, TIMEOUTS):
        return StatementTimeoutError("the statement did not end in time")
    if is_closed and isinstance(error, BETWEEN_STATEMENTS):
        ended = DatabaseUnavailableError(f"{type(error).__name__}: {error}")
        ended.is_outage = False  # the server may have ended the session because it was idle in a transaction
        return ended
    if isinstance(error, UNAVAILABLE):
        return DatabaseUnavailableError(f"{type(error).__name__}: {error}")
    if may_write and isinstance(error, asyncpg.ReadOnlySQLTransactionError):
        return DatabaseUnavailableError("the server is read-only; it may have been the primary before a failover")
    return None


def _is_out_of_range(error: Exception) -> bool:
    """Whether asyncpg cannot encode a value of the right type. A value of a wrong type is a mistake of the service."""
    if not isinstance(error, asyncpg.DataError):
        return False
    cause = error.__cause__
    # UnicodeEncodeError: a lone surrogate in a text. The text is that of a ValueError for a float of 4 bytes.
    return isinstance(cause, (OverflowError, UnicodeEncodeError)) or "out of float32 range" in str(cause)


def is_lost(error: DatabaseError) -> bool:
    """Whether the connection must not be used again."""
    return type(error) is DatabaseUnavailableError


def unavailable_problem(error: DatabaseUnavailableError) -> Problem:
    """503. The cause is in the log and not in the response."""
    return Problem(503, "The database is not available; retry later.", headers={"retry-after": "1"})


def conflict_problem(error: ConflictError) -> Problem:
    """503, because the same request may succeed later."""
    detail = "The request was in conflict with another one, and nothing was done; retry later."
    return Problem(503, detail, headers={"retry-after": "1"})


def invalid_value_problem(error: InvalidValueError) -> Problem:
    """422, without the value."""
    return Problem(422, "A value cannot be stored in the database: it is too large or too long, or is not valid text.")


PROBLEMS: dict[type[Exception], Callable[[Any], Problem]] = {
    DatabaseUnavailableError: unavailable_problem,
    ConflictError: conflict_problem,
    InvalidValueError: invalid_value_problem,
}
