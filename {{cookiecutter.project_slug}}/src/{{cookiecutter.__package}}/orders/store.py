"""The interface of order stores, and their errors."""

from typing import Protocol
from uuid import UUID

from .models import Order, Position


class OrderNotFoundError(Exception):
    """The store has no order with this ID."""

    def __init__(self, order_id: UUID) -> None:
        super().__init__(f"There is no order with the id {order_id}.")


class OrderChangedError(Exception):
    """Another request has changed or deleted the order since it was read."""

    def __init__(self, order_id: UUID) -> None:
        super().__init__(f"The order {order_id} has changed since it was read. Read it again.")


class StoreFullError(Exception):
    """The store is full."""

    def __init__(self, max_orders: int) -> None:
        super().__init__(f"The order store is full: it holds {max_orders} orders.")


class OrderStore(Protocol):
    """Stores orders."""

    async def add(self, order: Order) -> None:
        """Add an order; raises `StoreFullError`."""
        ...

    async def get(self, order_id: UUID) -> Order:
        """Return an order; raises `OrderNotFoundError`."""
        ...

    async def replace(self, order: Order) -> None:
        """Replace the previous version of an order; raises `OrderChangedError` if that is not the current one."""
        ...

    async def remove(self, order_id: UUID) -> None:
        """Delete an order; raises `OrderNotFoundError`."""
        ...

    async def newest(self, limit: int, *, before: Position | None = None) -> list[Order]:
        """Return at most `limit` orders, the newest first; with `before`, only older ones."""
        ...
