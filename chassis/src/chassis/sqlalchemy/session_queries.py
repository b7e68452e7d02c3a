"""`SessionQueries`: SQL in the transaction of an `AsyncSession`."""

import asyncio
from typing import Any

from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from ..postgres.errors import StatementTimeoutError
from ..postgres.queries import Queries
from ..postgres.statements import Statements
from .session import RequestSession


class SessionQueries(Queries):
    """Runs SQL on the connection of a session, in its transaction. Pending changes of the session are flushed before.

    Rows and errors are those of asyncpg, as in `chassis.postgres`. Values of the types `json` and `jsonb` are decoded.
    """

    def __init__(self, session: AsyncSession, statements: Statements) -> None:
        self._session = session
        self._statements = statements
        self._lock = asyncio.Lock()

    async def _run(self, method: str, query: str, args: tuple[Any, ...], timeout_seconds: float | None) -> Any:
        session, statements = self._session, self._statements
        async with self._lock:
            seconds = session.statement_seconds() if isinstance(session, RequestSession) else statements.seconds
            seconds = seconds if timeout_seconds is None else min(timeout_seconds, seconds)
            connection = await session.run_sync(_begun)
            driver: Any = connection.connection.driver_connection
            may_write = not connection.get_execution_options().get("postgresql_readonly", False)
            try:
                return await statements.run(driver, method, query, args, seconds, may_write=may_write)
            except (asyncio.CancelledError, StatementTimeoutError) as error:
                # It is not known whether the statement was executed, even if the method catches the error.
                await session.run_sync(_invalidate, connection, error)
                raise


def _begun(session: Session) -> Connection:
    """The connection of the session, in its transaction."""
    session.flush()
    connection = session.connection()
    driver: Any = connection.connection.driver_connection
    is_autocommit = connection.get_execution_options().get("isolation_level") == "AUTOCOMMIT"
    if not is_autocommit and not driver.is_in_transaction():
        # SQLAlchemy begins its transaction with a statement.
        connection.exec_driver_sql("SELECT 1")
    return connection


def _invalidate(_: Session, connection: Connection, error: BaseException) -> None:
    connection.invalidate(error)
