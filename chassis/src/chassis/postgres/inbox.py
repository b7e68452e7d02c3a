"""`PostgresInbox`: stores the ids of processed events in the transaction of the work."""

from collections.abc import Hashable

from ..app import App
from ..periodic_options import IDLE, Idle
from .queries import AnyDatabase, Queries

TABLE = """
CREATE TABLE processed_messages (
    consumer text NOT NULL,
    message_id text NOT NULL,
    processed_at timestamp with time zone NOT NULL DEFAULT now(),
    PRIMARY KEY (consumer, message_id)
);
CREATE INDEX ix_processed_messages_processed_at ON processed_messages (processed_at);
"""
"""The table, for services that do not use `chassis.migrations`."""

# A second delivery at the same time waits here until the first one is committed or rolled back.
ADD = "INSERT INTO processed_messages (consumer, message_id) VALUES ($1, $2) ON CONFLICT DO NOTHING"
DELETE_OLD = """
DELETE FROM processed_messages WHERE (consumer, message_id) IN (
    SELECT consumer, message_id FROM processed_messages
    WHERE processed_at < now() - $1::float8 * interval '1 second'
    ORDER BY processed_at LIMIT $2 FOR UPDATE SKIP LOCKED
)
"""
KEEP_SECONDS = 7 * 24 * 3600.0
CLEAN_SECONDS = 600.0
CLEAN_ROWS = 10_000


def add_inbox(app: App, database: AnyDatabase, *, keep_seconds: float = KEEP_SECONDS) -> "PostgresInbox":
    """Make an inbox for `Events.add_consumer`. Its entries are deleted after `keep_seconds`.

    Keep them for longer than an event may be delivered again, also after a mistake that holds up a consumer for days.
    """
    if keep_seconds <= 0:
        raise ValueError(f"keep_seconds is {keep_seconds:g}; it must be more than 0")
    inbox = PostgresInbox(database, keep_seconds=keep_seconds)
    app.every(CLEAN_SECONDS, inbox.clean, name="clean the inbox", first_after=CLEAN_SECONDS, once_per="pod")
    return inbox


class PostgresInbox:
    """An `Inbox`: an event is processed once, even if it is delivered again. Entries are in `processed_messages`."""

    needs: Hashable = Queries

    def __init__(self, database: AnyDatabase, *, keep_seconds: float = KEEP_SECONDS) -> None:
        self._database = database
        self._keep_seconds = keep_seconds

    async def add(self, provided: Queries, consumer: str, message_id: str) -> bool:
        """Add an event of a consumer, in its transaction. False if it is there already."""
        return await provided.execute(ADD, consumer, message_id) == "INSERT 0 1"

    async def clean(self) -> Idle | None:
        """Delete old entries."""
        status = await self._database.queries.execute(DELETE_OLD, self._keep_seconds, CLEAN_ROWS)
        return IDLE if status == "DELETE 0" else None
