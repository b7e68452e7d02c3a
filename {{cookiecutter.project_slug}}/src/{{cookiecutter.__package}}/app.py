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
    """Create the service. Tests can replace its collaborators. Does no I/O: the server starts the app."""
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
    """Create the service. Does no I/O: the server starts the app."""
    app = App(settings)
    app.add_problems({})  # for example: {InvoiceNotFoundError: 404}
    return app
{% endif %}