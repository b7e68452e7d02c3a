"""The names of constraints, and the tables of the chassis, for the metadata of a service."""

from sqlalchemy import Column, DateTime, Index, Integer, LargeBinary, MetaData, Table, Text
from sqlalchemy.dialects.postgresql import JSONB

NAMING_CONVENTION = {
    "pk": "pk_%(table_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
}
"""Names for constraints, so that migrations can change them. For `MetaData(naming_convention=…)`.

A check constraint needs a name of its own, such as `positive`.
"""


def idempotency_table(metadata: MetaData) -> Table:
    """Add the table `idempotency_keys`, in which `PostgresIdempotencyStore` keeps responses."""
    return Table(
        "idempotency_keys",
        metadata,
        Column("key", Text, primary_key=True),
        Column("fingerprint", Text, nullable=False),
        Column("attempt", Text, nullable=False),
        Column("expires_at", DateTime(timezone=True), nullable=False),
        Column("status", Integer),
        Column("headers", JSONB),
        Column("body", LargeBinary),
        Index(None, "expires_at"),
    )
