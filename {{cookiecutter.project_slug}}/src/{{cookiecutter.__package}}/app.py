"""The service on one page: its routes, middleware, checks, resources and collaborators."""

{% if cookiecutter.database == "none" -%}
from chassis import App
{% else -%}
from chassis import App, IdempotencyStore
{% endif -%}
{% if cookiecutter.events == "nats" -%}
from chassis.nats import add_events
{% endif -%}
{% if cookiecutter.database != "none" and cookiecutter.events == "nats" and cookiecutter.example == "orders" -%}
from chassis.{{ cookiecutter.database }} import PostgresIdempotencyStore, add_database, add_inbox, add_outbox
{% elif cookiecutter.database != "none" -%}
from chassis.{{ cookiecutter.database }} import PostgresIdempotencyStore, add_database
{% endif %}
{% if cookiecutter.example == "orders" -%}
from .orders.catalogue import Catalogue
{% if cookiecutter.events == "nats" and cookiecutter.database == "none" -%}
from .orders.events import CREATED, EventOrderStore, Receipts
{% elif cookiecutter.events == "nats" -%}
from .orders.events import CREATED, Receipts
{% endif -%}
from .orders.handlers import PROBLEMS, OrderItem, Orders
{% if cookiecutter.database == "none" -%}
from .orders.memory_store import MemoryOrderStore
{% else -%}
{% if cookiecutter.events == "nats" -%}
from .orders.outbox_store import OutboxOrderStore
{% endif -%}
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
    {%- if cookiecutter.events == "nats" %}
    {%- if cookiecutter.database == "none" %}
    events = add_events(app, settings)
    {%- else %}
    events = add_events(app, settings, required=False)  # the outbox keeps the events while NATS is down
    {%- endif %}
    events.ensure_stream("orders", ["orders.>"])
    {%- endif %}
    {%- if cookiecutter.database == "none" and cookiecutter.events == "nats" %}
    store = store or MemoryOrderStore(max_orders=settings.max_orders)
    app.provide(OrderStore, EventOrderStore(store, events.publisher.publish))
    events.add_consumer(CREATED, Receipts(), stream="orders", durable="receipts")
    {%- elif cookiecutter.database == "none" %}
    app.provide(OrderStore, store or MemoryOrderStore(max_orders=settings.max_orders))
    {%- else %}
    if store is None:
        database = add_database(app, settings)
        app.provide(IdempotencyStore, PostgresIdempotencyStore(database))
        {%- if cookiecutter.events == "nats" %}
        app.provide(PostgresOrderStore, PostgresOrderStore)
        app.provide(OrderStore, OutboxOrderStore)
        add_outbox(app, database, events.publisher.deliver)
        inbox = add_inbox(app, database)
        events.add_consumer(CREATED, Receipts(), stream="orders", durable="receipts", inbox=inbox)
        {%- else %}
        app.provide(OrderStore, PostgresOrderStore)
        {%- endif %}
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
    {%- if cookiecutter.events == "nats" %}
    add_events(app, settings)  # provides Publisher to handlers; add streams and consumers to its result
    {%- endif %}
    app.add_problems({})  # for example: {InvoiceNotFoundError: 404}
    return app
{% endif %}