"""Where orders are kept."""

from uuid import UUID

from .models import Order, Position


class OrderNotFoundError(Exception):
    """The store has no order of this id."""

    def __init__(self, order_id: UUID) -> None:
        super().__init__(f"There is no order with the id {order_id}.")


class StoreFullError(Exception):
    """The store has no room for another order."""

    def __init__(self, max_orders: int) -> None:
        super().__init__(f"The order store is full: it holds {max_orders} orders.")


class OrderStore:
    """Orders in memory, which are lost with the process; holds at most `max_orders`."""

    def __init__(self, *, max_orders: int) -> None:
        self._orders: dict[UUID, Order] = {}
        self._max_orders = max_orders

    def add(self, order: Order) -> None:
        """Keep an order; raises `StoreFullError`."""
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
        """Return at most `limit` orders, the newest first; with `before`, those that are older."""
        orders = sorted(self._orders.values(), key=lambda order: order.position, reverse=True)
        return [order for order in orders if before is None or order.position < before][:limit]

    async def ping(self) -> None:
        """Raise when the store cannot be reached. A full store can: its orders can still be read and deleted."""
