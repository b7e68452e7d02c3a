"""Events of orders: what is published, and what this service does about it."""

from collections.abc import Awaitable, Callable
from uuid import UUID

import structlog
from chassis.nats import Consumer
from pydantic import BaseModel

from .models import Order, Position
from .store import OrderStore

log = structlog.get_logger()

CREATED = "orders.created"

Send = Callable[[str, BaseModel], Awaitable[object]]
"""Sends an event with a subject: the `add` of an `Outbox`, or the `publish` of a `Publisher`."""


class OrderCreated(BaseModel):
    """There is a new order. Other services read this event, so add fields only with a default."""

    order_id: UUID
    customer: str
    total_cents: int


class Receipts(Consumer):
    """Sends a receipt for each new order."""

    async def handle(self, event: OrderCreated) -> None:
        """Send a receipt. If it fails, the event is delivered again."""
        log.info("receipt sent", order_id=str(event.order_id), total_cents=event.total_cents)


class EventOrderStore(OrderStore):
    """A store that sends an event for each new order. Another store does the rest."""

    def __init__(self, store: OrderStore, send: Send) -> None:
        self._store = store
        self._send = send

    async def add(self, order: Order) -> None:
        """Add an order, and send `OrderCreated`."""
        await self._store.add(order)
        event = OrderCreated(order_id=order.id, customer=order.customer, total_cents=order.total_cents)
        await self._send(CREATED, event)

    async def get(self, order_id: UUID) -> Order:
        """Return an order; raises `OrderNotFoundError`."""
        return await self._store.get(order_id)

    async def replace(self, order: Order) -> None:
        """Replace the previous version of an order; raises `OrderChangedError` if that is not the current one."""
        await self._store.replace(order)

    async def remove(self, order_id: UUID) -> None:
        """Delete an order; raises `OrderNotFoundError`."""
        await self._store.remove(order_id)

    async def newest(self, limit: int, *, before: Position | None = None) -> list[Order]:
        """Return at most `limit` orders, the newest first; with `before`, only older ones."""
        return await self._store.newest(limit, before=before)
