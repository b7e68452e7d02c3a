"""A store of orders in memory."""

from uuid import UUID

from .models import Order, Position
from .store import OrderChangedError, OrderNotFoundError, OrderStore, StoreFullError


class MemoryOrderStore(OrderStore):
    """At most `max_orders` orders in memory. They are lost when the process ends."""

    def __init__(self, *, max_orders: int) -> None:
        self._orders: dict[UUID, Order] = {}
        self._max_orders = max_orders

    async def add(self, order: Order) -> None:
        """Add an order; raises `StoreFullError`."""
        if len(self._orders) >= self._max_orders:
            raise StoreFullError(self._max_orders)
        self._orders[order.id] = order

    async def get(self, order_id: UUID) -> Order:
        """Return an order; raises `OrderNotFoundError`."""
        if order_id not in self._orders:
            raise OrderNotFoundError(order_id)
        return self._orders[order_id]

    async def replace(self, order: Order) -> None:
        """Replace the previous version of an order; raises `OrderChangedError` if that is not the current one."""
        current = self._orders.get(order.id)
        if current is None or current.version != order.version - 1:
            raise OrderChangedError(order.id)
        self._orders[order.id] = order

    async def remove(self, order_id: UUID) -> None:
        """Delete an order; raises `OrderNotFoundError`."""
        if self._orders.pop(order_id, None) is None:
            raise OrderNotFoundError(order_id)

    async def newest(self, limit: int, *, before: Position | None = None) -> list[Order]:
        """Return at most `limit` orders, the newest first; with `before`, only older ones."""
        orders = sorted(self._orders.values(), key=lambda order: order.position, reverse=True)
        return [order for order in orders if before is None or order.position < before][:limit]
