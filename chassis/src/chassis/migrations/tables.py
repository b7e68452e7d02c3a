"""The names of constraints, and the tables of the chassis, for the metadata of a service."""

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    Uuid,
    text,
)
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


def outbox_table(metadata: MetaData) -> Table:
    """Add the table `outbox`, in which `Outbox` keeps messages until they are delivered."""
    return Table(
        "outbox",
        metadata,
        Column("id", BigInteger, Identity(always=True), primary_key=True),
        Column("message_id", Uuid, nullable=False),
        Column("subject", Text, nullable=False),
        Column("key", Text),
        Column("payload", LargeBinary, nullable=False),
        Column("headers", JSONB, nullable=False),
        Column("created_at", DateTime(timezone=True), nullable=False, server_default=text("now()")),
        Column("due_at", DateTime(timezone=True), nullable=False, server_default=text("now()")),
        Column("failures", Integer, nullable=False, server_default=text("0")),
        Column("rejections", Integer, nullable=False, server_default=text("0")),
        Column("rejected_at", DateTime(timezone=True)),
        Column("error", Text),
        Index(None, "key", "id", postgresql_where=text("rejected_at IS NULL")),
    )


def inbox_table(metadata: MetaData) -> Table:
    """Add the table `processed_messages`, in which `PostgresInbox` keeps the ids of processed events."""
    return Table(
        "processed_messages",
        metadata,
        Column("consumer", Text, primary_key=True),
        Column("message_id", Text, primary_key=True),
        Column("processed_at", DateTime(timezone=True), nullable=False, server_default=text("now()")),
        Index(None, "processed_at"),
    )


def rate_limit_table(metadata: MetaData) -> Table:
    """Add the table `rate_limits`, in which `PostgresRateLimitStore` counts requests."""
    return Table(
        "rate_limits",
        metadata,
        Column("policy", Text, primary_key=True),
        Column("caller", Text, primary_key=True),
        Column("full_at", BigInteger, nullable=False),
        Column("is_allowed", Boolean, nullable=False),
        Index(None, "full_at"),
        prefixes=["UNLOGGED"],
    )
