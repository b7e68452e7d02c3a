"""Connects to a database: with the password and certificates as they are now, and with bounded waits."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from itertools import count
from time import monotonic
from typing import Any, NamedTuple, TypeVar, cast
from urllib.parse import urlsplit

import asyncpg
import structlog
from structlog.typing import FilteringBoundLogger

from .errors import DatabaseError, DatabaseUnavailableError, StatementTimeoutError
from .settings import Address, DatabaseSettings
from .url import without_password

log: FilteringBoundLogger = structlog.get_logger()

CONNECT_SECONDS = 5.0  # for one attempt; a request waits for database_pool_wait_seconds at most
RETRY_SECONDS = (0.1, 0.2, 0.5, 1.0)
LOG_SECONDS = 1.0  # between two lines about connections that fail
# A transaction that runs no statement for longer is rolled back by the server, so that its locks end.
IDLE_IN_TRANSACTION_SECONDS = 60.0
# The server ends the session of a client that it cannot reach for a minute, such as one on a node that is gone.
KEEPALIVES = {
    "tcp_keepalives_idle": "30",
    "tcp_keepalives_interval": "10",
    "tcp_keepalives_count": "3",
    "tcp_user_timeout": "60000",  # milliseconds; while a result is on its way, no keepalives are sent
}
# TimeoutError is an OSError. The last one: no server is the primary, as during a failover.
CONNECT_ERRORS = (OSError, asyncpg.PostgresError, asyncpg.TargetServerAttributeNotMatched)

Opened = TypeVar("Opened")


class Connection(asyncpg.Connection):
    """A connection that knows when the server has last responded to it, monotonic seconds."""

    __slots__ = ("seen_at",)

    seen_at: float

    def note_seen(self) -> None:
        """The server has responded."""
        self.seen_at = monotonic()


class Credentials(NamedTuple):
    """How to connect: the URL, and the password if it is not in there."""

    url: str
    password: str | None


class Connector:
    """Makes the connections of a pool, and logs why they fail."""

    connection_class: type[Connection] = Connection

    def __init__(self, settings: DatabaseSettings, name: str, application_name: str) -> None:
        self.name: str = name
        self.max_size: int = settings.database_pool_max
        self.address: Address = settings.database_address
        self.server_name: str = "postgresql://{}:{}/{}".format(*self.address)
        self.settings: DatabaseSettings = settings
        self._accepted: Credentials | None = None
        """Those of the last connection. They are tried again while the server does not know changed ones yet."""
        self._application_name = application_name
        self._logged_at = -LOG_SECONDS
        self._first_host = 0
        """The host that is tried first: another one after a host that did not respond."""

    def use_settings(self, settings: DatabaseSettings) -> bool:
        """Use other settings for new connections. Returns whether these are to another server, user or database."""
        before, after = (one.database_url.get_secret_value() for one in (self.settings, settings))
        self.settings = settings
        if without_password(before) == without_password(after):
            return False
        self.address = settings.database_address
        self.server_name = "postgresql://{}:{}/{}".format(*self.address)
        self._accepted = None
        self._first_host = 0
        return True

    async def connect(self, _url: str = "", **options: Any) -> Connection:
        """A new connection, with the URL, the password and the certificates as they are now.

        While a password changes, either the server or this process gets to know it first. So credentials that the
        server rejects are replaced by those that it has accepted last.
        """
        settings = self.settings
        credentials = Credentials(settings.database_url.get_secret_value(), settings.read_database_password())
        try:
            connection = await self._connect_with(credentials, settings, options)
        except asyncpg.InvalidPasswordError as error:
            last = self._accepted
            if last is None or last == credentials:
                raise
            self.warn("database rejects the new password; connected with the last one", error)
            return await self._connect_with(last, settings, options)
        if settings is self.settings:
            self._accepted = credentials
        return connection

    async def _connect_with(
        self, credentials: Credentials, settings: DatabaseSettings, options: Mapping[str, Any]
    ) -> Connection:
        url = credentials.url
        hosts = count_hosts(url)
        seconds = min(CONNECT_SECONDS, settings.database_pool_wait_seconds) / hosts if hosts > 1 else CONNECT_SECONDS
        session = {"application_name": self._application_name}
        if not settings.database_pooler:
            statement = settings.database_statement_seconds
            session |= KEEPALIVES
            session["statement_timeout"] = _milliseconds(statement)
            session["idle_in_transaction_session_timeout"] = _milliseconds(max(statement, IDLE_IN_TRANSACTION_SECONDS))
        options = {
            **options,
            "connection_class": self.connection_class,
            "password": credentials.password,
            "ssl": settings.make_database_tls(),
            "timeout": seconds,
            "command_timeout": settings.database_statement_seconds,
            "server_settings": session,
            "statement_cache_size": 0 if settings.database_pooler else 100,
        }
        for attempt in range(1, hosts + 1):
            first = self._first_host
            try:
                connection: Connection = cast("Any", await asyncpg.connect(rotate_hosts(url, first), **options))
            except (TimeoutError, asyncio.CancelledError) as error:
                # asyncpg does not reach the next host. A request that is at its deadline cancels this.
                if self._first_host == first:
                    self._first_host = (first + 1) % hosts
                if attempt == hosts or not isinstance(error, TimeoutError):
                    raise
            else:
                connection.note_seen()
                return connection
        raise AssertionError  # the last attempt raises

    async def connect_once(self) -> Connection:
        """A connection that does not belong to the pool."""
        return await self.connect()

    async def open_with_retries(self, open_once: Callable[[], Awaitable[Opened]]) -> Opened:
        """Call `open_once` again and again for `database_connect_seconds`. Raises `DatabaseUnavailableError`."""
        seconds = self.settings.database_connect_seconds
        deadline = monotonic() + seconds
        for attempt in count():
            try:
                async with asyncio.timeout(min(CONNECT_SECONDS, max(0.1, deadline - monotonic()))):
                    return await open_once()
            except (*CONNECT_ERRORS, DatabaseUnavailableError) as error:
                delay = RETRY_SECONDS[min(attempt, len(RETRY_SECONDS) - 1)]
                if monotonic() + delay > deadline:
                    raise DatabaseUnavailableError(
                        f"{self.server_name} accepted no connection in {seconds:g} seconds: "
                        f"{reason_of(error)}; check the URL, the password and the network policy"
                    ) from error
                self.warn("database does not accept connections yet", error)
                await asyncio.sleep(delay)
            except (asyncpg.ClientConfigurationError, ValueError) as error:  # another attempt would not help
                raise DatabaseUnavailableError(
                    f"{self.server_name} cannot be used: {reason_of(error)}; correct APP_DATABASE_URL"
                ) from error
        raise AssertionError  # the loop does not end

    def unavailable(self, error: Exception) -> DatabaseError:
        """The error for the service. Its cause is logged, at most once in a while."""
        timed_out = isinstance(error, StatementTimeoutError)
        self.warn("statement did not end in time" if timed_out else "database is not available", error)
        return error if isinstance(error, DatabaseError) else DatabaseUnavailableError(reason_of(error))

    def warn(self, event: str, error: BaseException) -> None:
        """Log why a connection failed, at most once in a while."""
        now = monotonic()
        if now - self._logged_at >= LOG_SECONDS:
            self._logged_at = now
            log.warning(event, database=self.name, server=self.server_name, reason=reason_of(error))


def _milliseconds(seconds: float) -> str:
    """The value of a timeout of the server, which takes 0 for none."""
    return str(max(1, int(seconds * 1000)))


def count_hosts(url: str) -> int:
    """The number of hosts in a URL, separated by commas."""
    return urlsplit(url).netloc.rpartition("@")[2].count(",") + 1


def rotate_hosts(url: str, first: int) -> str:
    """The URL whose list of hosts begins with that of the index `first`."""
    if not first:
        return url
    netloc = urlsplit(url).netloc
    user, at, names = netloc.rpartition("@")
    hosts = names.split(",")
    return url.replace(netloc, user + at + ",".join(hosts[first:] + hosts[:first]), 1)


def reason_of(error: BaseException) -> str:
    """The error in one line, without the details of the server, which may have values."""
    if isinstance(error, asyncpg.PostgresError):
        return f"{type(error).__name__}: {error.args[0] if error.args else ''}"
    if isinstance(error, DatabaseError):
        return str(error)
    return f"{type(error).__name__}: {error}".splitlines()[0].rstrip(": ")
