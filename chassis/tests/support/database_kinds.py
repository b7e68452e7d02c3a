"""The two kinds of database, asyncpg and SQLAlchemy, with the same work for each, so that a test can run with both.

A unit of work is a `Transaction` of asyncpg, or an `AsyncSession`.
"""

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

import chassis.postgres
import chassis.sqlalchemy
from chassis import Handler, Route, repeatable
from chassis.postgres import Queries, Transaction

from .accounts import balance_of, pay_from

BALANCE = "SELECT balance FROM accounts WHERE id = 1"
PAY = "UPDATE accounts SET balance = balance - $1 WHERE id = 1"
PROCESS = "SELECT pg_backend_pid()"
ALL = "SELECT * FROM accounts"

Work = Callable[[Any], Awaitable[Any]]


class Asyncpg:
    """`chassis.postgres`."""

    database = chassis.postgres.Database
    add = staticmethod(chassis.postgres.add_database)

    class Balance(Handler):
        """The balance of an account, after a query that takes its time. POST pays before that."""

        async def get(self, database: chassis.postgres.Database, seconds: float = 0.0) -> int:
            return await self._slow(database, seconds)

        async def post(self, transaction: Transaction, seconds: float = 0.0) -> int:
            await transaction.execute(PAY, 1)
            return await self._slow(transaction, seconds)

        async def _slow(self, queries: Queries, seconds: float) -> int:
            if seconds:
                await queries.execute("SELECT pg_sleep($1)", seconds)
            return int(await queries.fetchval(BALANCE))

    route = Route("/balance", Balance())

    def run(self, work: Work) -> Route:
        """`POST /run`, which calls `work` with the unit of work of the request, and is safe to repeat."""

        class Run(Handler):
            @repeatable
            async def post(self, transaction: Transaction) -> Any:
                return await work(transaction)

        return Route("/run", Run())

    def unit(self, database: Any) -> AbstractAsyncContextManager[Any]:
        """A unit of work outside of requests."""
        unit: AbstractAsyncContextManager[Any] = database.transaction()
        return unit

    def connection(self, database: Any) -> AbstractAsyncContextManager[Any]:
        """A connection that nothing else uses."""
        connection: AbstractAsyncContextManager[Any] = database.connection()
        return connection

    async def balance(self, unit: Any) -> int:
        """The balance of the first account."""
        return int(await unit.fetchval(BALANCE))

    async def pay(self, unit: Any, amount: int) -> None:
        """Lower it."""
        await unit.execute(PAY, amount)

    async def process(self, unit: Any) -> int:
        """The process of the server that has the unit of work."""
        return int(await unit.fetchval(PROCESS))

    async def count(self, unit: Any) -> int:
        """The number of accounts, by a query of all columns."""
        return len(await unit.fetch(ALL))


class SqlAlchemy:
    """`chassis.sqlalchemy`; see `Asyncpg`."""

    database = chassis.sqlalchemy.Database
    add = staticmethod(chassis.sqlalchemy.add_database)

    class Balance(Handler):
        async def get(self, session: AsyncSession, seconds: float = 0.0) -> int:
            return await self._slow(session, seconds)

        async def post(self, session: AsyncSession, seconds: float = 0.0) -> int:
            await pay_from(session, 1)
            return await self._slow(session, seconds)

        async def _slow(self, session: AsyncSession, seconds: float) -> int:
            if seconds:
                await session.execute(text("SELECT pg_sleep(:seconds)"), {"seconds": seconds})
            return await balance_of(session)

    route = Route("/balance", Balance())

    def run(self, work: Work) -> Route:
        class Run(Handler):
            @repeatable
            async def post(self, session: AsyncSession) -> Any:
                return await work(session)

        return Route("/run", Run())

    def unit(self, database: Any) -> AbstractAsyncContextManager[Any]:
        unit: AbstractAsyncContextManager[Any] = database.session()
        return unit

    def connection(self, database: Any) -> AbstractAsyncContextManager[Any]:
        connection: AbstractAsyncContextManager[Any] = database.engine.connect()
        return connection

    async def balance(self, unit: Any) -> int:
        return await balance_of(unit)

    async def pay(self, unit: Any, amount: int) -> None:
        await pay_from(unit, amount)

    async def process(self, unit: Any) -> int:
        return int(await unit.scalar(text(PROCESS)))

    async def count(self, unit: Any) -> int:
        return len((await unit.execute(text(ALL))).all())


Kind = Asyncpg | SqlAlchemy
