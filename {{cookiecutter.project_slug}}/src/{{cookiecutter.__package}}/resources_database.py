"""The database, and the stores that use it."""

from chassis import App, IdempotencyStore
from chassis.{{ cookiecutter.database }} import PostgresIdempotencyStore, add_database

from .orders.postgres_store import PostgresOrderStore
from .orders.store import OrderStore
from .settings import Settings


def add_resources(app: App, settings: Settings, *, store: OrderStore | None = None) -> None:
    """Add the database, and the store of orders in it. With another store, as in tests, there is no database."""
    if store is not None:
        app.provide(OrderStore, store)
        return
    database = add_database(app, settings)
    app.provide(IdempotencyStore, PostgresIdempotencyStore(database))
    app.provide(OrderStore, PostgresOrderStore)
