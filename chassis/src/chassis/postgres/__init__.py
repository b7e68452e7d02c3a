"""PostgreSQL with asyncpg: a pool, one transaction a request, metrics and spans. An optional part, `[postgres]`.

from chassis.postgres import Database, DatabaseSettings, Transaction, add_database
"""

from importlib.util import find_spec

if find_spec("asyncpg") is None:
    raise ImportError("chassis.postgres needs asyncpg, which is not installed; depend on asgi-chassis[postgres]")

from .database import Database, add_database
from .errors import (
    ConflictError,
    DatabaseError,
    DatabaseUnavailableError,
    InvalidValueError,
    PoolExhaustedError,
    StatementTimeoutError,
    TransactionFailedError,
)
from .idempotency import PostgresIdempotencyStore
from .inbox import PostgresInbox, add_inbox
from .outbox import Outbox
from .outbox_relay import OutboxRelay, add_outbox
from .queries import AnyDatabase, Queries, Row
from .rate_limits import PostgresRateLimitStore, add_rate_limit_store
from .settings import DatabaseSettings
from .transaction import Transaction

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
    "Transaction",
    "TransactionFailedError",
    "add_database",
    "add_inbox",
    "add_outbox",
    "add_rate_limit_store",
]
