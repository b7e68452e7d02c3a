"""Request handlers for orders."""

import asyncio
from datetime import UTC, datetime
from typing import Annotated
from uuid import UUID, uuid4

import structlog
from chassis import Cursor, Handler, Reply, Tasks, conditional, idempotent, page, responds
from pydantic import Field
from starlette.requests import Request

from .catalogue import Catalogue, UnknownProductError
from .models import NewOrder, Order, Position
from .store import OrderNotFoundError, OrderStore, StoreFullError

log = structlog.get_logger()

# The status for each error that clients may see. The message of the error becomes the `detail` of the response.
PROBLEMS: dict[type[Exception], int] = {
    OrderNotFoundError: 404,
    UnknownProductError: 409,
    StoreFullError: 507,
}

Limit = Annotated[int, Field(ge=1, le=100, description="The most orders to list.")]


class Orders(Handler):
    """All orders."""

    def __init__(self, store: OrderStore, catalogue: Catalogue, tasks: Tasks) -> None:
        self._store = store
        self._catalogue = catalogue
        self._tasks = tasks

    @responds(headers={"link": "The next page."})
    async def get(
        self, request: Request, limit: Limit = 20, cursor: Cursor[Position] | None = None
    ) -> Reply[list[Order]]:
        """List orders, the newest first."""
        # Read one more order than requested, to know if there is a next page.
        orders = self._store.newest(limit + 1, before=cursor.position if cursor else None)
        return page(request, orders, limit=limit, position=lambda order: order.position)

    @idempotent()
    @responds(
        201, {409: "A product is not in the catalogue.", 507: "The store is full."}, headers={"location": "The order."}
    )
    async def post(self, body: NewOrder) -> Reply[Order]:
        """Create an order."""
        # Fetch all prices at the same time. The first failure cancels the other calls.
        async with asyncio.TaskGroup() as group:
            prices = [group.create_task(self._catalogue.price_cents(line.sku)) for line in body.lines]
        total = sum(price.result() * line.quantity for price, line in zip(prices, body.lines, strict=True))
        order = Order(**body.model_dump(), id=uuid4(), total_cents=total, created=datetime.now(UTC))
        self._store.add(order)
        self._tasks.start(confirm(order), name="confirm order")
        return Reply(order, headers={"location": f"/orders/{order.id}"})


class OrderItem(Handler):
    """One order."""

    def __init__(self, store: OrderStore) -> None:
        self._store = store

    @responds(errors={404: "There is no order with this id."}, others={304: None}, headers={"etag": "The version."})
    async def get(self, order_id: UUID, request: Request) -> Reply[Order]:
        """Read an order."""
        order = self._store.get(order_id)
        return conditional(request, order, etag=order)

    @responds(errors={404: "There is no order with this id."})
    async def delete(self, order_id: UUID) -> None:
        """Delete an order."""
        self._store.remove(order_id)


async def confirm(order: Order) -> None:
    """Confirm the order to the customer. Runs in the background, after the response."""
    log.info("order confirmed", order_id=str(order.id), total_cents=order.total_cents)
