"""The database and NATS, and the stores that use them."""

from chassis import App, IdempotencyStore
from chassis.nats import add_events
from chassis.{{ cookiecutter.database }} import PostgresIdempotencyStore, add_database, add_inbox, add_outbox

from .orders.events import CREATED, Receipts
from .orders.outbox_store import OutboxOrderStore
from .orders.postgres_store import PostgresOrderStore
from .orders.store import OrderStore
from .settings import Settings


def add_resources(app: App, settings: Settings, *, store: OrderStore | None = None) -> None:
    """Add NATS, the database, and the store of orders in it. With another store, as in tests, there is no database."""
    events = add_events(app, settings, required=False)  # the outbox keeps the events while NATS is down
    events.ensure_stream("orders", ["orders.>"])
    if store is not None:
        app.provide(OrderStore, store)
        return
    database = add_database(app, settings)
    app.provide(IdempotencyStore, PostgresIdempotencyStore(database))
    app.provide(PostgresOrderStore, PostgresOrderStore)
    app.provide(OrderStore, OutboxOrderStore)
    add_outbox(app, database, events.publisher.deliver)
    inbox = add_inbox(app, database)
    events.add_consumer(CREATED, Receipts(), stream="orders", durable="receipts", inbox=inbox)
