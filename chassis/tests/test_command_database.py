"""Commands with a database: the transaction of a command, and `check`."""

import sys
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncSession

import chassis.postgres
import chassis.sqlalchemy
from chassis import App, ChassisSettings
from chassis.postgres import Queries, Transaction
from chassis.testing import run_command

from .support.accounts import pay_from
from .support.application import TEST_SETTINGS
from .support.database_kinds import BALANCE, PAY
from .support.postgres import PostgresServer


def app_of(server: PostgresServer, add: Callable[..., Any], command: Callable[..., Any]) -> App:
    """A service with a database and this command."""
    app = App(ChassisSettings.from_values(**TEST_SETTINGS), name="test-service")
    add(app, server.settings())
    app.add_command("pay", command)
    return app


async def pay_in_transaction(transaction: Transaction, amount: int, *, exits: bool = False) -> None:
    await transaction.execute(PAY, amount)
    if exits:
        sys.exit("changed my mind")


async def pay_by_queries(queries: Queries, amount: int, *, exits: bool = False) -> None:
    await queries.execute(PAY, amount)
    if exits:
        sys.exit("changed my mind")


async def pay_in_session(session: AsyncSession, amount: int, *, exits: bool = False) -> None:
    await pay_from(session, amount)
    if exits:
        sys.exit("changed my mind")


@pytest.mark.parametrize(
    ("add", "command"),
    [
        (chassis.postgres.add_database, pay_in_transaction),
        (chassis.postgres.add_database, pay_by_queries),
        (chassis.sqlalchemy.add_database, pay_in_session),
        (chassis.sqlalchemy.add_database, pay_by_queries),
    ],
)
async def test_command_has_one_transaction(
    add: Callable[..., Any], command: Callable[..., Any], postgres: PostgresServer
) -> None:
    before: int = await postgres.run(BALANCE)
    assert await run_command(app_of(postgres, add, command), "pay", "3") == 0
    assert await run_command(app_of(postgres, add, command), "pay", "4", "--exits") == 1
    assert await postgres.run(BALANCE) == before - 3
