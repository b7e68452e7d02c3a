"""Migrations of a PostgreSQL database with Alembic. An optional part, `[migrations]`.

python -m chassis.migrations order_service upgrade

Tables of a service are in modules that are called `tables`:

from chassis.migrations import NAMING_CONVENTION, idempotency_table
"""

from importlib.util import find_spec

if find_spec("alembic") is None:
    raise ImportError("chassis.migrations needs alembic, which is not installed; depend on asgi-chassis[migrations]")

from .tables import NAMING_CONVENTION, idempotency_table, inbox_table, outbox_table, rate_limit_table

__all__ = ["NAMING_CONVENTION", "idempotency_table", "inbox_table", "outbox_table", "rate_limit_table"]
