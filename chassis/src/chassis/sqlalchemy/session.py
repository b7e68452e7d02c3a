"""`RequestSession`: an `AsyncSession` whose transaction ends with its block."""

import asyncio
from collections.abc import Callable
from time import perf_counter
from types import TracebackType
from typing import Any, Self, cast

import structlog
from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session
from structlog.typing import FilteringBoundLogger

from ..postgres.errors import DatabaseError, StatementTimeoutError
from ..postgres.pool import RELEASE_SECONDS
from ..postgres.query_telemetry import QueryTelemetry
from .engine_pool import EnginePool

log: FilteringBoundLogger = structlog.get_logger()

ENDED = "the session has ended; make all queries before the handler returns, and not in a stream or a task"


class LazySession(Session):
    """Takes a connection at its first statement. Its methods run in a greenlet of SQLAlchemy."""

    def __init__(self, *, open_connection: Callable[[], Connection], telemetry: QueryTelemetry, **options: Any) -> None:
        super().__init__(**options)
        self.has_ended: bool = False
        self._open_connection = open_connection
        self._query_telemetry = telemetry
        self._held: Connection | None = None

    def get_bind(self, *args: Any, **options: Any) -> Any:
        """The connection of this session, for any statement."""
        if self._held is None:
            if self.has_ended:
                raise RuntimeError(ENDED)
            self._held = self._open_connection()
        return self._held

    @property
    def has_transaction(self) -> bool:
        """Whether the server is in a transaction. Also true if the connection was lost, so that the commit fails."""
        connection = self._held
        if connection is None or connection.closed:
            return False
        if connection.get_execution_options().get("isolation_level") == "AUTOCOMMIT":
            return False
        driver: Any = None if connection.invalidated else connection.connection.driver_connection
        return driver is None or bool(driver.is_in_transaction())

    def finish(self) -> None:
        """Write what is pending, commit, and give back the connection."""
        self.flush()
        self.has_ended = True
        if self.has_transaction:
            self._commit()
        self.discard()

    def _commit(self) -> None:
        span = self._query_telemetry.begin("COMMIT")
        began = perf_counter()
        try:
            self.commit()
        except BaseException as error:
            self._query_telemetry.end(span, "COMMIT", perf_counter() - began, error.__cause__ or error)
            raise
        self._query_telemetry.end(span, "COMMIT", perf_counter() - began)

    def discard(self) -> None:
        """Give back the connection; a transaction is rolled back."""
        self.has_ended = True
        try:
            self.close()
        finally:
            if self._held is not None:
                self._held.close()
                self._held = None


class RequestSession(AsyncSession):
    """A session that is committed when its block ends, and rolled back if that raises."""

    def __init__(
        self,
        pool: EnginePool,
        telemetry: QueryTelemetry,
        *,
        is_autocommit: bool = False,
        execution_options: dict[str, Any],
        remaining_seconds: Callable[[], float | None] | None = None,
    ) -> None:
        """`remaining_seconds` is the time until a deadline, which limits each statement."""
        self.pool: EnginePool = pool
        self.may_write: bool = not is_autocommit and not execution_options.get("postgresql_readonly")
        """Whether it has a transaction in which something can be written."""
        self._connection_options = execution_options
        self._remaining_seconds = remaining_seconds
        super().__init__(
            sync_session_class=LazySession,
            expire_on_commit=False,
            open_connection=self._acquire,
            telemetry=telemetry,
        )

    def statement_seconds(self) -> float:
        """The time limit of a statement that begins now. Raises `StatementTimeoutError` after the deadline."""
        seconds = self.pool.settings.database_statement_seconds
        remaining = None if self._remaining_seconds is None else self._remaining_seconds()
        if remaining is None or remaining >= seconds:
            return seconds
        if remaining <= 0:
            raise StatementTimeoutError("the request's deadline has passed")
        return remaining

    def _acquire(self) -> Connection:
        seconds = self.statement_seconds()
        connection = self.pool.acquire(**self._connection_options)
        if seconds < self.pool.settings.database_statement_seconds:
            driver: Any = connection.connection.driver_connection
            driver.statement_milliseconds = max(1, int(seconds * 1000))
        return connection

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None:
            try:
                await self.run_sync(LazySession.finish)  # type: ignore[arg-type]
            except BaseException:
                await self._clean_up()
                raise
        else:
            await self._clean_up()

    async def _clean_up(self) -> None:
        session = cast("LazySession", self.sync_session)
        session.has_ended = True
        if not session.has_transaction:
            await self._discard()  # sends nothing
            return
        await self.pool.clean_up(asyncio.create_task(self._discard(), name="database clean-up"))

    async def _discard(self) -> None:
        try:
            async with asyncio.timeout(RELEASE_SECONDS):
                await self.run_sync(LazySession.discard)  # type: ignore[arg-type]
        except (OSError, SQLAlchemyError, DatabaseError) as error:
            self.pool.distrust()
            self.pool.warn("connection was closed, because its transaction could not be rolled back", error)
