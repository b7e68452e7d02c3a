"""Rate limits that instances share in a real PostgreSQL, for both kinds of database."""

import asyncio
from typing import Any

import asyncpg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, MetaData
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.schema import CreateTable

from chassis import App, ChassisSettings, Handler, RateLimit
from chassis.api.rate_limiter import MemoryRateLimits
from chassis.migrations import NAMING_CONVENTION, rate_limit_table
from chassis.postgres import PostgresRateLimitStore, add_rate_limit_store
from chassis.postgres.rate_limits import TABLE
from chassis.testing import connect, record

from .support.application import TEST_SETTINGS
from .support.database_kinds import Asyncpg, SqlAlchemy
from .support.postgres import PostgresServer

kinds = pytest.mark.parametrize("kind", [Asyncpg, SqlAlchemy])
LIMIT = RateLimit(5, 60, name="test")


@pytest.fixture(autouse=True)
async def _table(postgres: PostgresServer) -> None:
    connection = await asyncpg.connect(postgres.url)
    await connection.execute("DROP TABLE IF EXISTS rate_limits;" + TABLE)
    await connection.close()


class Items(Handler):
    async def get(self) -> str:
        return "items"


def make(kind: Any, postgres: PostgresServer) -> App:
    settings = TEST_SETTINGS | {"rate_limit_requests": 4, "rate_limit_seconds": 60}
    app = App(ChassisSettings.from_values(**settings), name="items", version="1")
    add_rate_limit_store(app, kind.add(app, postgres.settings()))
    app.add_route("/items", Items())
    return app


async def test_table_of_the_migrations_is_the_one_in_the_text(postgres: PostgresServer) -> None:
    metadata = rate_limit_table(MetaData(naming_convention=NAMING_CONVENTION)).metadata

    def differences(connection: Connection) -> list[Any]:
        options = {"include_name": lambda found, kind, _: kind != "table" or found == "rate_limits"}
        return list(compare_metadata(MigrationContext.configure(connection, opts=options), metadata))

    engine = create_async_engine(postgres.url.replace("postgresql:", "postgresql+asyncpg:"))
    async with engine.connect() as connection:
        assert await connection.run_sync(differences) == []
    await engine.dispose()
    created = str(CreateTable(metadata.tables["rate_limits"]).compile(dialect=postgresql.dialect()))  # type: ignore[no-untyped-call]
    assert "CREATE UNLOGGED TABLE" in created


@kinds
async def test_instances_share_the_limit(kind: Any, postgres: PostgresServer) -> None:
    async with connect(make(kind, postgres)) as one, connect(make(kind, postgres)) as other:
        responses = [await client.get("/items") for client in (one, other, one, other, one, other)]
        assert [response.status_code for response in responses] == [200, 200, 200, 200, 429, 429]
        assert responses[0].headers["ratelimit"] == '"default";r=3;t=15'
        assert responses[3].headers["ratelimit"] == '"default";r=0;t=15'
        assert responses[4].headers["retry-after"] == "15"
        assert (await one.get("/metrics")).text.count("rate_limit_store_failures_total 0.0") == 1


@kinds
async def test_requests_at_the_same_time_get_no_more_than_the_limit(kind: Any, postgres: PostgresServer) -> None:
    async with kind.database(postgres.settings()) as database:
        store = PostgresRateLimitStore(database)
        quotas = await asyncio.gather(*[store.take(LIMIT, "ada") for _ in range(20)])
        assert sum(quota.is_allowed for quota in quotas) == 5
        assert sorted(quota.remaining for quota in quotas if quota.is_allowed) == [0, 1, 2, 3, 4]
        assert (await store.take(LIMIT, "bob")).remaining == 4


async def test_store_counts_as_the_memory_does(postgres: PostgresServer) -> None:
    async with Asyncpg.database(postgres.settings()) as database:
        store, memory = PostgresRateLimitStore(database), MemoryRateLimits()
        limit = RateLimit(25, 5, 3, name="fast")  # a token comes back in 200 ms, so that a slow query changes nothing
        for pause in (0, 0, 0, 0, 0.3, 0, 1.0, 0, 0, 0):
            await asyncio.sleep(pause)
            shared, local = await store.take(limit, "ada"), memory.take(limit, "ada")
            assert (shared.is_allowed, shared.remaining) == (local.is_allowed, local.remaining)
            assert shared.seconds == pytest.approx(local.seconds, abs=0.1)


@kinds
async def test_full_buckets_are_removed(kind: Any, postgres: PostgresServer) -> None:
    async with kind.database(postgres.settings()) as database:
        store = PostgresRateLimitStore(database)
        await store.take(RateLimit(1, 0.001, name="short"), "ada")
        await store.take(LIMIT, "ada")
        await asyncio.sleep(0.01)
        await store.clean()
        assert await postgres.run("SELECT string_agg(policy, ' ') FROM rate_limits") == "test"


@kinds
async def test_instances_count_alone_without_the_table(kind: Any, postgres: PostgresServer) -> None:
    await postgres.run("DROP TABLE rate_limits")
    app = make(kind, postgres)
    with record(app) as records:
        async with connect(app) as client:
            assert [(await client.get("/items")).status_code for _ in range(5)] == [200] * 4 + [429]
        (line,) = [line for line in records.lines if line["event"] == "rate limit store failed"]
        assert "rate_limits" in line["reason"]
