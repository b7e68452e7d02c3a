"""NATS, and the stores that use it."""

from chassis import App
from chassis.nats import add_events

from .orders.events import CREATED, EventOrderStore, Receipts
from .orders.memory_store import MemoryOrderStore
from .orders.store import OrderStore
from .settings import Settings


def add_resources(app: App, settings: Settings, *, store: OrderStore | None = None) -> None:
    """Add NATS, its streams and consumers, and the store of orders. Tests can replace the store."""
    events = add_events(app, settings)
    events.ensure_stream("orders", ["orders.>"])
    events.add_consumer(CREATED, Receipts(), stream="orders", durable="receipts")

    store = store or MemoryOrderStore(max_orders=settings.max_orders)
    app.provide(OrderStore, EventOrderStore(store, events.publisher.publish))
