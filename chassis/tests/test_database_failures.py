"""A database that is gone, slow or silent: requests fail fast with 503, nothing leaks, and it recovers by itself.

Most tests run with both kinds of database: asyncpg and SQLAlchemy. The others are about parts that both kinds share.
"""

import asyncio
import re
import ssl
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest
from sqlalchemy import event, text

import chassis.sqlalchemy
from chassis.postgres import Database, DatabaseUnavailableError, PoolExhaustedError, StatementTimeoutError

from .support.accounts import balance_of, pay_from
from .support.certificates import certificate
from .support.database_kinds import Asyncpg, Kind, SqlAlchemy
from .support.postgres import PostgresServer, free_port, pgbouncer, proxy_of
from .support.service import Service
from .test_postgres import serve


@pytest.fixture(params=[Asyncpg, SqlAlchemy])
def kind(request: pytest.FixtureRequest) -> Kind:
    kind: Kind = request.param()
    return kind


def assert_unavailable(response: httpx.Response) -> None:
    assert response.status_code == 503
    assert response.headers["retry-after"] == "1"
    # Nothing about the server is in it.
    document = {name: value for name, value in response.json().items() if name != "trace_id"}
    assert document == {
        "type": "about:blank",
        "title": "Service Unavailable",
        "status": 503,
        "detail": "The database is not available; retry later.",
    }


async def recovered(service: Service) -> None:
    """Wait until requests succeed again."""
    async with asyncio.timeout(5.0):
        while (await service.client.get("/balance")).status_code != 200:
            await asyncio.sleep(0.01)


async def nothing_is_in_use(service: Service) -> None:
    async with asyncio.timeout(5.0):
        while await service.sample("db_client_connection_count", db_client_connection_state="used"):
            await asyncio.sleep(0.01)


# At the start.


async def test_start_waits_for_the_server(postgres: PostgresServer, kind: Kind) -> None:
    postgres.stop()
    database = kind.database(postgres.settings())
    opening = asyncio.create_task(database.__aenter__())
    await asyncio.sleep(0.05)
    assert not opening.done()
    await asyncio.to_thread(postgres.start)
    await opening
    async with kind.unit(database) as unit:
        assert await kind.balance(unit) == 100
    await database.__aexit__(None, None, None)


async def test_start_fails_at_its_deadline_with_one_line(postgres: PostgresServer, kind: Kind) -> None:
    url = f"postgresql://user:secret@127.0.0.1:{free_port()}/orders"
    expected = "accepted no connection in 0.3 seconds: ConnectionRefusedError"
    with pytest.raises(DatabaseUnavailableError, match=re.escape(expected)) as raised:
        async with kind.database(postgres.settings(url=url, connect_seconds=0.3)):
            pass
    assert "secret" not in str(raised.value)
    assert "\n" not in str(raised.value)


async def test_start_fails_at_its_deadline_when_nothing_answers(postgres: PostgresServer) -> None:
    async with proxy_of(postgres) as proxy:
        proxy.is_black_hole = True
        began = time.monotonic()
        with pytest.raises(DatabaseUnavailableError):
            async with Database(postgres.settings(url=proxy.url(postgres), connect_seconds=0.3)):
                pass
        assert time.monotonic() - began < 1.0


async def test_query_of_a_closed_database_says_how_to_open_it(postgres: PostgresServer, kind: Kind) -> None:
    with pytest.raises(RuntimeError, match="is not open; add it with add_database"):
        await kind.database(postgres.settings()).queries.fetch("SELECT 1")


# The server dies.


async def test_terminated_connections_are_replaced(postgres: PostgresServer, kind: Kind) -> None:
    async with serve(postgres, kind.route, pool_min=3, add=kind.add) as (service, _):
        await postgres.run(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = 'test-service'"
        )
        await asyncio.sleep(0.02)
        responses = await asyncio.gather(*(service.client.get("/balance") for _ in range(10)))
        assert {response.status_code for response in responses} == {200}


@pytest.mark.parametrize("method", ["get", "post"])
async def test_connection_that_ends_in_a_query_is_503(postgres: PostgresServer, kind: Kind, method: str) -> None:
    async with serve(postgres, kind.route, pool_max=1, add=kind.add) as (service, _):
        request = asyncio.create_task(service.client.request(method, "/balance?seconds=5"))
        await in_sleep(postgres, 1)
        await postgres.run("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event = 'PgSleep'")
        assert_unavailable(await request)
        assert (await service.client.get("/balance")).json() == 100
        await nothing_is_in_use(service)


@pytest.mark.parametrize("at_commit", [False, True])
async def test_connection_that_ends_between_two_statements_is_503(
    postgres: PostgresServer, kind: Kind, at_commit: bool
) -> None:
    async def work(unit: Any) -> None:
        await kind.pay(unit, 1)
        await postgres.run("SELECT pg_terminate_backend($1)", await kind.process(unit))
        await asyncio.sleep(0.02)
        if not at_commit:
            await kind.pay(unit, 1)

    async with serve(postgres, kind.run(work), kind.route, pool_max=1, add=kind.add) as (service, _):
        assert_unavailable(await service.client.post("/run"))
        assert (await service.client.get("/balance")).json() == 100
        await nothing_is_in_use(service)


async def in_sleep(postgres: PostgresServer, count: int) -> None:
    async with asyncio.timeout(5.0):
        while await postgres.run("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'") != count:
            await asyncio.sleep(0.005)


@pytest.mark.parametrize("how", ["stop", "kill"])
async def test_requests_fail_fast_without_a_server_and_recover(postgres: PostgresServer, kind: Kind, how: str) -> None:
    async with serve(postgres, kind.route, pool_min=4, pool_max=4, add=kind.add) as (service, _):
        requests = [asyncio.create_task(service.client.post("/balance?seconds=5")) for _ in range(3)]
        await in_sleep(postgres, 1)  # the others wait for its lock
        await asyncio.to_thread(getattr(postgres, how))
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
        assert (await service.client.get("/balance")).json() == 100
        await nothing_is_in_use(service)
        # The cause is in the log: once a second, and not for each request.
        assert 1 <= len(service.seen.events("database is not available")) <= 5


# The server is silent.


async def test_paused_server_is_503_in_bounded_time_and_recovers(postgres: PostgresServer, kind: Kind) -> None:
    options = {"pool_min": 2, "pool_max": 2, "statement_seconds": 0.3, "pool_wait_seconds": 0.3, "check_seconds": 0.2}
    async with serve(postgres, kind.route, **options, add=kind.add) as (service, _):
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
    postgres: PostgresServer, kind: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chassis.postgres.pool.IDLE_SECONDS", 0.05)
    monkeypatch.setattr("chassis.postgres.pool.PING_SECONDS", 0.1)
    async with (
        proxy_of(postgres) as proxy,
        serve(postgres, kind.route, url=proxy.url(postgres), pool_min=4, pool_max=4, add=kind.add) as (service, _),
    ):
        proxy.forget()
        await asyncio.sleep(0.1)
        began = time.monotonic()
        responses = await asyncio.gather(*(service.client.get("/balance") for _ in range(4)))
        assert [response.status_code for response in responses] == [200] * 4
        assert time.monotonic() - began < 1.0


async def test_lost_rollback_does_not_hold_up_the_response(postgres: PostgresServer, kind: Kind) -> None:
    async with proxy_of(postgres) as proxy:

        async def work(unit: Any) -> None:
            await kind.pay(unit, 1)
            proxy.is_black_hole = True
            raise ValueError

        options = {"url": proxy.url(postgres), "pool_max": 1}
        async with serve(postgres, kind.run(work), kind.route, **options, add=kind.add) as (service, _):
            began = time.monotonic()
            assert (await service.client.post("/run")).status_code == 500
            assert time.monotonic() - began < 0.6
            proxy.is_black_hole = False
            await recovered(service)
            await nothing_is_in_use(service)


# The server is slow, or the pool is.


async def test_exhausted_pool_is_503_in_bounded_time(postgres: PostgresServer, kind: Kind) -> None:
    async with serve(postgres, kind.route, pool_max=1, pool_wait_seconds=0.2, add=kind.add) as (service, database):
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
            async with kind.connection(database):
                await database.queries.fetch("SELECT 1")


async def test_requests_that_are_cancelled_leak_nothing(postgres: PostgresServer, kind: Kind) -> None:
    async with serve(postgres, kind.route, pool_max=2, add=kind.add) as (service, database):
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
        async with asyncio.timeout(1.0), kind.connection(database), kind.connection(database):
            assert await postgres.run("SELECT count(*) FROM pg_stat_activity WHERE state LIKE 'idle in%'") == 0


async def test_slow_statement_is_503_and_ends_on_the_server(postgres: PostgresServer, kind: Kind) -> None:
    async with serve(postgres, kind.route, statement_seconds=0.2, pool_max=1, add=kind.add) as (service, _):
        assert_unavailable(await service.client.get("/balance?seconds=5"))
        await in_sleep(postgres, 0)
        assert_unavailable(await service.client.post("/balance?seconds=5"))
        await in_sleep(postgres, 0)
        assert (await service.client.get("/balance")).json() == 100


async def test_wait_for_a_lock_is_bounded(postgres: PostgresServer, kind: Kind) -> None:
    async with serve(postgres, kind.route, statement_seconds=0.2, add=kind.add) as (service, database):
        async with kind.unit(database) as unit:
            await kind.pay(unit, 1)
            assert_unavailable(await service.client.post("/balance"))
        assert (await service.client.post("/balance")).json() == 98


async def test_shorter_limit_of_one_query(postgres: PostgresServer, kind: Kind) -> None:
    async with kind.database(postgres.settings(pool_max=1)) as database:
        began = time.monotonic()
        with pytest.raises(StatementTimeoutError):
            await database.queries.execute("SELECT pg_sleep(3)", timeout_seconds=0.05)
        with pytest.raises(StatementTimeoutError):
            async with database.transaction() as queries:
                await queries.execute("SELECT pg_sleep(3)", timeout_seconds=0.05)
        assert time.monotonic() - began < 1.0
        assert await database.queries.fetchval("SELECT 1") == 1


async def test_server_without_connections_left_is_503(postgres: PostgresServer, kind: Kind) -> None:
    connections = []
    async with (
        serve(postgres, kind.route, pool_min=1, pool_max=4, add=kind.add) as (service, database),
        kind.connection(database),
    ):
        with suppress(asyncpg.TooManyConnectionsError):
            while True:
                connections.append(await asyncpg.connect(postgres.url))
        try:
            assert_unavailable(await service.client.get("/balance"))
        finally:
            await asyncio.gather(*(connection.close() for connection in connections))
        await recovered(service)


async def test_primary_that_became_read_only_is_left(postgres: PostgresServer, kind: Kind) -> None:
    async with serve(postgres, kind.route, pool_max=1, add=kind.add) as (service, _):
        await postgres.run("ALTER SYSTEM SET default_transaction_read_only = on")
        await postgres.run("SELECT pg_reload_conf()")
        async with asyncio.timeout(5.0):
            while (await service.client.post("/balance")).status_code == 200:
                await asyncio.sleep(0.01)
        assert_unavailable(await service.client.post("/balance"))
        await postgres.run("ALTER SYSTEM RESET default_transaction_read_only")
        await postgres.run("SELECT pg_reload_conf()")
        async with asyncio.timeout(5.0):
            while (await service.client.post("/balance")).status_code != 200:
                await asyncio.sleep(0.01)


async def test_connection_of_sqlalchemy_that_became_read_only_is_left(postgres: PostgresServer) -> None:
    async with chassis.sqlalchemy.Database(postgres.settings(pool_max=1)) as database:
        async with database.session() as session:
            await session.execute(text("SET default_transaction_read_only = on"))
        with pytest.raises(DatabaseUnavailableError, match="before a failover"):
            async with database.session() as session:
                await pay_from(session, 1)
        async with database.session() as session:  # on another connection
            await pay_from(session, 1)


async def test_changed_type_of_a_cached_query_is_repeated(postgres: PostgresServer, kind: Kind) -> None:
    """A migration has changed the table while the service runs."""
    async with serve(postgres, kind.run(kind.count), pool_max=1, add=kind.add) as (service, _):
        assert (await service.client.post("/run")).json() == 2
        await postgres.run("ALTER TABLE accounts ADD COLUMN note text")
        assert (await service.client.post("/run")).json() == 2


async def test_connection_that_is_lost_while_sqlalchemy_sets_it_up_is_503(postgres: PostgresServer) -> None:
    def lose(*_: object) -> None:
        raise asyncpg.InterfaceError("connection is closed")

    async with chassis.sqlalchemy.Database(postgres.settings(pool_max=2)) as database, database.engine.connect():
        event.listen(database.engine.sync_engine.pool, "connect", lose)
        with pytest.raises(DatabaseUnavailableError, match="connection is closed"):
            await database.queries.execute("SELECT 1")
        with pytest.raises(DatabaseUnavailableError, match="connection is closed"):
            async with database.session() as session:
                await balance_of(session)


# The end.


async def test_close_is_bounded_while_a_query_runs(postgres: PostgresServer, kind: Kind) -> None:
    database = await kind.database(postgres.settings()).__aenter__()
    query = asyncio.create_task(database.queries.execute("SELECT pg_sleep(4)"))
    await in_sleep(postgres, 1)
    began = time.monotonic()
    await database.__aexit__(None, None, None)
    assert time.monotonic() - began < 1.5
    with pytest.raises(DatabaseUnavailableError):
        await query


# Passwords.


async def test_password_file_is_read_for_each_new_connection(
    postgres: PostgresServer, kind: Kind, tmp_path: Path
) -> None:
    await postgres.run("CREATE ROLE rotating LOGIN PASSWORD 'first'")
    await postgres.run("GRANT ALL ON accounts TO rotating")
    rules = postgres.data / "pg_hba.conf"
    before = rules.read_text()
    rules.write_text("host all rotating 127.0.0.1/32 scram-sha-256\n" + before)
    await postgres.run("SELECT pg_reload_conf()")
    password = tmp_path / "password"
    password.write_text("first\n")
    url = postgres.url.replace("postgres@", "rotating@")
    try:
        options = {"url": url, "password_file": password, "pool_max": 1}
        async with serve(postgres, kind.route, **options, add=kind.add) as (service, _):
            assert (await service.client.get("/balance")).status_code == 200
            await postgres.run("ALTER ROLE rotating PASSWORD 'second'")
            # An open connection goes on.
            assert (await service.client.get("/balance")).status_code == 200
            await postgres.run("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'rotating'")
            await asyncio.sleep(0.02)
            assert_unavailable(await service.client.get("/balance"))
            password.write_text("second\n")
            assert (await service.client.get("/balance")).status_code == 200
    finally:
        rules.write_text(before)
        await postgres.run("SELECT pg_reload_conf()")
        await postgres.run("DROP OWNED BY rotating")
        await postgres.run("DROP ROLE rotating")


async def test_missing_password_file_is_the_reason(postgres: PostgresServer, kind: Kind, tmp_path: Path) -> None:
    password = tmp_path / "password"
    password.write_text("any")
    async with kind.database(postgres.settings(password_file=password, pool_max=1)) as database:
        password.unlink()
        await database.queries.execute("SELECT 1")
        await postgres.run(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = 'chassis'"
        )
        await asyncio.sleep(0.02)
        with pytest.raises(DatabaseUnavailableError, match="FileNotFoundError"):
            await database.queries.execute("SELECT 1")


async def test_pooler_gets_no_settings_and_no_cached_statements(postgres: PostgresServer) -> None:
    async with Database(postgres.settings(pooler=True, pool_max=1)) as database:
        assert await database.fetchval("SHOW statement_timeout") == "0"
        assert await database.fetchval("SHOW idle_in_transaction_session_timeout") == "0"
        assert await database.fetchval("SELECT balance FROM accounts WHERE id = 1") == 100
        assert await database.fetchval("SELECT count(*) FROM pg_prepared_statements WHERE name <> ''") == 0
        async with database.transaction() as transaction:
            assert await transaction.fetchval("SHOW statement_timeout") == "5s"


async def test_pooler_gets_no_named_statements_of_sqlalchemy(postgres: PostgresServer) -> None:
    settings = postgres.settings(pooler=True, pool_max=1)
    async with chassis.sqlalchemy.Database(settings) as database, database.session() as session:
        await balance_of(session)
        named = text("SELECT count(*) FROM pg_prepared_statements WHERE name <> ''")
        assert await session.scalar(named) == 0


async def test_requests_through_pgbouncer(postgres: PostgresServer, kind: Kind) -> None:
    """More transactions at once than PgBouncer has connections, with cancelled and slow ones in between."""
    with pgbouncer(postgres) as url:
        options = {"url": url, "pooler": True, "pool_max": 6, "statement_seconds": 0.5}
        async with serve(postgres, kind.route, **options, add=kind.add) as (service, database):
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
            async with database.transaction() as transaction:
                assert await transaction.fetchval("SHOW statement_timeout") == "500ms"
            assert (await service.client.get("/readyz")).status_code == 200
            await nothing_is_in_use(service)


# TLS.


@pytest.mark.parametrize(
    ("mode", "trusts", "host", "error"),
    [
        ("require", False, "127.0.0.1", None),
        ("verify-ca", True, "127.0.0.1", None),
        ("verify-full", True, "localhost", None),
        ("verify-full", True, "127.0.0.1", "certificate is not valid for '127.0.0.1'"),
        ("verify-full", False, "localhost", "self-signed certificate"),
    ],
)
async def test_tls(
    postgres: PostgresServer, tmp_path: Path, mode: str, trusts: bool, host: str, error: str | None
) -> None:
    paths = certificate(tmp_path)
    server_side = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_side.load_cert_chain(*paths)
    async with proxy_of(postgres, server_side) as proxy:
        url = proxy.url(postgres).replace("127.0.0.1", host)
        ca_file = paths[0] if trusts else None
        database = Database(postgres.settings(url=url, tls=mode, tls_ca_file=ca_file, connect_seconds=1.0))
        if error is None:
            async with database:
                assert await database.fetchval("SELECT balance FROM accounts WHERE id = 1") == 100
        else:
            with pytest.raises(DatabaseUnavailableError, match=error):
                await database.__aenter__()


async def test_server_without_tls_is_left_where_tls_is_required(postgres: PostgresServer) -> None:
    with pytest.raises(DatabaseUnavailableError, match="rejected SSL upgrade"):
        await Database(postgres.settings(tls="require", connect_seconds=3)).__aenter__()
