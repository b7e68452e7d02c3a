"""Sessions of SQLAlchemy with a real PostgreSQL: what is written, and when."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import asyncpg
import pytest
from opentelemetry.trace import SpanKind, StatusCode
from sqlalchemy import select, text
from sqlalchemy.exc import IntegrityError, PendingRollbackError
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.requests import Request
from starlette.responses import StreamingResponse

import chassis.postgres
import chassis.sqlalchemy
from chassis import Handler, Problem, Route, Server, repeatable
from chassis.sqlalchemy import (
    ConflictError,
    Database,
    Queries,
    StatementTimeoutError,
    TransactionFailedError,
    add_database,
)

from .support.accounts import Account, balance_of, pay_from
from .support.application import make_app
from .support.postgres import PostgresServer
from .support.service import SAMPLED, UNSAMPLED, Service, connect, observed
from .test_postgres import INVALID, SHORT, both, serve

Work = Callable[[AsyncSession], Awaitable[Any]]
SERVICE = {"add": add_database}


class Run(Handler):
    """Calls a function with the session of the request."""

    def __init__(self, work: Work) -> None:
        self._work = work

    async def get(self, session: AsyncSession) -> Any:
        return await self._work(session)

    async def post(self, session: AsyncSession) -> Any:
        return await self._work(session)


@asynccontextmanager
async def run(postgres: PostgresServer, work: Work, **given: Any) -> AsyncIterator[tuple[Service, Database]]:
    """A service with the route `/run`, and one connection."""
    async with serve(postgres, Route("/run", Run(work)), **{"pool_max": 1, **SERVICE, **given}) as pair:
        yield pair


async def balance(postgres: PostgresServer, account: int = 1) -> int:
    return int(await postgres.run("SELECT balance FROM accounts WHERE id = $1", account))


@asynccontextmanager
async def wire(postgres: PostgresServer) -> AsyncIterator[list[str]]:
    """The statements that new connections of a service send in the block; they are there at its end."""
    statements: list[str] = []
    await postgres.run("ALTER ROLE postgres SET log_statement = 'all'")
    try:
        log = postgres.folder / "log"
        size = log.stat().st_size
        yield statements
        text = log.read_bytes()[size:].decode()
        lines = [
            line for line in text.splitlines() if "LOG:  " in line and ("statement: " in line or "execute" in line)
        ]
        statements += [line.partition("LOG:  ")[2].partition(": ")[2] for line in lines]
    finally:
        await postgres.run("ALTER ROLE postgres RESET log_statement")


# Transactions.


async def test_session_is_committed_before_the_response_is_sent(postgres: PostgresServer) -> None:
    async def work(session: AsyncSession) -> int:
        account = await session.get_one(Account, 1)
        account.balance -= 10  # written by the commit
        return account.balance

    async with run(postgres, work) as (service, _):
        assert (await service.client.post("/run")).json() == 90
        assert await balance(postgres) == 90


async def test_unsafe_request_has_one_transaction_begun_by_its_first_statement(postgres: PostgresServer) -> None:
    async def work(session: AsyncSession) -> None:
        await pay_from(session, 10)
        await balance_of(session, 2)

    async with wire(postgres) as statements, run(postgres, work) as (service, _):
        await service.client.post("/run")
    assert [statement.split()[0] for statement in statements[-5:]] == [
        "BEGIN;",
        "SELECT",
        "UPDATE",
        "SELECT",
        "COMMIT;",
    ]


async def test_safe_request_sends_its_statement_and_nothing_else(postgres: PostgresServer) -> None:
    async with wire(postgres) as statements, run(postgres, balance_of) as (service, _):
        assert (await service.client.get("/run")).json() == 100
        await service.client.get("/run")
    # The first one is of the start.
    assert [statement.split()[0] for statement in statements[-3:]] == ["ROLLBACK;", "SELECT", "SELECT"]


@pytest.mark.parametrize("error", [ValueError(), Problem(409), asyncio.CancelledError(), SystemExit()])
async def test_session_is_rolled_back_on_any_error(postgres: PostgresServer, error: BaseException) -> None:
    async def work(session: AsyncSession) -> None:
        await pay_from(session, 10)
        raise error

    async with run(postgres, work) as (service, database):
        assert (await service.client.post("/run")).status_code == (409 if isinstance(error, Problem) else 500)
        async with database.session() as session:
            assert await balance_of(session) == 100


async def test_session_is_rolled_back_at_the_deadline(postgres: PostgresServer) -> None:
    async def work(session: AsyncSession) -> None:
        await pay_from(session, 10)
        await session.execute(text("SELECT pg_sleep(5)"))

    async with run(postgres, work, app={"deadline_seconds": 0.2}) as (service, database):
        assert (await service.client.post("/run")).status_code in (503, 504)
        async with database.session() as session:
            assert await balance_of(session) == 100


@pytest.mark.parametrize("method", ["get", "post"])
async def test_query_ends_on_the_server_when_the_client_disconnects(postgres: PostgresServer, method: str) -> None:
    begun = asyncio.Event()

    async def work(session: AsyncSession) -> None:
        await pay_from(session, 10)
        begun.set()
        await session.execute(text("SELECT pg_sleep(10)"))

    async with run(postgres, work) as (service, database):
        request = asyncio.create_task(service.client.request(method, "/run"))
        await begun.wait()
        await asyncio.sleep(0.01)
        request.cancel()
        await asyncio.gather(request, return_exceptions=True)
        async with asyncio.timeout(1.0), database.session() as session:
            assert await balance_of(session) == (100 if method == "post" else 90)
        assert (await service.access_line())["status"] == 499
        assert await postgres.run("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'") == 0


async def test_statement_ends_on_the_server_at_the_request_s_deadline(postgres: PostgresServer) -> None:
    async def work(session: AsyncSession) -> list[str]:
        return [str(await session.scalar(text("SHOW statement_timeout")))]

    async with run(postgres, work, app={"deadline_seconds": 2.0}) as (service, database):
        (limit,) = (await service.client.post("/run")).json()
        assert 1000 < int(limit.removesuffix("ms")) < 2000
        async with database.session() as session:  # on the same connection
            assert await work(session) == ["5s"]


async def test_handler_without_a_statement_takes_no_connection(postgres: PostgresServer) -> None:
    async def work(session: AsyncSession) -> None: ...

    async with run(postgres, work) as (service, database), database.engine.connect():
        assert (await service.client.post("/run")).status_code == 200


async def test_savepoint_undoes_a_statement_that_fails(postgres: PostgresServer) -> None:
    async with Database(postgres.settings()) as database, database.session() as session:
        await pay_from(session, 10)
        with suppress(IntegrityError):
            async with session.begin_nested():
                await pay_from(session, 1_000)
        await pay_from(session, 5)
    assert await balance(postgres) == 85


async def test_commit_after_an_error_that_was_caught_is_an_error(postgres: PostgresServer) -> None:
    async with Database(postgres.settings(pool_max=1)) as database:
        session = await database.session().__aenter__()
        await pay_from(session, 10)
        with pytest.raises(IntegrityError):
            await session.execute(text("INSERT INTO accounts VALUES (1, 1)"))
        with pytest.raises(TransactionFailedError, match="begin_nested"):
            await session.__aexit__(None, None, None)
        assert await balance(postgres) == 100
        assert await database.queries.fetchval("SELECT 1") == 1


@pytest.mark.parametrize("kind", ["session", "queries"])
async def test_transaction_ends_with_a_statement_that_was_interrupted(postgres: PostgresServer, kind: str) -> None:
    """It is not known whether the statement was executed."""
    async with Database(postgres.settings(pool_max=1)) as database:
        session = await database.session().__aenter__()
        await pay_from(session, 10)
        queries = database.queries_of_session(session)
        sleep = "SELECT pg_sleep(5)"
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(session.execute(text(sleep)) if kind == "session" else queries.execute(sleep), 0.05)
        with pytest.raises(PendingRollbackError):
            await session.__aexit__(None, None, None)
        assert await balance(postgres) == 100
        assert await database.queries.fetchval("SELECT 1") == 1


async def test_safe_request_goes_on_after_a_statement_that_took_too_long(postgres: PostgresServer) -> None:
    async def work(session: AsyncSession) -> str:
        try:
            await session.execute(text("SELECT pg_sleep(5)"))
        except StatementTimeoutError:
            return "too long"
        return "done"

    async with run(postgres, work, statement_seconds=0.1) as (service, _):
        assert (await service.client.get("/run")).json() == "too long"
        assert (await service.client.post("/run")).status_code == 500


async def test_error_of_the_commit_is_raised(postgres: PostgresServer) -> None:
    await postgres.run("UPDATE accounts SET balance = id")
    await postgres.run("ALTER TABLE accounts ADD UNIQUE (balance) DEFERRABLE INITIALLY DEFERRED")
    async with Database(postgres.settings(pool_max=1)) as database:
        with pytest.raises(IntegrityError):
            async with database.session() as session:
                await session.execute(text("UPDATE accounts SET balance = 7"))
        assert await database.queries.fetchval("SELECT balance FROM accounts WHERE id = 1") == 1


async def test_error_has_no_values(postgres: PostgresServer) -> None:
    async with Database(postgres.settings()) as database:
        with pytest.raises(IntegrityError) as raised:
            async with database.session() as session:
                session.add(Account(id=1, balance=1987654321))
    assert "1987654321" not in str(raised.value)


async def test_ended_session_is_not_used_by_a_stream(postgres: PostgresServer) -> None:
    class Stream(Handler):
        async def get(self, session: AsyncSession) -> StreamingResponse:
            async def body() -> AsyncIterator[bytes]:
                yield str(await balance_of(session)).encode()

            return StreamingResponse(body())

    async with serve(postgres, Route("/stream", Stream()), **SERVICE) as (service, _):
        await service.client.get("/stream")
        (line,) = service.seen.events("unhandled exception")
        assert "the session has ended" in str(line)


async def test_session_with_other_properties_is_provided_by_a_type_of_its_own(postgres: PostgresServer) -> None:
    class Snapshot(AsyncSession):
        """A session that sees one state of the database."""

    class Read(Handler):
        async def get(self, snapshot: Snapshot) -> list[Any]:
            return [
                await snapshot.scalar(text("SHOW transaction_isolation")),
                await snapshot.scalar(text("SHOW transaction_read_only")),
            ]

    with observed() as seen:
        app = make_app(seen.telemetry, Route("/read", Read()))
        database = add_database(app, postgres.settings(pool_max=1))
        app.provide(Snapshot, database.sessions(isolation="repeatable read", read_only=True))
        async with Server(app) as server, connect(server.port) as client:
            assert (await client.get("/read")).json() == ["repeatable read", "on"]
            async with database.session() as session:  # on the same connection
                assert await session.scalar(text("SHOW transaction_read_only")) == "off"


async def test_session_that_the_handler_commits_goes_on(postgres: PostgresServer) -> None:
    async def work(session: AsyncSession) -> int:
        await pay_from(session, 10)
        await session.commit()
        assert await balance(postgres) == 90
        await pay_from(session, 5)
        return (await session.scalars(select(Account.balance).where(Account.id == 1))).one()

    async with run(postgres, work) as (service, _):
        assert (await service.client.post("/run")).json() == 85
        assert await balance(postgres) == 85


# Conflicts.


async def test_deadlock_is_repeated_where_that_is_safe(postgres: PostgresServer) -> None:
    calls: list[str] = []
    barrier = asyncio.Barrier(2)

    class Pay(Handler):
        @repeatable
        async def post(self, request: Request, session: AsyncSession) -> None:
            calls.append(request.url.query)
            first, second = (1, 2) if request.url.query else (2, 1)
            await pay_from(session, 1, first)
            if len(calls) <= 2:
                await barrier.wait()
            await pay_from(session, 1, second)

    async with serve(postgres, Route("/pay", Pay()), **SERVICE) as (service, _):
        assert await both(service) == [204, 204]
        assert (await balance(postgres), await balance(postgres, 2), len(calls)) == (98, 98, 3)


async def test_serialization_failure_at_the_commit_is_repeated(postgres: PostgresServer) -> None:
    calls: list[str] = []
    barrier = asyncio.Barrier(2)

    class Pay(Handler):
        @repeatable
        async def post(self, request: Request, session: AsyncSession) -> None:
            calls.append(request.url.query)
            accounts = (await session.scalars(select(Account).order_by(Account.id))).all()
            if len(calls) <= 2:
                await barrier.wait()
            accounts[bool(request.url.query)].balance = sum(account.balance for account in accounts)

    with observed() as seen:
        app = make_app(seen.telemetry, Route("/pay", Pay()))
        database = add_database(app, postgres.settings())
        with app.override(AsyncSession, database.sessions(isolation="serializable")):
            async with Server(app) as server, connect(server.port) as client:
                assert await both(Service(app, server, client, seen)) == [204, 204]
    assert sorted([await balance(postgres), await balance(postgres, 2)]) == [200, 300]
    assert len(calls) == 3


async def test_work_outside_of_a_request_is_repeated_after_a_conflict(postgres: PostgresServer) -> None:
    async with Database(postgres.settings()) as database:
        calls: list[int] = []

        async def work(session: AsyncSession) -> int:
            calls.append(await balance_of(session))
            if len(calls) < 3:
                await database.queries.execute("UPDATE accounts SET balance = balance - 1 WHERE id = 1")
            await pay_from(session, 1)
            return len(calls)

        assert await database.repeat(work, isolation="repeatable read") == 3
        assert (calls, await balance(postgres)) == ([100, 99, 98], 97)
        calls.clear()
        with pytest.raises(ConflictError, match="SerializationError"):
            await database.repeat(work, isolation="repeatable read", attempts=2)


# SQL.


async def test_sql_of_a_request_is_in_the_transaction_of_its_session(postgres: PostgresServer) -> None:
    class Pay(Handler):
        async def get(self, queries: Queries, session: AsyncSession) -> list[Any]:
            return [await queries.fetchval("SELECT balance FROM accounts WHERE id = $1", 1), await balance_of(session)]

        async def post(self, queries: Queries, session: AsyncSession) -> None:
            account = await session.get_one(Account, 1)
            account.balance -= 10  # written before the next query
            assert await queries.fetchval("SELECT balance FROM accounts WHERE id = 1") == 90
            raise Problem(409)

        async def put(self, queries: Queries) -> None:
            await queries.execute("UPDATE accounts SET balance = balance - $1 WHERE id = $2", 5, 1)

    async with serve(postgres, Route("/pay", Pay()), pool_max=1, **SERVICE) as (service, _):
        assert (await service.client.get("/pay")).json() == [100, 100]
        assert (await service.client.post("/pay")).status_code == 409
        assert await balance(postgres) == 100
        assert (await service.client.put("/pay")).status_code == 204
        assert await balance(postgres) == 95


async def test_rows_and_errors_of_sql_are_those_of_asyncpg(postgres: PostgresServer) -> None:
    async with Database(postgres.settings(pool_max=1)) as database:
        async with database.transaction() as queries:
            assert await queries.execute("UPDATE accounts SET balance = 0") == "UPDATE 2"
            await queries.executemany("INSERT INTO accounts VALUES ($1, $2)", [(3, 1), (4, 2)])
            await queries.execute("CREATE TEMP TABLE one (id int); CREATE TEMP TABLE two (id int)")
            row = await queries.fetchrow("SELECT * FROM accounts WHERE id = $1", 4)
            assert row is not None
            assert (row["id"], row[1], list(row.keys())) == (4, 2, ["id", "balance"])
            results = await asyncio.gather(*(queries.fetchval("SELECT $1::int", number) for number in range(5)))
            assert results == [0, 1, 2, 3, 4]
        assert [row["id"] for row in await database.queries.fetch("SELECT id FROM accounts ORDER BY id")] == [
            1,
            2,
            3,
            4,
        ]
        with pytest.raises(asyncpg.UniqueViolationError):
            async with database.transaction() as queries:
                await queries.executemany("INSERT INTO accounts VALUES ($1, $2)", [(5, 1), (1, 1)])
        assert await database.queries.fetchval("SELECT count(*) FROM accounts") == 4


# Telemetry.


async def telemetry_work(session: AsyncSession) -> None:
    await pay_from(session, 10)


async def test_sampled_request_has_a_span_for_each_statement(postgres: PostgresServer) -> None:
    async with run(postgres, telemetry_work) as (service, _):
        await service.client.post("/run", headers=SAMPLED)
        spans = [span for span in await service.spans(4) if span.kind is SpanKind.CLIENT]
        (server,) = (span for span in service.seen.spans if span.kind is SpanKind.SERVER)
    assert [span.name for span in spans] == ["SELECT accounts", "UPDATE accounts", "COMMIT"]
    for span in spans:
        assert span.parent is not None
        assert server.context is not None
        assert span.parent.span_id == server.context.span_id
    assert dict(spans[0].attributes or {}) == {
        "db.system.name": "postgresql",
        "db.namespace": "postgres",
        "db.query.summary": "SELECT accounts",
        "server.address": "127.0.0.1",
        "server.port": postgres.port,
    }


async def test_unsampled_request_has_no_span_and_is_counted(postgres: PostgresServer) -> None:
    async with run(postgres, telemetry_work) as (service, _):
        await service.client.post("/run", headers=UNSAMPLED)
        labels = {"db_query_summary": "UPDATE accounts", "error_type": ""}
        assert await service.sample("db_client_operation_duration_seconds_count", **labels) == 1
        assert service.seen.spans == []


async def test_failed_statement_has_its_code_and_no_values(postgres: PostgresServer) -> None:
    async def fail(session: AsyncSession) -> None:
        session.add(Account(id=1, balance=1987654321))

    async with run(postgres, fail) as (service, _):
        await service.client.post("/run", headers=SAMPLED)
        failed = next(span for span in await service.spans(2) if span.kind is SpanKind.CLIENT)
        labels = {"db_query_summary": "INSERT accounts", "db_response_status_code": "23505", "error_type": "23505"}
        assert await service.sample("db_client_operation_duration_seconds_count", **labels) == 1
        assert "1987654321" not in service.seen.output.decode()
    assert failed.status.status_code is StatusCode.ERROR
    assert (failed.attributes or {})["error.type"] == "23505"
    assert "1987654321" not in failed.to_json()


async def test_slow_statement_is_logged(postgres: PostgresServer) -> None:
    async def slow(session: AsyncSession) -> None:
        await session.execute(text("SELECT pg_sleep(0.1) FROM accounts WHERE id = :id"), {"id": 1})

    async with run(postgres, slow, slow_query_seconds=0.08) as (service, _):
        await service.client.get("/run", headers=SAMPLED)
        (line,) = service.seen.events("slow query")
        assert line["trace_id"] == (await service.access_line())["trace_id"]
    assert line["query_summary"] == "SELECT accounts"


async def test_pool_is_in_the_metrics(postgres: PostgresServer) -> None:
    options = {"pool_min": 3, "pool_max": 7}
    async with serve(postgres, **options, **SERVICE) as (service, database), database.engine.connect():
        name, count = {"db_client_connection_pool_name": "database"}, "db_client_connection_count"
        assert await service.sample(count, db_client_connection_state="used", **name) == 1
        assert await service.sample(count, db_client_connection_state="idle", **name) == 2
        assert await service.sample("db_client_connection_max", **name) == 7
        assert await service.sample("db_client_connection_pending_requests", **name) == 0


@pytest.mark.parametrize(("query", "value"), INVALID)
async def test_value_that_does_not_fit_its_type_is_422(postgres: PostgresServer, query: str, value: Any) -> None:
    async def work(session: AsyncSession) -> None:
        connection = await session.connection()
        await connection.exec_driver_sql(SHORT)
        await connection.exec_driver_sql(query, (value,))

    async with run(postgres, work) as (service, _):
        assert (await service.client.post("/run")).status_code == 422
        assert (await service.client.get("/run")).status_code == 422


def test_names_are_those_of_the_other_part_but_the_transaction() -> None:
    assert {*chassis.postgres.__all__} - {*chassis.sqlalchemy.__all__} == {"Transaction"}
    assert {*chassis.sqlalchemy.__all__} <= {*chassis.postgres.__all__}
    own = {
        name
        for name in chassis.sqlalchemy.__all__
        if getattr(chassis.sqlalchemy, name) is not getattr(chassis.postgres, name)
    }
    assert own == {"Database", "add_database"}
