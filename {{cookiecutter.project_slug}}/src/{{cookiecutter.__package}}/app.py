"""The service on one page: its routes, middleware, checks, resources and collaborators."""

{% if cookiecutter.database != "none" and cookiecutter.example == "none" -%}
from chassis import App, IdempotencyStore
{% elif cookiecutter.auth == "jwt" and cookiecutter.example == "orders" -%}
from chassis import App, read_write
{% else -%}
from chassis import App
{% endif -%}
{% if cookiecutter.auth == "jwt" -%}
from chassis.auth import add_auth
{% endif -%}
{% if cookiecutter.events == "nats" and cookiecutter.example == "none" -%}
from chassis.nats import add_events
{% endif -%}
{% if cookiecutter.database != "none" and cookiecutter.example == "none" -%}
from chassis.{{ cookiecutter.database }} import PostgresIdempotencyStore, add_database
{% endif %}
{% if cookiecutter.example == "orders" -%}
from .orders.catalogue import Catalogue
from .orders.handlers import PROBLEMS, OrderItem, Orders
{% if cookiecutter.database == "none" and cookiecutter.events == "none" -%}
from .orders.memory_store import MemoryOrderStore
from .orders.store import OrderStore
{% else -%}
from .orders.store import OrderStore
from .resources import add_resources
{% endif -%}
{% endif -%}
from .settings import Settings

{% if cookiecutter.auth == "jwt" and cookiecutter.example == "orders" -%}
ACCESS = read_write("orders:read", "orders:write")  # the scopes that clients need

{% endif -%}
{% if cookiecutter.example == "orders" %}
def create_app(settings: Settings, *, store: OrderStore | None = None, catalogue: Catalogue | None = None) -> App:
    """Create the service. Tests can replace its collaborators. Does no I/O: the server starts the app."""
    catalogue = catalogue or Catalogue()

    app = App(settings)
    {%- if cookiecutter.auth == "jwt" %}
    add_auth(app, settings)
    {%- endif %}
    app.add_problems(PROBLEMS)
    {%- if cookiecutter.database == "none" and cookiecutter.events == "none" %}
    app.provide(OrderStore, store or MemoryOrderStore(max_orders=settings.max_orders))
    {%- else %}
    add_resources(app, settings, store=store)
    {%- endif %}
    app.add_check("catalogue", catalogue.ping)
    {%- if cookiecutter.auth == "jwt" %}
    app.add_route("/orders", Orders(catalogue), requires=ACCESS)
    app.add_route("/orders/{order_id}", OrderItem(catalogue), requires=ACCESS)
    {%- else %}
    app.add_route("/orders", Orders(catalogue))
    app.add_route("/orders/{order_id}", OrderItem(catalogue))
    {%- endif %}
    return app
{% else %}
def create_app(settings: Settings) -> App:
    """Create the service. Does no I/O: the server starts the app."""
    app = App(settings)
    {%- if cookiecutter.auth == "jwt" %}
    add_auth(app, settings)  # from now on, each route needs a token, unless it is @public
    {%- endif %}
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