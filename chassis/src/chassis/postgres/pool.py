"""The pool of connections: bounded waits, and dead connections replaced."""

import asyncio
import logging
from time import monotonic
from typing import Any, Protocol, cast

import asyncpg
import structlog
from structlog.typing import FilteringBoundLogger

from .connector import CONNECT_ERRORS, Connection, Connector
from .errors import DatabaseUnavailableError, PoolExhaustedError
from .settings import DatabaseSettings

log: FilteringBoundLogger = structlog.get_logger()

# A connection that was idle for longer is asked for a sign of life before it is used.
IDLE_SECONDS = 5.0
PING_SECONDS = 0.5
PING = "SELECT 1"
# Time in which a cancelled statement must end on the server. Beyond it the connection is closed.
RELEASE_SECONDS = 1.0
# Time in which a request waits for its rollback. Beyond it, the rollback goes on without the request.
ROLLBACK_SECONDS = 0.25
CLOSE_SECONDS = 1.0
# The last one: asyncpg finds that the connection was closed while it gives it back.
CLEAN_UP_ERRORS = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)


class Proxies(Protocol):
    """A pool of asyncpg, whose connections are in proxies that have all attributes of `Connection`."""

    async def acquire(self) -> Connection: ...

    async def release(self, connection: Connection, *, timeout: float | None = None) -> None: ...  # noqa: ASYNC109

    async def close(self) -> None: ...

    async def expire_connections(self) -> None: ...

    def get_size(self) -> int: ...


class Pool(Connector):
    """The connections of one database."""

    def __init__(self, settings: DatabaseSettings, name: str, application_name: str) -> None:
        super().__init__(settings, name, application_name)
        self.in_use: int = 0
        self.waiting: int = 0
        self.timeouts: int = 0
        self._pool: Proxies | None = None
        self._trusted_from = 0.0
        """A connection that was last seen before this time may be dead."""
        self._cleanups: set[asyncio.Task[None]] = set()

    def idle(self) -> int:
        """The number of open connections that are not in use."""
        return 0 if self._pool is None else max(0, self._pool.get_size() - self.in_use)

    @property
    def is_full(self) -> bool:
        """Whether all connections are in use."""
        return self.in_use + self.waiting >= self.max_size

    async def open(self) -> None:
        """Connect, again and again for `database_connect_seconds`. Raises `DatabaseUnavailableError`."""
        # It would log a traceback each second while the server is gone. The reason is in the log already.
        logging.getLogger("asyncpg.pool").setLevel(logging.ERROR)
        self._pool = await self.open_with_retries(self._opened)

    async def _opened(self) -> Proxies:
        settings = self.settings
        options: dict[str, Any] = {
            "min_size": settings.database_pool_min,
            "max_size": settings.database_pool_max,
            "connect": self.connect,
            "connection_class": Connection,
            "reset": _keep_session,
        }
        pool: Proxies = cast("Any", await asyncpg.create_pool(settings.database_url.get_secret_value(), **options))
        if not settings.database_pool_min:
            await pool.release(await pool.acquire())  # shows now whether the settings are right
        return pool

    async def use(self, settings: DatabaseSettings) -> None:
        """Use other settings for new connections. Those to another server or user replace the present ones.

        With another password only, the present ones stay, because the server checks it only when they begin.
        """
        if self.use_settings(settings) and self._pool is not None:
            await self._pool.expire_connections()  # each is replaced when it is used next

    async def close(self) -> None:
        """Close the connections. Those that are in use after `CLOSE_SECONDS` are cut off."""
        pool = self._pool
        if pool is None:
            return
        if self._cleanups:
            await asyncio.wait(self._cleanups, timeout=CLOSE_SECONDS)
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                await pool.close()
        except TimeoutError:
            log.warning("connections were in use when the database was closed", database=self.name, count=self.in_use)
        finally:
            self._pool = None

    async def acquire(self) -> Connection:
        """A connection that is alive. Raises `DatabaseUnavailableError` after `database_pool_wait_seconds`."""
        pool = self._pool
        if pool is None:
            raise RuntimeError(
                f"the database {self.name!r} is not open; add it with add_database, or with app.add_resource"
            )
        seconds = self.settings.database_pool_wait_seconds
        timeout = asyncio.timeout(seconds)
        self.waiting += 1
        try:
            async with timeout:
                connection = await pool.acquire()
                seen_at = connection.seen_at
                if seen_at < self._trusted_from or monotonic() - seen_at > IDLE_SECONDS:
                    connection = await self._alive(pool, connection)
        except (asyncpg.InterfaceError, *CONNECT_ERRORS) as error:
            if not timeout.expired():
                raise self.unavailable(error) from error
            self.timeouts += 1
            if self.in_use >= self.max_size:
                raise self.unavailable(
                    PoolExhaustedError(f"all {self.max_size} connections were in use for {seconds:g} seconds")
                ) from None
            raise self.unavailable(
                DatabaseUnavailableError(f"{self.server_name} accepted no connection in {seconds:g} seconds")
            ) from None
        finally:
            self.waiting -= 1
        self.in_use += 1
        return connection

    async def _alive(self, pool: Proxies, connection: Connection) -> Connection:
        """`connection` or another one, after the server has responded to it."""
        while True:
            if connection.seen_at >= self._trusted_from:
                try:
                    await connection.execute(PING, timeout=PING_SECONDS)
                except CLEAN_UP_ERRORS:
                    self._distrust()
                except BaseException:
                    terminate(connection)
                    await pool.release(connection)
                    raise
                else:
                    connection.note_seen()
                    return connection
            terminate(connection)
            await pool.release(connection)
            connection = await pool.acquire()

    def _distrust(self) -> None:
        """The server did not respond: the other connections that it has not used since may be dead, too."""
        self._trusted_from = monotonic()

    async def release(self, connection: Connection) -> None:
        """Give back a connection without a transaction, whose last statement has ended. Raises no error of it."""
        try:
            if self._pool is not None and not is_closed(connection):
                connection.note_seen()
                # Nothing is sent, so that no time limit is needed.
                await self._pool.release(connection)
        except CLEAN_UP_ERRORS as error:
            self.warn("connection was closed, because it could not be used again", error)
        finally:
            self.in_use -= 1

    async def clean_up(self, connection: Connection, *, is_lost: bool, rolls_back: bool) -> None:
        """Give back a connection after an error. Waits only briefly: the rest is done in the background."""
        task = asyncio.create_task(self._clean_up(connection, is_lost, rolls_back), name="database clean-up")
        self._cleanups.add(task)
        task.add_done_callback(self._cleanups.discard)
        await asyncio.wait({task}, timeout=ROLLBACK_SECONDS)

    async def _clean_up(self, connection: Connection, is_lost: bool, rolls_back: bool) -> None:
        try:
            if is_lost:
                terminate(connection)
            elif rolls_back:
                await connection.execute("ROLLBACK", timeout=RELEASE_SECONDS)
            if not is_closed(connection):
                connection.note_seen()
        except CLEAN_UP_ERRORS as error:
            terminate(connection)
            self._distrust()
            self.warn("connection was closed, because its transaction could not be rolled back", error)
        try:
            await self._release(connection)
        except CLEAN_UP_ERRORS as error:
            self._distrust()
            self.warn("connection was closed, because the server did not respond", error)
        finally:
            self.in_use -= 1

    async def _release(self, connection: Connection) -> None:
        if self._pool is not None:
            # The proxy of asyncpg gives back each connection once.
            await self._pool.release(connection, timeout=RELEASE_SECONDS)
        else:
            terminate(connection)


def is_closed(connection: Connection) -> bool:
    """Whether a connection of the pool is closed."""
    try:
        return bool(connection.is_closed())
    except asyncpg.InterfaceError:  # the pool has taken it back when it was closed
        return True


def terminate(connection: Connection) -> None:
    """Close a connection of the pool at once, if it is open."""
    if not is_closed(connection):
        connection.terminate()


async def _keep_session(connection: object) -> None:
    """Replaces asyncpg's reset query, a round trip for each use. An open transaction is rolled back in any case."""
