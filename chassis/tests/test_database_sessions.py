"""Sessions of a database: the server ends those that hold up others, and connections that end are replaced."""

import asyncio
import time
from typing import Any

import asyncpg
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

import chassis.sqlalchemy
from chassis import Handler, Route
from chassis.migrations.connection import connected
from chassis.postgres import Database, DatabaseUnavailableError, Transaction, add_database
from chassis.postgres.errors import translated
from chassis.postgres.pool import Pool

from .support.postgres import PostgresServer
from .support.service import observed, until
from .test_postgres import balance, pay, serve

SESSION = "SELECT name, setting FROM pg_settings WHERE name LIKE 'tcp\\_%' OR name LIKE '%\\_timeout'"
LOCK = "SELECT balance FROM accounts WHERE id = 1 FOR UPDATE"


class Idle(Handler):
    """Locks a row, and then does nothing for longer than the server allows."""

    async def get(self, transaction: Transaction) -> int:
        return int(await balance(transaction))

    async def post(self, transaction: Transaction) -> None:
        await transaction.execute(LOCK)
        await asyncio.sleep(0.3)
        with pytest.raises(DatabaseUnavailableError) as raised:
            await pay(transaction, 1)
        assert not raised.value.is_outage  # an event does not wait for ever
        raise raised.value


class IdleSession(Handler):
    """The same with SQLAlchemy."""

    async def get(self, session: AsyncSession) -> int:
        return int((await session.execute(text("SELECT balance FROM accounts WHERE id = 1"))).scalar_one())

    async def post(self, session: AsyncSession) -> None:
        await session.execute(text(LOCK))
        await asyncio.sleep(0.3)


KINDS = {"postgres": (Idle, add_database), "sqlalchemy": (IdleSession, chassis.sqlalchemy.add_database)}


@pytest.mark.parametrize("kind", KINDS)
async def test_session_that_is_idle_in_a_transaction_is_ended_by_the_server(
    postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr("chassis.postgres.connector.IDLE_IN_TRANSACTION_SECONDS", 0.1)
    handler, add = KINDS[kind]
    options: dict[str, Any] = {"pool_max": 1, "statement_seconds": 0.2, "add": add}
    async with serve(postgres, Route("/", handler()), **options) as (service, _):
        request = asyncio.create_task(service.client.post("/"))
        await asyncio.sleep(0.25)
        assert await postgres.run(f"{LOCK} NOWAIT") == 100
        assert (await request).status_code == 503
        assert (await service.client.get("/")).json() == 100


async def test_server_ends_sessions_that_are_idle_or_whose_client_is_gone(postgres: PostgresServer) -> None:
    async with Database(postgres.settings()) as database:
        session = {row["name"]: row["setting"] for row in await database.fetch(SESSION)}
    assert session["statement_timeout"] == "5000"
    assert session["idle_in_transaction_session_timeout"] == "60000"
    assert [session[f"tcp_keepalives_{name}"] for name in ("idle", "interval", "count")] == ["30", "10", "3"]
    assert session["tcp_user_timeout"] == "60000"


async def test_session_behind_a_pooler_gets_no_settings(postgres: PostgresServer) -> None:
    async with Database(postgres.settings(pooler=True)) as database:
        session = {row["name"]: row["setting"] for row in await database.fetch(SESSION)}
    assert session["idle_in_transaction_session_timeout"] == "0"
    assert session["tcp_user_timeout"] == "0"


async def test_lock_of_a_migration_whose_node_is_gone_ends(postgres: PostgresServer) -> None:
    async with connected(postgres.settings(), "migrations") as connection:
        session = {row.name: row.setting for row in await connection.exec_driver_sql(SESSION)}
    assert session["tcp_keepalives_idle"] == "30"
    assert session["tcp_user_timeout"] == "60000"
    assert session["idle_in_transaction_session_timeout"] == "86400000"


async def test_connection_that_ends_just_when_it_is_given_back_is_replaced(postgres: PostgresServer) -> None:
    pool = Pool(postgres.settings(pool_max=1), "database", "test")
    await pool.open()
    connection = await pool.acquire()
    asyncio.get_running_loop().call_soon(connection.terminate)  # asyncpg gives it back in a task of its own
    with observed() as seen:
        await pool.release(connection)
        (line,) = seen.events("connection was closed, because it could not be used again")
    assert line["reason"].startswith("InternalClientError")
    assert pool.in_use == 0
    connection = await pool.acquire()
    assert await connection.fetchval("SELECT 1") == 1
    await pool.release(connection)
    await pool.close()


def test_query_that_begins_just_when_its_connection_ends_is_503() -> None:
    error = asyncpg.InternalClientError("got result for unknown protocol state 0")
    assert isinstance(translated(error, is_closed=False, may_write=True), DatabaseUnavailableError)


async def test_readiness_logs_a_server_that_is_gone_in_one_line(postgres: PostgresServer) -> None:
    async with serve(postgres) as (service, _):
        postgres.stop()
        try:
            response = await service.client.get("/readyz")
            (line,) = await until(lambda: service.seen.events("check changed"))
        finally:
            await asyncio.to_thread(postgres.start)
    assert response.status_code == 503
    assert line["reason"].startswith("DatabaseUnavailableError")
    assert "exception" not in line


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        ("sslmode=require&ssl_min_protocol_version=9", "9"),
        ("sslnegotiation=foo", "`sslnegotiation` parameter must be one of"),
    ],
)
async def test_start_fails_at_once_with_a_parameter_that_can_never_work(
    postgres: PostgresServer, query: str, reason: str
) -> None:
    began = time.monotonic()
    with pytest.raises(DatabaseUnavailableError, match=f"cannot be used: .*{reason}.*; correct APP_DATABASE_URL"):
        async with Database(postgres.settings(url=f"{postgres.url}?{query}", connect_seconds=5.0)):
            pass
    assert time.monotonic() - began < 2.0
