"""The service on one page: its routes, middleware, checks, resources and collaborators."""

from chassis import App

{% if cookiecutter.example == "orders" -%}
from .orders.catalogue import Catalogue
from .orders.handlers import PROBLEMS, OrderItem, Orders
from .orders.store import OrderStore
{% endif -%}
from .settings import Settings

{% if cookiecutter.example == "orders" %}
def create_app(settings: Settings, *, store: OrderStore | None = None, catalogue: Catalogue | None = None) -> App:
    """Put the service together; tests replace its collaborators. It does no I/O: a server starts it."""
    store = store or OrderStore(max_orders=settings.max_orders)
    catalogue = catalogue or Catalogue()

    app = App(settings)
    app.add_problems(PROBLEMS)
    app.add_route("/orders", Orders(store, catalogue, app.tasks))
    app.add_route("/orders/{order_id}", OrderItem(store))
    app.add_check("order store", store.ping)
    return app
{% else %}
def create_app(settings: Settings) -> App:
    """Put the service together. It does no I/O: a server starts it."""
    app = App(settings)
    app.add_problems({})  # such as: {InvoiceNotFoundError: 404}
    return app
{% endif %}