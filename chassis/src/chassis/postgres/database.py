"""`Database`: a PostgreSQL database as a resource of an `App`."""

from collections.abc import AsyncIterator, Awaitable, Callable, Hashable, Iterator, Mapping
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, Self, TypeVar

import asyncpg
from pydantic import BaseModel
from starlette.requests import Request

from ..api.repeatable import DEFAULT_ATTEMPTS, repeat
from ..app import App
from ..configuration.changes import counterpart
from ..request_info import RequestInfo
from ..telemetry import Telemetry
from .connector import Connection
from .errors import PROBLEMS, DatabaseError, is_lost
from .metrics import DatabaseMetrics
from .pool import PING, RELEASE_SECONDS, Pool
from .queries import Queries
from .query_telemetry import QueryTelemetry
from .settings import DatabaseSettings
from .statements import Statements
from .transaction import Isolation, Transaction

# Safe methods (RFC 9110, section 9.2.1).
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})

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

    It is opened at the start, has a readiness check, and its errors are mapped to problems. With `required=False` the
    service is ready without it. `name` is that of the check, and of the pool in metrics.

    Handlers can have parameters of the types `Database`, `Transaction`, for one transaction a request, and `Queries`.
    `Queries` is the `Database` for GET, HEAD and OPTIONS, and the `Transaction` of the request for all other methods.

    For a second database, give `name`, and a subclass of `Database` as `provides`. The database is then of this type,
    and handlers can have parameters of this type only.
    """
    database = (provides or Database)(settings, name=name, telemetry=app.telemetry, application_name=app.name)
    app.add_resource(database)
    app.add_check(name, database.ping, timeout=settings.database_check_seconds, required=required)
    app.provide(type(database), database)
    if provides is None:
        app.provide(Transaction, database.transactions())
        app.provide(Queries, database.queries_of_request)
    app.add_problems(PROBLEMS)
    app.on_settings_change(database.use_changed)
    return database


class Database(Queries):
    """A PostgreSQL database. Its own queries run without a transaction, each on any connection of the pool.

    It is an async context manager: `async with`, or `App.add_resource`, opens and closes the pool. The start fails with
    `DatabaseUnavailableError` if there is no connection within `database_connect_seconds`.

    A connection keeps the settings of its session when it returns to the pool. So write `SET LOCAL` in a transaction,
    never `SET`; use `connection()` for session-level locks and LISTEN.
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
        self._pool = Pool(settings, name, application_name)
        self._query_telemetry = QueryTelemetry(telemetry, settings)
        self._statements = Statements(self._pool, self._query_telemetry)
        if telemetry is not None:
            DatabaseMetrics.of(telemetry).pools.append(self._pool)

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

    def transaction(self, *, isolation: Isolation | None = None, read_only: bool = False) -> Transaction:
        """A transaction for work outside of requests: committed at the end of its block, rolled back if that raises.

        async with database.transaction() as transaction:
            await transaction.execute("…")
        """
        return Transaction(self._pool, self._statements, isolation=isolation, read_only=read_only)

    def transactions(
        self, *, isolation: Isolation | None = None, read_only: bool = False
    ) -> Callable[[Request], Transaction]:
        """A provider of one transaction a request, for `App.provide`. The request's deadline limits its statements."""

        def provide(request: Request) -> Transaction:
            info = RequestInfo.of(request.scope)
            return Transaction(
                self._pool,
                self._statements,
                isolation=isolation,
                read_only=read_only,
                remaining_seconds=info.remaining_seconds,
            )

        return provide

    def queries_of_request(self, request: Request, transaction: Transaction) -> Iterator[Queries]:
        """This database if the method of the request is safe, else the request's transaction. For `App.provide`.

        It yields, because the context manager that a provider returns would be entered, and exited with the request.
        """
        yield self if request.method in SAFE_METHODS else transaction

    @property
    def queries(self) -> Queries:
        """Queries without a transaction: the database itself."""
        return self

    def transaction_in(self, provided: Mapping[Hashable, Any]) -> Queries | None:
        """The transaction of this database among the values that a method got; None if there is none."""
        for value in provided.values():
            if isinstance(value, Transaction) and value.pool is self._pool and not value.is_read_only:
                return value
        return None

    async def repeat(
        self,
        work: Callable[[Transaction], Awaitable[Result]],
        *,
        attempts: int = DEFAULT_ATTEMPTS,
        isolation: Isolation | None = None,
    ) -> Result:
        """Call `work` with a new transaction, again after a `ConflictError`, and return its result.

        For work outside of requests; in a handler, use `@repeatable`. The last `ConflictError` is raised.
        """

        async def attempt() -> Result:
            async with self.transaction(isolation=isolation) as transaction:
                return await work(transaction)

        return await repeat(attempt, attempts, getattr(work, "__qualname__", repr(work)))

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[asyncpg.Connection]:
        """A connection of the pool, for LISTEN, COPY, cursors and session-level locks. Its session is reset at the end.

        Its queries are not observed, and its errors are those of asyncpg.
        """
        connection = await self._pool.acquire()
        try:
            yield connection
            await connection.reset(timeout=RELEASE_SECONDS)
        except BaseException:
            # The state of the session is not known.
            await self._pool.clean_up(connection, is_lost=True, rolls_back=False)
            raise
        await self._pool.release(connection)

    async def ping(self) -> None:
        """Ask the server for a sign of life, for readiness checks. Raises if there is none.

        When all connections are in use, it asks on a connection of its own: a busy service is ready.
        """
        pool = self._pool
        if pool.is_full:
            connection = await pool.connect_once()
            try:
                await connection.execute(PING)
            finally:
                connection.terminate()
            return
        connection = await pool.acquire()
        try:
            await connection.execute(PING)
        except BaseException:
            await pool.clean_up(connection, is_lost=False, rolls_back=False)
            raise
        await pool.release(connection)

    async def _run(self, method: str, query: str, args: tuple[Any, ...], timeout_seconds: float | None) -> Any:
        statements, pool = self._statements, self._pool
        seconds = statements.seconds if timeout_seconds is None else min(timeout_seconds, statements.seconds)
        connection: Connection = await pool.acquire()
        try:
            result = await statements.run(connection, method, query, args, seconds)
        except BaseException as error:
            lost = isinstance(error, DatabaseError) and is_lost(error)
            await pool.clean_up(connection, is_lost=lost, rolls_back=False)
            raise
        await pool.release(connection)
        return result
