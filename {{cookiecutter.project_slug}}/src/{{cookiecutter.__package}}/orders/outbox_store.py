"""A store of orders whose events are stored in the transaction of the request, and published after its commit."""

from chassis.postgres import Outbox

from .events import EventOrderStore
from .postgres_store import PostgresOrderStore


class OutboxOrderStore(EventOrderStore):
    """Orders and their events in PostgreSQL: both are committed, or neither is."""

    def __init__(self, store: PostgresOrderStore, outbox: Outbox) -> None:
        super().__init__(store, outbox.add)
