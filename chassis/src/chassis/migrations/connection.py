"""The connection of a migration: made with retries, direct, and with a lock that only one process has."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from time import monotonic
from typing import Any
from urllib.parse import urlsplit

import structlog
from sqlalchemy import Connection as SyncConnection
from sqlalchemy import NullPool, event
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine
from structlog.typing import FilteringBoundLogger

from ..postgres.connector import Connection, Connector
from ..postgres.settings import DatabaseSettings
from .errors import MigrationError

log: FilteringBoundLogger = structlog.get_logger()

# Any number that other programs do not use. Advisory locks belong to a database.
LOCK = 6_353_290_751_013_845_901
POLL_SECONDS = 0.2
# While a statement waits for a lock of a table, all later queries of that table wait behind it.
LOCK_TIMEOUT_SECONDS = 3.0
# The index of a large table takes longer than a request may.
STATEMENT_SECONDS = 86_400.0


def direct(settings: DatabaseSettings) -> DatabaseSettings:
    """The settings of a connection that changes tables. Raises `MigrationError` if it would go through a pooler."""
    changes: dict[str, Any] = {"database_statement_seconds": STATEMENT_SECONDS, "database_pooler": False}
    url = settings.database_migration_url
    if url is not None:
        changes["database_url"] = url
        if urlsplit(url.get_secret_value()).password:
            changes |= {"database_password": None, "database_password_file": None}
    elif settings.database_pooler:
        raise MigrationError(
            "APP_DATABASE_POOLER is true, and migrations need a session of their own; "
            "set APP_DATABASE_MIGRATION_URL to the server behind the pooler"
        )
    return settings.model_copy(update=changes)


@asynccontextmanager
async def connected(settings: DatabaseSettings, application_name: str) -> AsyncIterator[AsyncConnection]:
    """A connection to the server, tried again for `database_connect_seconds`. Raises `DatabaseUnavailableError`."""
    connector = Connector(direct(settings), "migrations", application_name)

    async def connect() -> Connection:
        return await connector.open_with_retries(connector.connect_once)

    engine = create_async_engine("postgresql+asyncpg://", async_creator=connect, poolclass=NullPool)
    event.listen(engine.sync_engine, "begin", _limit_lock_waits)
    try:
        async with engine.connect() as connection:
            yield connection
    finally:
        await engine.dispose()


def _limit_lock_waits(connection: SyncConnection) -> None:
    # Outside of a transaction, as in `autocommit_block`, this has no effect: CREATE INDEX CONCURRENTLY blocks nobody
    # while it waits, and an interrupted one leaves an invalid index.
    connection.exec_driver_sql(f"SET LOCAL lock_timeout = {int(LOCK_TIMEOUT_SECONDS * 1000)}")


async def lock(connection: AsyncConnection, seconds: float) -> None:
    """Take the lock, for as long as the connection is open. Raises `MigrationError` after `seconds`."""
    deadline = monotonic() + seconds
    has_waited = False
    # `pg_advisory_lock` would wait in a transaction, and CREATE INDEX CONCURRENTLY of the other process for its end.
    while not await _try_lock(connection):
        if monotonic() > deadline:
            raise MigrationError(
                f"another process has migrated this database for {seconds:g} seconds; wait for its end, or find it in "
                "pg_locks, where locktype is advisory"
            )
        if not has_waited:
            has_waited = True
            log.info("another process migrates this database; waiting for its end", seconds=seconds)
        await asyncio.sleep(POLL_SECONDS)


async def _try_lock(connection: AsyncConnection) -> bool:
    result = await connection.exec_driver_sql(f"SELECT pg_try_advisory_lock({LOCK})")
    is_taken = bool(result.scalar_one())
    await connection.commit()
    return is_taken
