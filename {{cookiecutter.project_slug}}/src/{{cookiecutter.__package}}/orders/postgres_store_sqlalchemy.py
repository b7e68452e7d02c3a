"""A store of orders in PostgreSQL, with SQLAlchemy."""

from uuid import UUID

from sqlalchemy import delete, select, tuple_, update
from sqlalchemy.ext.asyncio import AsyncSession

from .models import Order, Position
from .store import OrderChangedError, OrderNotFoundError, OrderStore
from .tables import OrderRow


class PostgresOrderStore(OrderStore):
    """Orders in the table `orders`. One store serves one request, in the transaction of the request if it writes."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def add(self, order: Order) -> None:
        """Add an order."""
        self._session.add(OrderRow(**order.model_dump()))
        await self._session.flush()

    async def get(self, order_id: UUID) -> Order:
        """Return an order; raises `OrderNotFoundError`."""
        row = await self._session.get(OrderRow, order_id)
        if row is None:
            raise OrderNotFoundError(order_id)
        return Order.model_validate(row, from_attributes=True)

    async def replace(self, order: Order) -> None:
        """Replace the previous version of an order; raises `OrderChangedError` if that is not the current one."""
        statement = (
            update(OrderRow)
            .where(OrderRow.id == order.id, OrderRow.version == order.version - 1)
            .values(order.model_dump(exclude={"id"}))
            .returning(OrderRow.id)
        )
        if await self._session.scalar(statement) is None:
            raise OrderChangedError(order.id)

    async def remove(self, order_id: UUID) -> None:
        """Delete an order; raises `OrderNotFoundError`."""
        statement = delete(OrderRow).where(OrderRow.id == order_id).returning(OrderRow.id)
        if await self._session.scalar(statement) is None:
            raise OrderNotFoundError(order_id)

    async def newest(self, limit: int, *, before: Position | None = None) -> list[Order]:
        """Return at most `limit` orders, the newest first; with `before`, only older ones."""
        statement = select(OrderRow).order_by(OrderRow.created.desc(), OrderRow.id.desc()).limit(limit)
        if before is not None:
            # The index on (created, id) finds the first row of each page, however many pages there are.
            statement = statement.where(tuple_(OrderRow.created, OrderRow.id) < tuple_(*before))
        rows = await self._session.scalars(statement)
        return [Order.model_validate(row, from_attributes=True) for row in rows]
