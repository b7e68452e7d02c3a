"""`Outbox`: messages that are stored in the transaction of the work. `outbox_relay` delivers them afterwards.

Order: messages with the same key are delivered in the order in which their transactions were committed. Identity values
alone would not give this order, because a later value can be committed first. So `add` takes a lock on the key until
the transaction ends.
"""

import asyncio
import json
from collections.abc import Mapping
from uuid import uuid4
from zlib import crc32

from opentelemetry import context as otel_context
from pydantic import BaseModel

from ..telemetry.outgoing_context import propagation_headers
from .queries import Queries

TABLE = """
CREATE TABLE outbox (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    message_id uuid NOT NULL,
    subject text NOT NULL,
    key text,
    payload bytea NOT NULL,
    headers jsonb NOT NULL,
    created_at timestamp with time zone NOT NULL DEFAULT now(),
    due_at timestamp with time zone NOT NULL DEFAULT now(),
    failures integer NOT NULL DEFAULT 0,
    rejections integer NOT NULL DEFAULT 0,
    rejected_at timestamp with time zone,
    error text
);
CREATE INDEX ix_outbox_key_id ON outbox (key, id) WHERE rejected_at IS NULL;
"""
"""The table, for services that do not use `chassis.migrations`."""

# The first half of the advisory locks of keys: "outb". The second half is a hash of the key.
LOCKS = 0x6F757462
ADD = """
INSERT INTO outbox (message_id, subject, payload, headers)
VALUES ($1::text::uuid, $2::text, $3::bytea, $4::text::jsonb)
"""
# The lock is taken before the identity value, because that is made for a row of `turn`.
ADD_IN_ORDER = """
WITH turn AS MATERIALIZED (SELECT pg_advisory_xact_lock($6::integer, $7::integer))
INSERT INTO outbox (message_id, subject, payload, headers, key)
SELECT $1::text::uuid, $2::text, $3::bytea, $4::text::jsonb, $5::text FROM turn
"""


class Outbox:
    """Stores messages in the transaction of the request. They are delivered after its commit, at least once.

    async def post(self, body: NewOrder, queries: Queries, outbox: Outbox) -> Order: ...
    """

    def __init__(self, queries: Queries, added: asyncio.Event | None = None) -> None:
        """`added` is set for each message."""
        self._queries = queries
        self._added = added

    async def add(
        self,
        subject: str,
        payload: BaseModel | bytes,
        *,
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> str:
        """Store a message, and return its id. A model becomes JSON.

        Messages with the same `key`, such as the id of an order, are delivered in the order of their commits. For this,
        a transaction waits here until another one that has added a message with the same key has ended. Messages
        without a key have no order.
        """
        data = payload if isinstance(payload, bytes) else payload.model_dump_json(by_alias=True).encode()
        message_id = str(uuid4())
        stored = {**(headers or {}), **propagation_headers(otel_context.get_current())}
        if not isinstance(payload, bytes):
            stored.setdefault("content-type", "application/json")
        arguments = (message_id, subject, data, json.dumps(stored))
        if key is None:
            await self._queries.execute(ADD, *arguments)
        else:
            await self._queries.execute(ADD_IN_ORDER, *arguments, key, LOCKS, _lock_of(key))
        if self._added is not None:
            self._added.set()
        return message_id


def _lock_of(key: str) -> int:
    """A hash of the key that fits PostgreSQL's `integer`."""
    return crc32(key.encode()) - 2**31
