"""The pool of connections: opened with retries, bounded waits, and dead connections replaced."""

import asyncio
from itertools import count
from time import monotonic
from typing import Any, Protocol, cast

import asyncpg
import structlog
from structlog.typing import FilteringBoundLogger

from .errors import DatabaseError, DatabaseUnavailableError, PoolExhaustedError, StatementTimeoutError
from .settings import Address, DatabaseSettings

log: FilteringBoundLogger = structlog.get_logger()

CONNECT_SECONDS = 5.0  # for one attempt; a request waits for database_pool_wait_seconds at most
RETRY_SECONDS = (0.1, 0.2, 0.5, 1.0)
# A connection that was idle for longer is asked for a sign of life before it is used.
IDLE_SECONDS = 5.0
PING_SECONDS = 0.5
PING = "SELECT 1"
# Time in which a cancelled statement must end on the server. Beyond it the connection is closed.
RELEASE_SECONDS = 1.0
# Time in which a request waits for its rollback. Beyond it, the rollback goes on without the request.
ROLLBACK_SECONDS = 0.25
CLOSE_SECONDS = 1.0
LOG_SECONDS = 1.0  # between two lines about connections that fail
# TimeoutError is an OSError. The last one: no server is the primary, as during a failover.
CONNECT_ERRORS = (OSError, asyncpg.PostgresError, asyncpg.TargetServerAttributeNotMatched)


class Connection(asyncpg.Connection):
    """A connection that knows when the server has last responded to it, monotonic seconds."""

    __slots__ = ("seen_at",)

    seen_at: float

    def note_seen(self) -> None:
        """The server has responded."""
        self.seen_at = monotonic()


class Proxies(Protocol):
    """A pool of asyncpg, whose connections are in proxies that have all attributes of `Connection`."""

    async def acquire(self) -> Connection: ...

    async def release(self, connection: Connection, *, timeout: float | None = None) -> None: ...  # noqa: ASYNC109

    async def close(self) -> None: ...

    def get_size(self) -> int: ...


class Pool:
    """The connections of one database."""

    def __init__(self, settings: DatabaseSettings, name: str, application_name: str) -> None:
        self.name: str = name
        self.max_size: int = settings.database_pool_max
        self.in_use: int = 0
        self.waiting: int = 0
        self.timeouts: int = 0
        self.address: Address = settings.database_address
        self._settings = settings
        self._application_name = application_name
        self._pool: Proxies | None = None
        self._trusted_from = 0.0
        """A connection that was last seen before this time may be dead."""
        self._cleanups: set[asyncio.Task[None]] = set()
        self._logged_at = -LOG_SECONDS

    def idle(self) -> int:
        """The number of open connections that are not in use."""
        return 0 if self._pool is None else max(0, self._pool.get_size() - self.in_use)

    @property
    def is_full(self) -> bool:
        """Whether all connections are in use."""
        return self.in_use + self.waiting >= self.max_size

    async def open(self) -> None:
        """Connect, again and again for `database_connect_seconds`. Raises `DatabaseUnavailableError`."""
        seconds = self._settings.database_connect_seconds
        deadline = monotonic() + seconds
        for attempt in count():
            try:
                self._pool = await self._opened(min(CONNECT_SECONDS, max(0.1, deadline - monotonic())))
            except CONNECT_ERRORS as error:
                delay = RETRY_SECONDS[min(attempt, len(RETRY_SECONDS) - 1)]
                if monotonic() + delay > deadline:
                    raise DatabaseUnavailableError(
                        f"{self._name()} accepted no connection in {seconds:g} seconds: "
                        f"{_reason(error)}; check the URL, the password and the network policy"
                    ) from error
                self._warn("database does not accept connections yet", error)
                await asyncio.sleep(delay)
            else:
                return

    async def _opened(self, seconds: float) -> Proxies:
        settings = self._settings
        options: dict[str, Any] = {
            "min_size": settings.database_pool_min,
            "max_size": settings.database_pool_max,
            "connect": self.connect,
            "connection_class": Connection,
            "reset": _keep_session,
        }
        async with asyncio.timeout(seconds):
            pool: Proxies = cast("Any", await asyncpg.create_pool(settings.database_url.get_secret_value(), **options))
            if not settings.database_pool_min:
                await pool.release(await pool.acquire())  # shows now whether the settings are right
        return pool

    async def connect(self, url: str, **options: Any) -> Connection:
        """A new connection, with the password and the certificates as they are now."""
        settings = self._settings
        session = {"application_name": self._application_name}
        if not settings.database_pooler:
            session["statement_timeout"] = str(int(settings.database_statement_seconds * 1000) or 1)
        options |= {
            "connection_class": Connection,
            "password": settings.read_database_password(),
            "ssl": settings.make_database_tls(),
            "timeout": CONNECT_SECONDS,
            "command_timeout": settings.database_statement_seconds,
            "server_settings": session,
            "statement_cache_size": 0 if settings.database_pooler else 100,
        }
        connection: Connection = cast("Any", await asyncpg.connect(url, **options))
        connection.note_seen()
        return connection

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
        seconds = self._settings.database_pool_wait_seconds
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
                DatabaseUnavailableError(f"{self._name()} accepted no connection in {seconds:g} seconds")
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
                except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
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
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            self._warn("connection was closed, because it could not be used again", error)
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
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            terminate(connection)
            self._distrust()
            self._warn("connection was closed, because its transaction could not be rolled back", error)
        try:
            await self._release(connection)
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            self._distrust()
            self._warn("connection was closed, because the server did not respond", error)
        finally:
            self.in_use -= 1

    async def _release(self, connection: Connection) -> None:
        if self._pool is not None:
            # The proxy of asyncpg gives back each connection once.
            await self._pool.release(connection, timeout=RELEASE_SECONDS)
        else:
            terminate(connection)

    async def connect_once(self) -> Connection:
        """A connection that does not belong to the pool."""
        return await self.connect(self._settings.database_url.get_secret_value())

    def unavailable(self, error: Exception) -> DatabaseError:
        """The error for the service. Its cause is logged, at most once in a while."""
        timed_out = isinstance(error, StatementTimeoutError)
        self._warn("statement did not end in time" if timed_out else "database is not available", error)
        return error if isinstance(error, DatabaseError) else DatabaseUnavailableError(_reason(error))

    def _warn(self, event: str, error: Exception) -> None:
        now = monotonic()
        if now - self._logged_at >= LOG_SECONDS:
            self._logged_at = now
            log.warning(event, database=self.name, server=self._name(), reason=_reason(error))

    def _name(self) -> str:
        host, port, database = self.address
        return f"postgresql://{host}:{port}/{database}"


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


def _reason(error: BaseException) -> str:
    """The error in one line, without the details of the server, which may have values."""
    if isinstance(error, asyncpg.PostgresError):
        return f"{type(error).__name__}: {error.args[0] if error.args else ''}"
    if isinstance(error, DatabaseError):
        return str(error)
    return f"{type(error).__name__}: {error}".splitlines()[0].rstrip(": ")
