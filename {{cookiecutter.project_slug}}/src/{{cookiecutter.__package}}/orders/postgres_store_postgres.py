"""A store of orders in PostgreSQL."""

from uuid import UUID

from chassis.postgres import Queries, Row
from pydantic import TypeAdapter

from .models import Order, OrderLine, Position
from .store import OrderChangedError, OrderNotFoundError, OrderStore

LINES = TypeAdapter(list[OrderLine])

INSERT = "INSERT INTO orders (id, version, customer, lines, total_cents, created) VALUES ($1, $2, $3, $4, $5, $6)"
SELECT = "SELECT id, version, customer, lines, total_cents, created FROM orders WHERE id = $1"
UPDATE = """
UPDATE orders SET version = $2, customer = $3, lines = $4, total_cents = $5 WHERE id = $1 AND version = $2 - 1
"""
DELETE = "DELETE FROM orders WHERE id = $1"
SELECT_NEWEST = """
SELECT id, version, customer, lines, total_cents, created FROM orders ORDER BY created DESC, id DESC LIMIT $1
"""
# The index on (created, id) finds the first row of each page, however many pages there are.
SELECT_OLDER = """
SELECT id, version, customer, lines, total_cents, created FROM orders
WHERE (created, id) < ($2, $3) ORDER BY created DESC, id DESC LIMIT $1
"""


class PostgresOrderStore(OrderStore):
    """Orders in the table `orders`. One store serves one request, in the transaction of the request if it writes."""

    def __init__(self, queries: Queries) -> None:
        self._queries = queries

    async def add(self, order: Order) -> None:
        """Add an order."""
        lines = LINES.dump_json(order.lines).decode()
        await self._queries.execute(
            INSERT, order.id, order.version, order.customer, lines, order.total_cents, order.created
        )

    async def get(self, order_id: UUID) -> Order:
        """Return an order; raises `OrderNotFoundError`."""
        row = await self._queries.fetchrow(SELECT, order_id)
        if row is None:
            raise OrderNotFoundError(order_id)
        return order_of(row)

    async def replace(self, order: Order) -> None:
        """Replace the previous version of an order; raises `OrderChangedError` if that is not the current one."""
        lines = LINES.dump_json(order.lines).decode()
        status = await self._queries.execute(UPDATE, order.id, order.version, order.customer, lines, order.total_cents)
        if status == "UPDATE 0":
            raise OrderChangedError(order.id)

    async def remove(self, order_id: UUID) -> None:
        """Delete an order; raises `OrderNotFoundError`."""
        if await self._queries.execute(DELETE, order_id) == "DELETE 0":
            raise OrderNotFoundError(order_id)

    async def newest(self, limit: int, *, before: Position | None = None) -> list[Order]:
        """Return at most `limit` orders, the newest first; with `before`, only older ones."""
        if before is None:
            rows = await self._queries.fetch(SELECT_NEWEST, limit)
        else:
            rows = await self._queries.fetch(SELECT_OLDER, limit, *before)
        return [order_of(row) for row in rows]


def order_of(row: Row) -> Order:
    """Return the order in a row."""
    return Order.model_validate({**dict(row.items()), "lines": LINES.validate_json(row["lines"])})
