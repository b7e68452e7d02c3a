"""`Database`: a PostgreSQL database as a resource of an `App`, with SQLAlchemy."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable, Mapping
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, Self, TypeVar

from pydantic import BaseModel
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from starlette.requests import Request

from ..api.repeatable import DEFAULT_ATTEMPTS, repeat
from ..app import App
from ..configuration.changes import counterpart
from ..postgres.database import SAFE_METHODS
from ..postgres.errors import PROBLEMS, DatabaseUnavailableError
from ..postgres.metrics import DatabaseMetrics
from ..postgres.pool import PING
from ..postgres.queries import Queries
from ..postgres.query_telemetry import QueryTelemetry
from ..postgres.settings import DatabaseSettings
from ..postgres.statements import Statements
from ..postgres.transaction import Isolation
from ..request_info import RequestInfo
from ..telemetry import Telemetry
from .engine_pool import NEVER, EnginePool
from .observer import EngineObserver
from .session import RequestSession
from .session_queries import SessionQueries

Result = TypeVar("Result")


def add_database(
    app: App,
    settings: DatabaseSettings,
    *,
    name: str = "database",
    required: bool = True,
    provides: type["Database"] | None = None,
) -> "Database":
    """Add a database to an application, and return it for the stores that need it.

    It is opened at the start, has a readiness check, and its errors are mapped to problems. Handlers can have
    parameters of the types `AsyncSession`, `Queries`, for SQL in that session, and `Database`. A session has one
    transaction a request, and none for GET, HEAD and OPTIONS. With `required=False` the service is ready without it.
    `name` is that of the check, and of the pool in metrics.

    For a second database, give `name`, and a subclass of `Database` as `provides`. The database is then of this type,
    and handlers can have parameters of this type only.
    """
    database = (provides or Database)(settings, name=name, telemetry=app.telemetry, application_name=app.name)
    app.add_resource(database)
    app.add_check(name, database.ping, timeout=settings.database_check_seconds, required=required)
    app.provide(type(database), database)  # type: ignore[arg-type]  # mypy takes the __hash__ of instances
    if provides is None:
        app.provide(AsyncSession, database.sessions())
        app.provide(Queries, database.queries_of_session)
    app.add_problems(PROBLEMS)
    app.on_settings_change(database.use_changed)
    return database


class Database:
    """A PostgreSQL database with an engine of SQLAlchemy.

    It is an async context manager: `async with`, or `App.add_resource`, opens and closes the pool. The start fails with
    `DatabaseUnavailableError` if there is no connection within `database_connect_seconds`.

    Statements raise `DatabaseUnavailableError`, `StatementTimeoutError` and `ConflictError`. Errors of the statement
    itself are those of SQLAlchemy, such as `IntegrityError`.
    """

    def __init__(
        self,
        settings: DatabaseSettings,
        *,
        name: str = "database",
        telemetry: Telemetry | None = None,
        application_name: str = "chassis",
    ) -> None:
        """`name` is that of the pool in metrics. `application_name` is shown by the server, in `pg_stat_activity`."""
        self._pool = EnginePool(settings, name, application_name)
        self._query_telemetry = QueryTelemetry(telemetry, settings)
        self._statements = Statements(self._pool, self._query_telemetry)
        self._queries = _DatabaseQueries(self._pool, self._statements)
        EngineObserver(self._pool, self._query_telemetry)
        if telemetry is not None:
            DatabaseMetrics.of(telemetry).pools.append(self._pool)

    @property
    def engine(self) -> AsyncEngine:
        """The engine, for what needs a connection of its own. Its statements are observed."""
        return self._pool.engine

    async def use_changed(self, before: BaseModel, after: BaseModel) -> None:
        """Use changed settings for new connections: the URL, the password, and TLS. For `App.on_settings_change`."""
        settings = counterpart(self._pool.settings, before, after)
        if settings is not self._pool.settings:
            await self._pool.use(settings)
            self._query_telemetry.use_settings(settings)

    async def __aenter__(self) -> Self:
        await self._pool.open()
        return self

    async def __aexit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._pool.close()

    def session(
        self, *, isolation: Isolation | None = None, read_only: bool = False, autocommit: bool = False
    ) -> AsyncSession:
        """A session for work outside of requests: committed at the end of its block, rolled back if that raises.

            async with database.session() as session:
                session.add(order)

        With `autocommit`, each statement is committed by itself, without a transaction.
        """
        return self._session(isolation, read_only, autocommit, None)

    def sessions(
        self, *, isolation: Isolation | None = None, read_only: bool = False
    ) -> Callable[[Request], AsyncSession]:
        """A provider of one session a request, for `App.provide`. The request's deadline limits its statements.

        A request with a safe method has no transaction, unless `isolation` or `read_only` is given.
        """
        has_transaction = isolation is not None or read_only

        def provide(request: Request) -> AsyncSession:
            autocommit = request.method in SAFE_METHODS and not has_transaction
            return self._session(isolation, read_only, autocommit, RequestInfo.of(request.scope).remaining_seconds)

        return provide

    def _session(
        self,
        isolation: Isolation | None,
        read_only: bool,
        autocommit: bool,
        remaining_seconds: Callable[[], float | None] | None,
    ) -> RequestSession:
        options: dict[str, Any] = {}
        if autocommit:
            options["isolation_level"] = "AUTOCOMMIT"
        elif isolation is not None:
            options["isolation_level"] = isolation.upper()
        if read_only:
            options["postgresql_readonly"] = True
        return RequestSession(
            self._pool,
            self._query_telemetry,
            is_autocommit=autocommit,
            execution_options=options,
            remaining_seconds=remaining_seconds,
        )

    def queries_of_session(self, session: AsyncSession) -> Queries:
        """SQL in the transaction of a session. For `App.provide`."""
        return SessionQueries(session, self._statements)

    @asynccontextmanager
    async def transaction(
        self, *, isolation: Isolation | None = None, read_only: bool = False
    ) -> AsyncIterator[Queries]:
        """A transaction for SQL: committed at the end of its block, rolled back if that raises."""
        async with self.session(isolation=isolation, read_only=read_only) as session:
            yield self.queries_of_session(session)

    @property
    def queries(self) -> Queries:
        """Queries without a transaction, each on any connection of the pool."""
        return self._queries

    def transaction_in(self, provided: Mapping[Hashable, Any]) -> Queries | None:
        """The transaction of this database among the values that a method got; None if there is none."""
        for value in provided.values():
            if isinstance(value, RequestSession) and value.pool is self._pool and value.may_write:
                return self.queries_of_session(value)
        return None

    async def repeat(
        self,
        work: Callable[[AsyncSession], Awaitable[Result]],
        *,
        attempts: int = DEFAULT_ATTEMPTS,
        isolation: Isolation | None = None,
    ) -> Result:
        """Call `work` with a new session, again after a `ConflictError`, and return its result.

        For work outside of requests; in a handler, use `@repeatable`. The last `ConflictError` is raised.
        """

        async def attempt() -> Result:
            async with self.session(isolation=isolation) as session:
                return await work(session)

        return await repeat(attempt, attempts, getattr(work, "__qualname__", repr(work)))

    async def ping(self) -> None:
        """Ask the server for a sign of life, for readiness checks. Raises if there is none.

        When all connections are in use, it asks on a connection of its own: a busy service is ready.
        """
        if self._pool.is_full:
            driver = await self._pool.connect_once()
            try:
                await driver.fetchval(PING)
            finally:
                driver.terminate()
            return
        async with self.session(autocommit=True) as session:
            await (await session.connection()).exec_driver_sql(PING)


class _DatabaseQueries(Queries):
    """Runs each query on any connection of the pool, without a transaction."""

    def __init__(self, pool: EnginePool, statements: Statements) -> None:
        self._pool = pool
        self._statements = statements

    async def _run(self, method: str, query: str, args: tuple[Any, ...], timeout_seconds: float | None) -> Any:
        seconds = self._statements.seconds
        seconds = seconds if timeout_seconds is None else min(timeout_seconds, seconds)
        connection = await self._pool.acquire_raw()
        driver: Any = connection.driver_connection
        try:
            return await self._statements.run(driver, method, query, args, seconds)
        except (asyncio.CancelledError, DatabaseUnavailableError):
            driver.seen_at = NEVER  # it is replaced before it is used again
            raise
        finally:
            connection.close()  # sends nothing, because there is no transaction
