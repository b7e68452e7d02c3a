"""A transaction: begun by its first query, committed when its block ends, rolled back on any error."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, Literal, Self

import asyncpg

from .connector import Connection
from .errors import DatabaseError, InvalidValueError, StatementTimeoutError, TransactionFailedError, is_lost
from .pool import Pool
from .queries import Queries
from .statements import Statements

FAILED = (
    "the transaction was rolled back, because one of its queries had failed and the error was caught; "
    "put that query into `async with transaction.savepoint()`"
)
INTERRUPTED = (
    "the transaction was rolled back, because a query or savepoint of it was interrupted and the error was caught; "
    "let the error end the transaction"
)

Isolation = Literal["read committed", "repeatable read", "serializable"]


class Transaction(Queries):
    """One transaction. As a parameter of a handler's method it belongs to the request.

        async def post(self, body: NewOrder, transaction: Transaction) -> Order: ...

    It takes a connection at its first query. It is committed when the method has returned, before the response is sent,
    and rolled back if the method raises, is cancelled, or exceeds its deadline. Concurrent queries run one by one.

    Elsewhere, enter one of `Database.transaction()` with `async with`.
    """

    def __init__(
        self,
        pool: Pool,
        statements: Statements,
        *,
        isolation: Isolation | None = None,
        read_only: bool = False,
        remaining_seconds: Callable[[], float | None] | None = None,
    ) -> None:
        """`remaining_seconds` is the time until a deadline, which limits each statement."""
        self.pool: Pool = pool
        self.is_read_only: bool = read_only
        self._statements = statements
        self._isolation = isolation
        self._remaining_seconds = remaining_seconds
        self._connection: Connection | None = None
        self._lock = asyncio.Lock()
        self._savepoints = 0
        self._has_ended = False
        self._is_lost = False
        self._is_interrupted = False

    async def connection(self) -> asyncpg.Connection:
        """The connection, for what only asyncpg has, such as `copy_records_to_table`. Its queries are not observed.

        Do not end the transaction there.
        """
        async with self._lock:
            return await self._begun()

    @asynccontextmanager
    async def savepoint(self) -> AsyncIterator[None]:
        """Undo what is done in the block if it raises, and only that: the transaction can go on.

        If the block is cancelled, such as by a timeout around it, the whole transaction is rolled back.

        async with transaction.savepoint():
            await transaction.execute("INSERT INTO …")  # may violate a constraint
        """
        self._savepoints += 1
        name = f"s{self._savepoints}"
        await self.execute(f"SAVEPOINT {name}")
        try:
            yield
            await self.execute(f"RELEASE SAVEPOINT {name}")
        except Exception:
            if not self._is_interrupted:
                await self.execute(f"ROLLBACK TO SAVEPOINT {name}")
            raise
        except BaseException:
            # A task that is cancelled must not wait for the server, so nothing of the transaction is kept.
            self._is_interrupted = True
            raise

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._has_ended = True
        if error is None:
            async with self._lock:  # a query of a task that the method did not wait for
                await self._commit()
        else:
            await self._roll_back()

    async def _run(self, method: str, query: str, args: tuple[Any, ...], timeout_seconds: float | None) -> Any:
        async with self._lock:
            return await self._query(await self._begun(), method, query, args, timeout_seconds)

    async def _query(
        self,
        connection: Connection,
        method: str,
        query: str,
        args: tuple[Any, ...] = (),
        timeout_seconds: float | None = None,
    ) -> Any:
        seconds = self._seconds() if timeout_seconds is None else min(timeout_seconds, self._seconds())
        if seconds <= 0:
            raise StatementTimeoutError("the request's deadline has passed")
        try:
            return await self._statements.run(connection, method, query, args, seconds, may_write=not self.is_read_only)
        except InvalidValueError:
            raise
        except (DatabaseError, asyncio.CancelledError) as error:
            # It is not known whether the statement was executed, even if the method catches the error.
            self._is_interrupted = True
            self._is_lost = self._is_lost or (isinstance(error, DatabaseError) and is_lost(error))
            raise

    async def _begun(self) -> Connection:
        if self._has_ended:
            raise RuntimeError(
                "the transaction has ended; make all queries before the handler returns, and not in a stream or a task"
            )
        if self._is_interrupted:
            raise TransactionFailedError(INTERRUPTED)
        if self._connection is None:
            self._connection = await self.pool.acquire()
            await self._query(self._connection, "execute", self._begin())
        return self._connection

    def _begin(self) -> str:
        """The statement that begins the transaction, with its own time limit, in one round trip."""
        begin = "BEGIN"
        if self._isolation is not None:
            begin += f" ISOLATION LEVEL {self._isolation.upper()}"
        if self.is_read_only:
            begin += " READ ONLY"
        seconds = self._seconds()
        if seconds < self._statements.seconds or not self._statements.is_session_limited:
            # The server ends the statement, even if this process is gone by then.
            begin += f"; SET LOCAL statement_timeout = {max(1, int(seconds * 1000))}"
        return begin

    def _seconds(self) -> float:
        """The time limit of a statement that begins now."""
        remaining = None if self._remaining_seconds is None else self._remaining_seconds()
        return self._statements.seconds if remaining is None else min(self._statements.seconds, remaining)

    async def _commit(self) -> None:
        connection = self._connection
        if connection is None:
            return
        if self._is_interrupted:
            await self._roll_back()
            raise TransactionFailedError(INTERRUPTED)
        try:
            status = await self._query(connection, "execute", "COMMIT")
        except BaseException:
            await self._roll_back()
            raise
        self._connection = None
        await self.pool.release(connection)
        if status != "COMMIT":
            raise TransactionFailedError(FAILED)

    async def _roll_back(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await self.pool.clean_up(connection, is_lost=self._is_lost, rolls_back=True)
