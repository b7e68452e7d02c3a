"""PostgreSQL with SQLAlchemy 2: one `AsyncSession` a request, metrics and spans. An optional part, `[sqlalchemy]`.

from chassis.sqlalchemy import Database, DatabaseSettings, add_database
"""

from importlib.util import find_spec

if find_spec("asyncpg") is None or find_spec("sqlalchemy") is None or find_spec("greenlet") is None:
    raise ImportError(
        "chassis.sqlalchemy needs asyncpg and sqlalchemy[asyncio], and one of them is not installed; "
        "depend on asgi-chassis[sqlalchemy]"
    )

from ..postgres.errors import (
    ConflictError,
    DatabaseError,
    DatabaseUnavailableError,
    InvalidValueError,
    PoolExhaustedError,
    StatementTimeoutError,
    TransactionFailedError,
)
from ..postgres.idempotency import PostgresIdempotencyStore
from ..postgres.inbox import PostgresInbox, add_inbox
from ..postgres.outbox import Outbox
from ..postgres.outbox_relay import OutboxRelay, add_outbox
from ..postgres.queries import AnyDatabase, Queries, Row
from ..postgres.rate_limits import PostgresRateLimitStore, add_rate_limit_store
from ..postgres.settings import DatabaseSettings
from .database import Database, add_database

__all__ = [
    "AnyDatabase",
    "ConflictError",
    "Database",
    "DatabaseError",
    "DatabaseSettings",
    "DatabaseUnavailableError",
    "InvalidValueError",
    "Outbox",
    "OutboxRelay",
    "PoolExhaustedError",
    "PostgresIdempotencyStore",
    "PostgresInbox",
    "PostgresRateLimitStore",
    "Queries",
    "Row",
    "StatementTimeoutError",
    "TransactionFailedError",
    "add_database",
    "add_inbox",
    "add_outbox",
    "add_rate_limit_store",
]
