"""`SessionQueries`: SQL in the transaction of an `AsyncSession`."""

import asyncio
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from ..postgres.errors import StatementTimeoutError
from ..postgres.queries import Queries
from ..postgres.statements import Statements


class SessionQueries(Queries):
    """Runs SQL on the connection of a session, in its transaction. What is pending in the session is written before.

    Rows and errors are those of asyncpg, as in `chassis.postgres`. Values of the types `json` and `jsonb` are decoded.
    """

    def __init__(self, session: AsyncSession, statements: Statements) -> None:
        self._session = session
        self._statements = statements
        self._lock = asyncio.Lock()

    async def _run(self, method: str, query: str, args: tuple[Any, ...], timeout_seconds: float | None) -> Any:
        statements = self._statements
        seconds = statements.seconds if timeout_seconds is None else min(timeout_seconds, statements.seconds)
        async with self._lock:
            await self._session.flush()
            connection = await self._session.connection()
            driver: Any = (await connection.get_raw_connection()).driver_connection
            options = connection.sync_connection.get_execution_options() if connection.sync_connection else {}
            if options.get("isolation_level") != "AUTOCOMMIT" and not driver.is_in_transaction():
                # SQLAlchemy begins its transaction with a statement.
                await connection.exec_driver_sql("SELECT 1")
            may_write = not options.get("postgresql_readonly", False)
            try:
                return await statements.run(driver, method, query, args, seconds, may_write=may_write)
            except (asyncio.CancelledError, StatementTimeoutError) as error:
                # It is not known whether the statement was executed, even if the method catches the error.
                await connection.invalidate(error)
                raise
