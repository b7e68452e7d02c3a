"""The same as `test_postgres_failures`, with sessions of SQLAlchemy: 503 in bounded time, no leaks, and recovery."""

import asyncio
import time
from contextlib import suppress
from pathlib import Path

import asyncpg
import pytest
from sqlalchemy import event, text
from sqlalchemy.ext.asyncio import AsyncSession

from chassis import Handler, Route, repeatable
from chassis.sqlalchemy import (
    Database,
    DatabaseUnavailableError,
    PoolExhaustedError,
    StatementTimeoutError,
    add_database,
)

from .support.accounts import balance_of, pay_from
from .support.postgres import PostgresServer, free_port, pgbouncer, proxy_of
from .test_postgres import serve
from .test_postgres_failures import assert_unavailable, in_sleep, nothing_is_in_use, recovered

SLEEP = text("SELECT pg_sleep(:seconds)")


class Balance(Handler):
    """The balance of an account, or a query that takes its time."""

    async def get(self, session: AsyncSession, seconds: float = 0.0) -> int:
        if seconds:
            await session.execute(SLEEP, {"seconds": seconds})
        return await balance_of(session)

    async def post(self, session: AsyncSession, seconds: float = 0.0) -> int:
        await pay_from(session, 1)
        if seconds:
            await session.execute(SLEEP, {"seconds": seconds})
        return await balance_of(session)


ROUTE = Route("/balance", Balance())
SERVICE = {"add": add_database}


async def test_start_waits_for_the_server(postgres: PostgresServer) -> None:
    postgres.stop()
    database = Database(postgres.settings())
    opening = asyncio.create_task(database.__aenter__())
    await asyncio.sleep(0.05)
    assert not opening.done()
    await asyncio.to_thread(postgres.start)
    await opening
    async with database.session() as session:
        assert await balance_of(session) == 100
    await database.__aexit__(None, None, None)


async def test_start_fails_at_its_deadline_with_one_line(postgres: PostgresServer) -> None:
    url = f"postgresql://user:secret@127.0.0.1:{free_port()}/orders"
    expected = r"accepted no connection in 0\.2 seconds: ConnectionRefusedError"
    with pytest.raises(DatabaseUnavailableError, match=expected) as raised:
        await Database(postgres.settings(url=url, connect_seconds=0.2)).__aenter__()
    assert "secret" not in str(raised.value)
    assert "\n" not in str(raised.value)


async def test_query_of_a_closed_database_says_how_to_open_it(postgres: PostgresServer) -> None:
    with pytest.raises(RuntimeError, match="is not open; add it with add_database"):
        await Database(postgres.settings()).queries.fetch("SELECT 1")


async def test_terminated_connections_are_replaced(postgres: PostgresServer) -> None:
    async with serve(postgres, ROUTE, pool_min=3, **SERVICE) as (service, _):
        await postgres.run(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = 'test-service'"
        )
        await asyncio.sleep(0.02)
        responses = await asyncio.gather(*(service.client.get("/balance") for _ in range(10)))
        assert {response.status_code for response in responses} == {200}


@pytest.mark.parametrize("method", ["get", "post"])
async def test_connection_that_ends_in_a_query_is_503(postgres: PostgresServer, method: str) -> None:
    async with serve(postgres, ROUTE, pool_max=1, **SERVICE) as (service, _):
        request = asyncio.create_task(service.client.request(method, "/balance?seconds=5"))
        await in_sleep(postgres, 1)
        await postgres.run("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event = 'PgSleep'")
        assert_unavailable(await request)
        assert (await service.client.get("/balance")).json() == 100
        await nothing_is_in_use(service)


@pytest.mark.parametrize("at_commit", [False, True])
async def test_connection_that_ends_between_two_queries_is_503(postgres: PostgresServer, at_commit: bool) -> None:
    class Run(Handler):
        async def post(self, session: AsyncSession) -> None:
            process = await session.scalar(text("SELECT pg_backend_pid()"))
            await pay_from(session, 1)
            await postgres.run("SELECT pg_terminate_backend($1)", process)
            await asyncio.sleep(0.02)
            if not at_commit:
                await pay_from(session, 1)

    async with serve(postgres, Route("/run", Run()), ROUTE, pool_max=1, **SERVICE) as (service, _):
        assert_unavailable(await service.client.post("/run"))
        assert (await service.client.get("/balance")).json() == 100
        await nothing_is_in_use(service)


async def test_requests_fail_fast_without_a_server_and_recover(postgres: PostgresServer) -> None:
    async with serve(postgres, ROUTE, pool_min=4, pool_max=4, **SERVICE) as (service, _):
        requests = [asyncio.create_task(service.client.post("/balance?seconds=5")) for _ in range(3)]
        await in_sleep(postgres, 1)  # the others wait for its lock
        await asyncio.to_thread(postgres.kill)
        for response in await asyncio.gather(*requests):
            assert_unavailable(response)
        began = time.monotonic()
        responses = await asyncio.gather(*(service.client.get("/balance") for _ in range(20)))
        assert time.monotonic() - began < 1.0
        for response in responses:
            assert_unavailable(response)
        assert (await service.client.get("/readyz")).status_code == 503
        await asyncio.to_thread(postgres.start)
        await recovered(service)
        assert (await service.client.get("/readyz")).status_code == 200
        await nothing_is_in_use(service)
        assert 1 <= len(service.seen.events("database is not available")) <= 5


async def test_paused_server_is_503_in_bounded_time_and_recovers(postgres: PostgresServer) -> None:
    options = {"pool_min": 2, "pool_max": 2, "statement_seconds": 0.3, "pool_wait_seconds": 0.3, "check_seconds": 0.2}
    async with serve(postgres, ROUTE, **options, **SERVICE) as (service, _):
        with postgres.paused():
            began = time.monotonic()
            responses = await asyncio.gather(*(service.client.get("/balance") for _ in range(10)))
            assert time.monotonic() - began < 1.5
            for response in responses:
                assert_unavailable(response)
            report = (await service.client.get("/readyz")).json()
            assert report["checks"]["database"]["status"] in ("timeout", "fail")
        await recovered(service)
        await nothing_is_in_use(service)
        assert (await service.client.get("/readyz")).status_code == 200


async def test_connections_that_a_network_has_forgotten_are_noticed_before_use(
    postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chassis.postgres.pool.IDLE_SECONDS", 0.05)
    monkeypatch.setattr("chassis.postgres.pool.PING_SECONDS", 0.1)
    async with (
        proxy_of(postgres) as proxy,
        serve(postgres, ROUTE, url=proxy.url(postgres), pool_min=4, pool_max=4, **SERVICE) as (service, _),
    ):
        proxy.forget()
        await asyncio.sleep(0.1)
        began = time.monotonic()
        responses = await asyncio.gather(*(service.client.get("/balance") for _ in range(4)))
        assert [response.status_code for response in responses] == [200] * 4
        assert time.monotonic() - began < 1.0


async def test_lost_rollback_does_not_hold_up_the_response(postgres: PostgresServer) -> None:
    async with proxy_of(postgres) as proxy:

        class Run(Handler):
            async def post(self, session: AsyncSession) -> None:
                await pay_from(session, 1)
                proxy.is_black_hole = True
                raise ValueError

        options = {"url": proxy.url(postgres), "pool_max": 1}
        async with serve(postgres, Route("/run", Run()), ROUTE, **options, **SERVICE) as (service, _):
            began = time.monotonic()
            assert (await service.client.post("/run")).status_code == 500
            assert time.monotonic() - began < 0.6
            proxy.is_black_hole = False
            await recovered(service)
            await nothing_is_in_use(service)


async def test_exhausted_pool_is_503_in_bounded_time(postgres: PostgresServer) -> None:
    async with serve(postgres, ROUTE, pool_max=1, pool_wait_seconds=0.2, **SERVICE) as (service, database):
        slow = asyncio.create_task(service.client.get("/balance?seconds=0.6"))
        await in_sleep(postgres, 1)
        requests = [asyncio.create_task(service.client.get("/balance")) for _ in range(5)]
        await asyncio.sleep(0.05)
        assert await service.sample("db_client_connection_pending_requests") == 5
        assert await service.sample("db_client_connection_count", db_client_connection_state="used") == 1
        # A service that is busy is ready.
        assert (await service.client.get("/readyz")).status_code == 200
        for response in await asyncio.gather(*requests):
            assert_unavailable(response)
        assert await service.sample("db_client_connection_timeouts_total") == 5
        (line,) = service.seen.events("database is not available")
        assert line["reason"] == "all 1 connections were in use for 0.2 seconds"
        assert (await slow).status_code == 200
        assert (await service.client.get("/balance")).status_code == 200
        with pytest.raises(PoolExhaustedError):
            async with database.engine.connect():
                await database.queries.fetch("SELECT 1")


async def test_requests_that_are_cancelled_leak_nothing(postgres: PostgresServer) -> None:
    async with serve(postgres, ROUTE, pool_max=2, **SERVICE) as (service, database):
        for turn in range(30):
            method = "get" if turn % 2 else "post"
            requests = [asyncio.create_task(service.client.request(method, "/balance?seconds=0.01")) for _ in range(8)]
            await asyncio.sleep(turn / 1000)
            for request in requests:
                request.cancel()
            await asyncio.gather(*requests, return_exceptions=True)
        await service.under_way(0)
        await nothing_is_in_use(service)
        assert await service.sample("db_client_connection_pending_requests") == 0
        async with asyncio.timeout(1.0), database.engine.connect(), database.engine.connect():
            assert await postgres.run("SELECT count(*) FROM pg_stat_activity WHERE state LIKE 'idle in%'") == 0


async def test_slow_statement_is_503_and_ends_on_the_server(postgres: PostgresServer) -> None:
    async with serve(postgres, ROUTE, statement_seconds=0.2, pool_max=1, **SERVICE) as (service, _):
        assert_unavailable(await service.client.get("/balance?seconds=5"))
        await in_sleep(postgres, 0)
        assert_unavailable(await service.client.post("/balance?seconds=5"))
        await in_sleep(postgres, 0)
        assert (await service.client.get("/balance")).json() == 100


async def test_shorter_limit_of_one_query_ends_its_transaction(postgres: PostgresServer) -> None:
    async with Database(postgres.settings(pool_max=1)) as database:
        with pytest.raises(StatementTimeoutError):
            async with database.transaction() as queries:
                await queries.execute("SELECT pg_sleep(3)", timeout_seconds=0.05)
        assert await database.queries.fetchval("SELECT 1") == 1


async def test_primary_that_became_read_only_is_left(postgres: PostgresServer) -> None:
    async with Database(postgres.settings(pool_max=1)) as database:
        async with database.session() as session:
            await session.execute(text("SET default_transaction_read_only = on"))
        with pytest.raises(DatabaseUnavailableError, match="before a failover"):
            async with database.session() as session:
                await pay_from(session, 1)
        async with database.session() as session:  # on another connection
            await pay_from(session, 1)


async def test_changed_type_of_a_cached_query_is_repeated(postgres: PostgresServer) -> None:
    """A migration has changed the table while the service runs."""

    class All(Handler):
        @repeatable
        async def post(self, session: AsyncSession) -> int:
            return len((await session.execute(text("SELECT * FROM accounts"))).all())

    async with serve(postgres, Route("/all", All()), pool_max=1, **SERVICE) as (service, _):
        assert (await service.client.post("/all")).json() == 2
        await postgres.run("ALTER TABLE accounts ADD COLUMN note text")
        assert (await service.client.post("/all")).json() == 2


async def test_close_is_bounded_while_a_query_runs(postgres: PostgresServer) -> None:
    database = await Database(postgres.settings()).__aenter__()
    query = asyncio.create_task(database.queries.execute("SELECT pg_sleep(4)"))
    await in_sleep(postgres, 1)
    began = time.monotonic()
    await database.__aexit__(None, None, None)
    assert time.monotonic() - began < 1.5
    with pytest.raises(DatabaseUnavailableError):
        await query


async def test_password_file_is_read_for_each_new_connection(postgres: PostgresServer, tmp_path: Path) -> None:
    password = tmp_path / "password"
    password.write_text("first")
    async with Database(postgres.settings(password_file=password, pool_max=1)) as database:
        password.unlink()
        await database.queries.execute("SELECT 1")
        ends = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = 'chassis'"
        await postgres.run(ends)
        await asyncio.sleep(0.02)
        with pytest.raises(DatabaseUnavailableError, match="FileNotFoundError"):
            await database.queries.execute("SELECT 1")
        password.write_text("second")
        await database.queries.execute("SELECT 1")


async def test_requests_through_pgbouncer(postgres: PostgresServer) -> None:
    """More transactions at once than PgBouncer has connections, with cancelled and slow ones in between."""
    with pgbouncer(postgres) as url:
        options = {"url": url, "pooler": True, "pool_max": 6, "statement_seconds": 0.5}
        async with serve(postgres, ROUTE, **options, **SERVICE) as (service, database):
            requests = [service.client.post("/balance") for _ in range(20)]
            requests += [service.client.get("/balance") for _ in range(20)]
            responses = await asyncio.gather(*requests)
            assert {response.status_code for response in responses} == {200}
            # Statements without a name and without a transaction are not mixed up.
            sums = [database.queries.fetchval(f"SELECT {number} + $1::int", number) for number in range(50)]
            assert await asyncio.gather(*sums) == [2 * number for number in range(50)]
            assert_unavailable(await service.client.post("/balance?seconds=5"))
            await in_sleep(postgres, 0)
            assert (await service.client.get("/balance")).json() == 80
            async with database.transaction() as queries:
                assert await queries.fetchval("SHOW statement_timeout") == "500ms"
            assert (await service.client.get("/readyz")).status_code == 200
            await nothing_is_in_use(service)


async def test_pooler_gets_no_named_statements(postgres: PostgresServer) -> None:
    async with Database(postgres.settings(pooler=True, pool_max=1)) as database, database.session() as session:
        await balance_of(session)
        named = text("SELECT count(*) FROM pg_prepared_statements WHERE name <> ''")
        assert await session.scalar(named) == 0


async def test_server_without_connections_left_is_503(postgres: PostgresServer) -> None:
    connections = []
    async with serve(postgres, ROUTE, pool_max=4, **SERVICE) as (service, database), database.engine.connect():
        with suppress(asyncpg.TooManyConnectionsError):
            while True:
                connections.append(await asyncpg.connect(postgres.url))
        try:
            assert_unavailable(await service.client.get("/balance"))
        finally:
            await asyncio.gather(*(connection.close() for connection in connections))
        await recovered(service)


async def test_connection_that_is_lost_while_it_is_set_up_is_503(postgres: PostgresServer) -> None:
    def lose(*_: object) -> None:
        raise asyncpg.InterfaceError("connection is closed")

    async with Database(postgres.settings(pool_max=2)) as database, database.engine.connect():
        event.listen(database.engine.sync_engine.pool, "connect", lose)
        with pytest.raises(DatabaseUnavailableError, match="connection is closed"):
            await database.queries.execute("SELECT 1")
        with pytest.raises(DatabaseUnavailableError, match="connection is closed"):
            await read(database)


async def read(database: Database) -> int:
    async with database.session() as session:
        return await balance_of(session)
