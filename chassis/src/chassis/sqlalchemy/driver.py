"""The connection of asyncpg below SQLAlchemy: limits the time of a transaction, and notices a commit that failed."""

from typing import Any

from ..postgres.connector import Connection
from ..postgres.errors import TransactionFailedError
from ..postgres.pool import ROLLBACK_SECONDS

FAILED = (
    "the transaction was rolled back, because one of its statements had failed and the error was caught; "
    "put that statement into `async with session.begin_nested()`"
)


class DriverConnection(Connection):
    """A connection on which SQLAlchemy begins and commits transactions, with the `Transaction` of asyncpg."""

    __slots__ = ("statement_milliseconds",)

    statement_milliseconds: int | None
    """The limit of statements in the transaction that begins next; None for that of the session."""

    async def execute(self, query: str, *args: Any, timeout: float | None = None) -> str:  # noqa: ASYNC109 - asyncpg's
        """Run a statement. `BEGIN` also limits statements, without a round trip of its own."""
        if args:
            return await super().execute(query, *args, timeout=timeout)
        limit = self.statement_milliseconds
        if limit is not None and query.startswith("BEGIN"):
            # The server ends the statement, even if this process is gone by then.
            query = f"{query} SET LOCAL statement_timeout = {limit};"
        status = await super().execute(query, timeout=timeout)
        if status == "ROLLBACK" and query.startswith("COMMIT"):
            raise TransactionFailedError(FAILED)
        return status

    async def close(self, *, timeout: float | None = None) -> None:  # noqa: ASYNC109 - asyncpg's
        """Close the connection, in bounded time: SQLAlchemy waits for it when a request is cancelled."""
        await super().close(timeout=ROLLBACK_SECONDS if timeout is None else min(timeout, ROLLBACK_SECONDS))
