"""Request handlers for orders."""

import asyncio
from datetime import UTC, datetime
from typing import Annotated
from uuid import UUID, uuid4

import structlog
from chassis import (
    Cursor,
    Handler,
    Reply,
    RequestTasks,
    check_conditions,
    conditional,
    etag_of,
    idempotent,
    page,
    repeatable,
    responds,
)
from pydantic import Field
from starlette.requests import Request

from .catalogue import Catalogue, UnknownProductError
from .models import NewOrder, Order, Position
from .store import OrderChangedError, OrderNotFoundError, OrderStore, StoreFullError

log = structlog.get_logger()

# The status for each error that clients may see. The message of the error becomes the `detail` of the response.
PROBLEMS: dict[type[Exception], int] = {
    OrderNotFoundError: 404,
    UnknownProductError: 409,
    OrderChangedError: 412,
    StoreFullError: 507,
}

Limit = Annotated[int, Field(ge=1, le=100, description="The most orders to list.")]


class Orders(Handler):
    """All orders."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue

    @responds(headers={"link": "The next page."})
    async def get(
        self, request: Request, store: OrderStore, limit: Limit = 20, cursor: Cursor[Position] | None = None
    ) -> Reply[list[Order]]:
        """List orders, the newest first."""
        # Read one more order than requested, to know if there is a next page.
        orders = await store.newest(limit + 1, before=cursor.position if cursor else None)
        return page(request, orders, limit=limit, position=lambda order: order.position)

    @idempotent()
    @responds(
        201, {409: "A product is not in the catalogue.", 507: "The store is full."}, headers={"location": "The order."}
    )
    async def post(self, body: NewOrder, store: OrderStore, tasks: RequestTasks) -> Reply[Order]:
        """Create an order."""
        total = await total_cents(self._catalogue, body)
        order = Order(**body.model_dump(), id=uuid4(), total_cents=total, created=datetime.now(UTC))
        await store.add(order)
        tasks.start(confirm(order), name="confirm order")
        return Reply(order, headers={"location": f"/orders/{order.id}"})


class OrderItem(Handler):
    """One order."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue

    @responds(errors={404: "There is no order with this id."}, others={304: None}, headers={"etag": "The version."})
    async def get(self, order_id: UUID, request: Request, store: OrderStore) -> Reply[Order]:
        """Read an order."""
        order = await store.get(order_id)
        return conditional(request, order, etag=order.version)

    @repeatable
    @responds(
        errors={404: "There is no order with this id.", 412: "The order has changed.", 428: "If-Match is missing."},
        headers={"etag": "The new version."},
    )
    async def put(self, order_id: UUID, body: NewOrder, request: Request, store: OrderStore) -> Reply[Order]:
        """Change an order. `If-Match` has the version that the client has read, so no change is lost."""
        order = await store.get(order_id)
        check_conditions(request, etag=order.version, required=True)
        total = await total_cents(self._catalogue, body)
        changed = Order(
            **body.model_dump(), id=order.id, version=order.version + 1, total_cents=total, created=order.created
        )
        await store.replace(changed)  # compares the version again, because another request may be faster
        return Reply(changed, headers={"etag": etag_of(changed.version)})

    @responds(errors={404: "There is no order with this id."})
    async def delete(self, order_id: UUID, store: OrderStore) -> None:
        """Delete an order."""
        await store.remove(order_id)


async def total_cents(catalogue: Catalogue, order: NewOrder) -> int:
    """Return the price of an order; raises `UnknownProductError`."""
    # Fetch all prices at the same time. The first failure cancels the other calls.
    async with asyncio.TaskGroup() as group:
        prices = [group.create_task(catalogue.price_cents(line.sku)) for line in order.lines]
    return sum(price.result() * line.quantity for price, line in zip(prices, order.lines, strict=True))


async def confirm(order: Order) -> None:
    """Confirm the order to the customer. Runs in the background, when the order is stored."""
    log.info("order confirmed", order_id=str(order.id), total_cents=order.total_cents)
