"""SQLAlchemy's pool of connections: opened with retries, bounded waits, and dead connections replaced."""

import asyncio
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from contextvars import ContextVar
from time import monotonic
from typing import Any, cast
from weakref import WeakSet

import asyncpg
import structlog
from sqlalchemy import Connection as SyncConnection
from sqlalchemy import event
from sqlalchemy.exc import DisconnectionError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry, PoolProxiedConnection, QueuePool
from structlog.typing import FilteringBoundLogger

from ..postgres import pool as limits
from ..postgres.connector import CONNECT_ERRORS, CONNECT_SECONDS, Connection, Connector, reason_of
from ..postgres.errors import DatabaseError, DatabaseUnavailableError, PoolExhaustedError
from ..postgres.settings import DatabaseSettings
from .driver import DriverConnection

log: FilteringBoundLogger = structlog.get_logger()

NEVER = -1.0  # the time at which a distrusted connection was seen
# The time until which the connection must be there, of the request that waits for it; monotonic seconds.
_deadline: ContextVar[float] = ContextVar("chassis_sqlalchemy_deadline")


class EnginePool(Connector):
    """The connections of one engine."""

    connection_class: type[Connection] = DriverConnection

    def __init__(self, settings: DatabaseSettings, name: str, application_name: str) -> None:
        super().__init__(settings, name, application_name)
        self.in_use: int = 0
        self.waiting: int = 0
        self.timeouts: int = 0
        self.engine: AsyncEngine = create_async_engine(
            "postgresql+asyncpg://",
            creator=self._create,
            pool_size=self.max_size,
            max_overflow=0,
            pool_timeout=settings.database_pool_wait_seconds,
            pool_use_lifo=True,
            hide_parameters=True,  # the text of an error would have values
        )
        self._wait_seconds = settings.database_pool_wait_seconds
        # Behind a pooler, the session has no limit of its own.
        self._milliseconds: int | None = None
        if settings.database_pooler:
            self._milliseconds = max(1, int(settings.database_statement_seconds * 1000))
        self._is_open = False
        self._trusted_from = 0.0
        """A connection that was last seen before this time may be dead."""
        self._cleanups: set[asyncio.Task[None]] = set()
        self._drivers: WeakSet[Connection] = WeakSet()
        pool = self.engine.sync_engine.pool
        event.listen(pool, "checkout", self._on_checkout)
        event.listen(pool, "checkin", self._on_checkin)

    def idle(self) -> int:
        """The number of open connections that are not in use."""
        return cast("QueuePool", self.engine.pool).checkedin()

    @property
    def is_full(self) -> bool:
        """Whether all connections are in use."""
        return self.in_use + self.waiting >= self.max_size

    # Open and close.

    async def open(self) -> None:
        """Connect, again and again for `database_connect_seconds`. Raises `DatabaseUnavailableError`."""
        await self.open_with_retries(self._opened)
        self._is_open = True

    async def _opened(self) -> None:
        async with AsyncExitStack() as stack:
            for _ in range(max(1, self.settings.database_pool_min)):
                await stack.enter_async_context(self.engine.connect())

    async def use(self, settings: DatabaseSettings) -> None:
        """Use other settings for new connections; see `chassis.postgres.pool.Pool.use`."""
        if self.use_settings(settings):
            for driver in self._drivers:
                driver.seen_at = NEVER  # it is replaced before it is used again

    async def close(self) -> None:
        """Close the connections. Those that are in use after `CLOSE_SECONDS` are cut off."""
        self._is_open = False
        deadline = monotonic() + limits.CLOSE_SECONDS
        if self._cleanups:
            await asyncio.wait(self._cleanups, timeout=limits.CLOSE_SECONDS)
        while self.in_use and monotonic() < deadline:  # noqa: ASYNC110 - once, and each request would set an event
            await asyncio.sleep(0.01)
        if self.in_use:
            log.warning("connections were in use when the database was closed", database=self.name, count=self.in_use)
        await self.engine.dispose()
        for driver in list(self._drivers):
            driver.terminate()

    def _create(self) -> Any:
        """A connection for SQLAlchemy. It runs in a greenlet of SQLAlchemy."""
        options: dict[str, Any] = {}
        if self.settings.database_pooler:
            options = {"prepared_statement_cache_size": 0, "prepared_statement_name_func": str}  # without a name
        dbapi = cast("Any", self.engine.dialect.dbapi)
        return dbapi.connect(async_creator_fn=self._connect, **options)

    async def _connect(self) -> Connection:
        try:
            async with asyncio.timeout(_deadline.get(monotonic() + CONNECT_SECONDS) - monotonic()):
                driver = cast("DriverConnection", await self.connect_once())
        except CONNECT_ERRORS as error:
            raise DatabaseUnavailableError(reason_of(error)) from error
        driver.statement_milliseconds = self._milliseconds
        self._drivers.add(driver)
        return driver

    # Take and give back connections.

    def acquire(self, **options: Any) -> SyncConnection:
        """A connection that is alive. It runs in a greenlet of SQLAlchemy. `options` are execution options.

        Raises `DatabaseUnavailableError` after `database_pool_wait_seconds`.
        """
        with self._waiting():
            connection = self.engine.sync_engine.connect()
            return connection.execution_options(**options) if options else connection

    async def acquire_raw(self) -> PoolProxiedConnection:
        """The same, without SQLAlchemy's transaction: close it, outside of a transaction."""
        with self._waiting():
            return await self.engine.raw_connection()

    @contextmanager
    def _waiting(self) -> Iterator[None]:
        """Limits the time until a connection is there."""
        if not self._is_open:
            raise RuntimeError(
                f"the database {self.name!r} is not open; add it with add_database, or with app.add_resource"
            )
        began = monotonic()
        token = _deadline.set(began + self._wait_seconds)
        self.waiting += 1
        try:
            yield
        except PoolTimeoutError:
            self.timeouts += 1
            raise self.unavailable(
                PoolExhaustedError(f"all {self.max_size} connections were in use for {self._wait_seconds:g} seconds")
                if self.in_use >= self.max_size
                else DatabaseUnavailableError(self._no_connection())
            ) from None
        except DatabaseError as error:
            if monotonic() - began >= self._wait_seconds:
                self.timeouts += 1
                raise self.unavailable(DatabaseUnavailableError(self._no_connection())) from error
            raise self.unavailable(error) from error.__cause__
        except (SQLAlchemyError, OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            raise self.unavailable(error) from error  # the connection was lost while it was set up
        finally:
            self.waiting -= 1
            _deadline.reset(token)

    def _no_connection(self) -> str:
        return f"{self.server_name} accepted no connection in {self._wait_seconds:g} seconds"

    def _on_checkout(self, adapted: Any, entry: ConnectionPoolEntry, _: object) -> None:
        driver: DriverConnection = adapted.driver_connection
        if driver.is_closed() or driver.seen_at < self._trusted_from:
            driver.terminate()  # a graceful end would wait for a server that may be gone
            raise DisconnectionError("the connection is closed, or may be dead")
        if monotonic() - driver.seen_at > limits.IDLE_SECONDS:
            try:
                adapted.run_async(_ping)
            except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
                self.distrust()
                driver.terminate()
                raise DisconnectionError("the connection did not respond to a ping") from error
        driver.statement_milliseconds = self._milliseconds
        info = cast("dict[str, Any]", entry.record_info)
        info["in_use"] = True
        self.in_use += 1

    def _on_checkin(self, adapted: Any, entry: ConnectionPoolEntry) -> None:
        info = cast("dict[str, Any]", entry.record_info)
        if info.pop("in_use", False):
            self.in_use -= 1
            # A connection that was interrupted stays distrusted.
            if adapted is not None and adapted.driver_connection.seen_at != NEVER:
                adapted.driver_connection.note_seen()

    def distrust(self) -> None:
        """The server did not respond: the other connections that it has not used since may be dead, too."""
        self._trusted_from = monotonic()

    async def clean_up(self, task: asyncio.Task[None]) -> None:
        """Wait only briefly for a task that gives back a connection after an error. It goes on in the background."""
        self._cleanups.add(task)
        task.add_done_callback(self._cleanups.discard)
        await asyncio.wait({task}, timeout=limits.ROLLBACK_SECONDS)


async def _ping(driver: DriverConnection) -> None:
    seconds = min(limits.PING_SECONDS, _deadline.get(monotonic() + limits.PING_SECONDS) - monotonic())
    await driver.execute(limits.PING, timeout=max(seconds, 0.01))
    driver.note_seen()
