"""Storage of orders."""

from uuid import UUID

from .models import Order, Position


class OrderNotFoundError(Exception):
    """The store has no order with this ID."""

    def __init__(self, order_id: UUID) -> None:
        super().__init__(f"There is no order with the id {order_id}.")


class StoreFullError(Exception):
    """The store is full."""

    def __init__(self, max_orders: int) -> None:
        super().__init__(f"The order store is full: it holds {max_orders} orders.")


class OrderStore:
    """At most `max_orders` orders in memory. They are lost when the process ends."""

    def __init__(self, *, max_orders: int) -> None:
        self._orders: dict[UUID, Order] = {}
        self._max_orders = max_orders

    def add(self, order: Order) -> None:
        """Add an order; raises `StoreFullError`."""
        if len(self._orders) >= self._max_orders:
            raise StoreFullError(self._max_orders)
        self._orders[order.id] = order

    def get(self, order_id: UUID) -> Order:
        """Return an order; raises `OrderNotFoundError`."""
        if order_id not in self._orders:
            raise OrderNotFoundError(order_id)
        return self._orders[order_id]

    def remove(self, order_id: UUID) -> None:
        """Delete an order; raises `OrderNotFoundError`."""
        self.get(order_id)
        del self._orders[order_id]

    def newest(self, limit: int, *, before: Position | None = None) -> list[Order]:
        """Return at most `limit` orders, the newest first; with `before`, only older ones."""
        orders = sorted(self._orders.values(), key=lambda order: order.position, reverse=True)
        return [order for order in orders if before is None or order.position < before][:limit]

    async def ping(self) -> None:
        """Raise an error if the store is unavailable. A full store is available: clients can read and delete orders."""
