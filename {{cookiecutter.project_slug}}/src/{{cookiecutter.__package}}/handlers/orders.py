"""Orders: the example. Copy this module for a resource of your own, then delete it."""

import asyncio
from datetime import UTC, datetime
from typing import Annotated
from uuid import UUID, uuid4

import structlog
from pydantic import BaseModel, Field

from ..chassis import Handler, Problem, Reply, Tasks, responds

log = structlog.get_logger()


class OrderLine(BaseModel):
    """What is ordered, and how often."""

    sku: str = Field(min_length=1, max_length=40, examples=["tea"])
    quantity: int = Field(ge=1, le=1000, examples=[2])


class NewOrder(BaseModel):
    """An order as a customer sends it."""

    customer: str = Field(min_length=1, max_length=200, examples=["Ada"])
    lines: list[OrderLine] = Field(min_length=1, max_length=50)


class Order(NewOrder):
    """An order as it was accepted."""

    id: UUID
    total_cents: int
    created: datetime


class Catalogue:
    """Prices; stands for a service that is asked over the network."""

    def __init__(self) -> None:
        self._cents = {"tea": 450, "coffee": 690, "cocoa": 820}

    async def price_cents(self, sku: str) -> int:
        """The price of one `sku`; an unknown one is a `Problem`."""
        if sku not in self._cents:
            raise Problem(409, f"There is no {sku!r} in the catalogue.")
        return self._cents[sku]


class OrderStore:
    """Orders in memory, gone with the process; holds at most `max_orders`."""

    def __init__(self, *, max_orders: int) -> None:
        self._orders: dict[UUID, Order] = {}
        self._max_orders = max_orders

    def add(self, order: Order) -> None:
        """Keep `order`, or raise a `Problem` when there is no room."""
        if len(self._orders) >= self._max_orders:
            raise Problem(507, "The order store is full.")
        self._orders[order.id] = order

    def get(self, order_id: UUID) -> Order:
        """The order of this id, or a `Problem`."""
        if order_id not in self._orders:
            raise Problem(404, "No order has this id.")
        return self._orders[order_id]

    def remove(self, order_id: UUID) -> None:
        """Forget the order of this id, or raise a `Problem`."""
        self.get(order_id)
        del self._orders[order_id]

    def newest(self, limit: int) -> list[Order]:
        """The last `limit` orders, the newest first."""
        return list(self._orders.values())[: -limit - 1 : -1]

    async def check(self) -> None:
        """Readiness: a store that is full can't take orders, so others should get them."""
        if len(self._orders) >= self._max_orders:
            raise RuntimeError("the order store is full")


class Orders(Handler):
    """All orders."""

    def __init__(self, store: OrderStore, catalogue: Catalogue, tasks: Tasks) -> None:
        self._store = store
        self._catalogue = catalogue
        self._tasks = tasks

    async def get(
        self, limit: Annotated[int, Field(ge=1, le=100, description="How many at the most.")] = 20
    ) -> list[Order]:
        """List orders, the newest first."""
        return self._store.newest(limit)

    @responds(201, {409: "A line names something that is not in the catalogue.", 507: "The store is full."})
    async def post(self, body: NewOrder) -> Reply[Order]:
        """Create an order."""
        # All prices are asked for at the same time; the first failure cancels the other questions.
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

    @responds(errors={404: "No order has this id."})
    async def get(self, order_id: UUID) -> Order:
        """Read an order."""
        return self._store.get(order_id)

    @responds(errors={404: "No order has this id."})
    async def delete(self, order_id: UUID) -> None:
        """Delete an order."""
        self._store.remove(order_id)


async def confirm(order: Order) -> None:
    """Tell the customer; runs in the background, after the answer."""
    log.info("order confirmed", order_id=str(order.id), total_cents=order.total_cents)
