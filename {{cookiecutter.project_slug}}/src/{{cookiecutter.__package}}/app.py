"""The service on one page: its routes, middleware, checks, resources and collaborators."""

{% if cookiecutter.database == "none" -%}
from chassis import App
{% else -%}
from chassis import App, IdempotencyStore
from chassis.{{ cookiecutter.database }} import PostgresIdempotencyStore, add_database
{% endif %}
{% if cookiecutter.example == "orders" -%}
from .orders.catalogue import Catalogue
from .orders.handlers import PROBLEMS, OrderItem, Orders
{% if cookiecutter.database == "none" -%}
from .orders.memory_store import MemoryOrderStore
{% else -%}
from .orders.postgres_store import PostgresOrderStore
{% endif -%}
from .orders.store import OrderStore
{% endif -%}
from .settings import Settings

{% if cookiecutter.example == "orders" %}
def create_app(settings: Settings, *, store: OrderStore | None = None, catalogue: Catalogue | None = None) -> App:
    """Create the service. Tests can replace its collaborators. Does no I/O: the server starts the app."""
    catalogue = catalogue or Catalogue()

    app = App(settings)
    app.add_problems(PROBLEMS)
    {%- if cookiecutter.database == "none" %}
    app.provide(OrderStore, store or MemoryOrderStore(max_orders=settings.max_orders))
    {%- else %}
    if store is None:
        database = add_database(app, settings)
        app.provide(IdempotencyStore, PostgresIdempotencyStore(database))
        app.provide(OrderStore, PostgresOrderStore)
    else:
        app.provide(OrderStore, store)  # in tests without a database
    {%- endif %}
    app.add_check("catalogue", catalogue.ping)
    app.add_route("/orders", Orders(catalogue))
    app.add_route("/orders/{order_id}", OrderItem(catalogue))
    return app
{% else %}
def create_app(settings: Settings) -> App:
    """Create the service. Does no I/O: the server starts the app."""
    app = App(settings)
    {%- if cookiecutter.database != "none" %}
    database = add_database(app, settings)
    app.provide(IdempotencyStore, PostgresIdempotencyStore(database))
    {%- endif %}
    app.add_problems({})  # for example: {InvoiceNotFoundError: 404}
    return app
{% endif %}