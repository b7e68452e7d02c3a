"""Queries and transactions with a real PostgreSQL: what is written, and when."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from datetime import datetime, timedelta, timezone
from typing import Any

import asyncpg
import pytest
from starlette.requests import Request
from starlette.responses import StreamingResponse

from chassis import Handler, Problem, Route, Server, repeatable
from chassis.app import App
from chassis.postgres import (
    ConflictError,
    Database,
    InvalidValueError,
    Queries,
    StatementTimeoutError,
    Transaction,
    TransactionFailedError,
    add_database,
)

from .support.application import make_app
from .support.postgres import PostgresServer
from .support.service import Service, connect, observed

Work = Callable[[Transaction], Awaitable[Any]]


@asynccontextmanager
async def serve(postgres: PostgresServer, *routes: Route, **given: Any) -> AsyncIterator[tuple[Service, Any]]:
    """A service with a database that `add` adds; `given` are settings of it."""
    app_settings, add = given.pop("app", {}), given.pop("add", add_database)
    with observed() as seen:
        app: App = make_app(seen.telemetry, *routes, **app_settings)
        database = add(app, postgres.settings(**given))
        async with Server(app) as server, connect(server.port) as client:
            yield Service(app, server, client, seen), database


class Run(Handler):
    """Calls a function with the transaction of the request."""

    def __init__(self, work: Work) -> None:
        self._work = work

    async def post(self, transaction: Transaction) -> Any:
        return await self._work(transaction)


class RunAgain(Run):
    """The same, safe to repeat."""

    @repeatable
    async def post(self, transaction: Transaction) -> Any:
        return await self._work(transaction)


async def balance(queries: Queries, account: int = 1) -> Any:
    return await queries.fetchval("SELECT balance FROM accounts WHERE id = $1", account)


async def pay(queries: Queries, amount: int, account: int = 1) -> None:
    await queries.execute("UPDATE accounts SET balance = balance - $1 WHERE id = $2", amount, account)


# Queries without a transaction.


async def test_queries_return_rows_values_and_the_status(postgres: PostgresServer) -> None:
    async with Database(postgres.settings()) as database:
        rows = await database.fetch("SELECT * FROM accounts ORDER BY id")
        assert [dict(row) for row in rows] == [{"id": 1, "balance": 100}, {"id": 2, "balance": 100}]
        row = await database.fetchrow("SELECT * FROM accounts WHERE id = $1", 2)
        assert row is not None
        assert (row["id"], row[1]) == (2, 100)
        assert await database.fetchrow("SELECT * FROM accounts WHERE id = 3") is None
        assert await database.execute("UPDATE accounts SET balance = 0") == "UPDATE 2"
        await database.executemany("INSERT INTO accounts VALUES ($1, $2)", [(3, 1), (4, 2)])
        assert await database.fetchval("SELECT sum(balance) FROM accounts") == 3


async def test_single_query_has_no_transaction_and_no_reset(postgres: PostgresServer) -> None:
    async with Database(postgres.settings(pool_max=1)) as database:
        await balance(database)
        last = (
            "SELECT query FROM pg_stat_activity WHERE application_name = 'chassis' ORDER BY backend_start DESC LIMIT 1"
        )
        assert "FROM accounts" in await postgres.run(last)


async def test_error_of_a_query_is_that_of_asyncpg_and_the_connection_stays(postgres: PostgresServer) -> None:
    async with Database(postgres.settings(pool_max=1)) as database:
        process = await database.fetchval("SELECT pg_backend_pid()")
        with pytest.raises(asyncpg.UniqueViolationError):
            await database.execute("INSERT INTO accounts VALUES (1, 1)")
        assert await database.fetchval("SELECT pg_backend_pid()") == process


async def test_query_of_a_closed_database_says_how_to_open_it(postgres: PostgresServer) -> None:
    with pytest.raises(RuntimeError, match="is not open; add it with add_database"):
        await Database(postgres.settings()).fetch("SELECT 1")


async def test_connection_for_a_session_is_reset(postgres: PostgresServer) -> None:
    async with Database(postgres.settings(pool_max=1)) as database:
        async with database.connection() as connection:
            await connection.execute("SET work_mem = '5MB'")
            await connection.execute("SELECT pg_advisory_lock(7)")
        assert await database.fetchval("SHOW work_mem") == "4MB"
        assert await postgres.run("SELECT pg_try_advisory_lock(7)") is True


# Transactions.


async def test_transaction_is_committed_before_the_response_is_sent(postgres: PostgresServer) -> None:
    async def work(transaction: Transaction) -> int:
        await pay(transaction, 10)
        assert await postgres.run("SELECT balance FROM accounts WHERE id = 1") == 100
        return int(await balance(transaction))

    async with serve(postgres, Route("/run", Run(work))) as (service, _):
        response = await service.client.post("/run")
        assert response.json() == 90
        assert await postgres.run("SELECT balance FROM accounts WHERE id = 1") == 90


class UnpaidError(Exception):
    """An error of the domain."""


@pytest.mark.parametrize(
    ("error", "status"),
    [(UnpaidError(), 500), (Problem(409), 409), (asyncio.CancelledError(), 500), (SystemExit(), 500)],
)
async def test_transaction_is_rolled_back_on_any_error(
    postgres: PostgresServer, error: BaseException, status: int
) -> None:
    async def work(transaction: Transaction) -> None:
        await pay(transaction, 10)
        raise error

    async with serve(postgres, Route("/run", Run(work)), pool_max=1) as (service, database):
        assert (await service.client.post("/run")).status_code == status
        assert await balance(database) == 100
        # asyncpg would roll back as well, and complain.
        assert "active transaction" not in service.seen.output.decode()


async def test_transaction_is_rolled_back_when_the_result_is_not_valid(postgres: PostgresServer) -> None:
    class Wrong(Handler):
        async def post(self, transaction: Transaction) -> int:
            await pay(transaction, 10)
            return "text"  # type: ignore[return-value]

    async with serve(postgres, Route("/run", Wrong())) as (service, database):
        assert (await service.client.post("/run")).status_code == 500
        assert await balance(database) == 100


async def test_transaction_is_rolled_back_at_the_deadline(postgres: PostgresServer) -> None:
    async def work(transaction: Transaction) -> None:
        await pay(transaction, 10)
        await asyncio.sleep(10)

    app = {"deadline_seconds": 0.2}
    async with serve(postgres, Route("/run", Run(work)), app=app, pool_max=1) as (service, database):
        assert (await service.client.post("/run")).status_code == 504
        assert await balance(database) == 100


async def test_transaction_is_rolled_back_when_the_client_disconnects(postgres: PostgresServer) -> None:
    begun = asyncio.Event()

    async def work(transaction: Transaction) -> None:
        await pay(transaction, 10)
        begun.set()
        await transaction.execute("SELECT pg_sleep(10)")

    async with serve(postgres, Route("/run", Run(work)), pool_max=1) as (service, database):
        request = asyncio.create_task(service.client.post("/run"))
        await begun.wait()
        request.cancel()
        await asyncio.gather(request, return_exceptions=True)
        # The only connection is free again at once: the server has ended the query.
        assert await balance(database) == 100
        assert (await service.access_line())["status"] == 499


async def test_statement_ends_on_the_server_at_the_request_s_deadline(postgres: PostgresServer) -> None:
    limits = []

    async def work(transaction: Transaction) -> None:
        limits.append(await transaction.fetchval("SHOW statement_timeout"))

    app = {"deadline_seconds": 2.0}
    async with serve(postgres, Route("/run", Run(work)), app=app) as (service, database):
        await service.client.post("/run")
        limits.append(await database.fetchval("SHOW statement_timeout"))
    assert 1000 < int(limits[0].removesuffix("ms")) < 2000
    assert limits[1] == "5s"


async def test_handler_without_a_query_takes_no_connection(postgres: PostgresServer) -> None:
    async def work(transaction: Transaction) -> None: ...

    async with serve(postgres, Route("/run", Run(work)), pool_max=1) as (service, database), database.connection():
        assert (await service.client.post("/run")).status_code == 200


async def test_concurrent_queries_of_a_transaction_run_one_by_one(postgres: PostgresServer) -> None:
    async with Database(postgres.settings()) as database, database.transaction() as transaction:
        results = await asyncio.gather(*(transaction.fetchval("SELECT $1::int", number) for number in range(5)))
    assert results == [0, 1, 2, 3, 4]


async def test_savepoint_undoes_a_query_that_fails(postgres: PostgresServer) -> None:
    async with Database(postgres.settings()) as database:
        async with database.transaction() as transaction:
            await pay(transaction, 10)
            with suppress(asyncpg.CheckViolationError):
                async with transaction.savepoint():
                    await pay(transaction, 1, account=2)
                    await pay(transaction, 1_000)
            async with transaction.savepoint():
                await pay(transaction, 5)
        assert (await balance(database), await balance(database, 2)) == (85, 100)


async def test_commit_after_an_error_that_was_caught_is_an_error(postgres: PostgresServer) -> None:
    async with Database(postgres.settings(pool_max=1)) as database:
        transaction = await database.transaction().__aenter__()
        await pay(transaction, 10)
        with pytest.raises(asyncpg.UniqueViolationError):
            await transaction.execute("INSERT INTO accounts VALUES (1, 1)")
        with pytest.raises(TransactionFailedError, match="savepoint"):
            await transaction.__aexit__(None, None, None)
        assert await balance(database) == 100


async def test_error_of_the_commit_is_raised(postgres: PostgresServer) -> None:
    async with Database(postgres.settings(pool_max=1)) as database:
        await database.execute("UPDATE accounts SET balance = id")
        await database.execute("ALTER TABLE accounts ADD UNIQUE (balance) DEFERRABLE INITIALLY DEFERRED")
        with pytest.raises(asyncpg.UniqueViolationError):
            async with database.transaction() as transaction:
                await transaction.execute("UPDATE accounts SET balance = 7")
        assert await balance(database) == 1


async def test_ended_transaction_is_not_used_by_a_stream(postgres: PostgresServer) -> None:
    class Stream(Handler):
        async def get(self, transaction: Transaction) -> StreamingResponse:
            async def body() -> AsyncIterator[bytes]:
                yield str(await balance(transaction)).encode()

            return StreamingResponse(body())

    async with serve(postgres, Route("/stream", Stream())) as (service, _):
        await service.client.get("/stream")
        (line,) = service.seen.events("unhandled exception")
        assert "the transaction has ended" in str(line)


async def test_read_only_transaction_is_provided_by_a_type_of_its_own(postgres: PostgresServer) -> None:
    class Snapshot(Transaction):
        """A transaction that sees one state of the database."""

    class Read(Handler):
        async def get(self, snapshot: Snapshot) -> list[str]:
            return [
                await snapshot.fetchval("SHOW transaction_isolation"),
                await snapshot.fetchval("SHOW transaction_read_only"),
            ]

    with observed() as seen:
        app = make_app(seen.telemetry, Route("/read", Read()))
        database = add_database(app, postgres.settings())
        app.provide(Snapshot, database.transactions(isolation="repeatable read", read_only=True))
        async with Server(app) as server, connect(server.port) as client:
            assert (await client.get("/read")).json() == ["repeatable read", "on"]


async def test_provider_can_be_replaced_in_a_test(postgres: PostgresServer) -> None:
    class Nothing(Queries):
        async def _run(self, method: str, query: str, args: tuple[Any, ...], timeout_seconds: float | None) -> Any:
            return 7

    async with serve(postgres, Route("/run", Run(balance))) as (service, _):
        with service.app.override(Transaction, Nothing):
            assert (await service.client.post("/run")).json() == 7


# Conflicts.


class Conflict:
    """Work of two requests that block each other once: a deadlock, or a serialization failure."""

    def __init__(self) -> None:
        self.calls = 0
        self._both = asyncio.Barrier(2)

    async def deadlock(self, transaction: Transaction, request: Request) -> None:
        self.calls += 1
        first, second = (1, 2) if "other" in request.url.query else (2, 1)
        await pay(transaction, 1, first)
        if self.calls <= 2:
            await self._both.wait()
        await pay(transaction, 1, second)

    async def skew(self, transaction: Transaction, request: Request) -> None:
        self.calls += 1
        total = await transaction.fetchval("SELECT sum(balance) FROM accounts")
        if self.calls <= 2:
            await self._both.wait()
        await transaction.execute(
            "UPDATE accounts SET balance = $1 WHERE id = $2", total, 1 if "other" in request.url.query else 2
        )


def transfers(work: Callable[[Transaction, Request], Awaitable[None]], *, is_repeatable: bool) -> Handler:
    class Once(Handler):
        async def post(self, request: Request, transaction: Transaction) -> None:
            await work(transaction, request)

    class Again(Handler):
        @repeatable
        async def post(self, request: Request, transaction: Transaction) -> None:
            await work(transaction, request)

    return Again() if is_repeatable else Once()


async def both(service: Service) -> list[int]:
    responses = await asyncio.gather(service.client.post("/pay"), service.client.post("/pay?other"))
    return sorted(response.status_code for response in responses)


async def test_deadlock_is_repeated_where_that_is_safe(postgres: PostgresServer) -> None:
    conflict = Conflict()
    route = Route("/pay", transfers(conflict.deadlock, is_repeatable=True))
    async with serve(postgres, route) as (service, database):
        assert await both(service) == [204, 204]
        assert (await balance(database), await balance(database, 2), conflict.calls) == (98, 98, 3)
        lines = await service.access_lines(2)
        assert sorted(line.get("attempts", 1) for line in lines) == [1, 2]


async def test_deadlock_is_503_where_no_one_says_that_it_is_safe(postgres: PostgresServer) -> None:
    conflict = Conflict()
    route = Route("/pay", transfers(conflict.deadlock, is_repeatable=False))
    async with serve(postgres, route) as (service, database):
        assert await both(service) == [204, 503]
        assert (await balance(database), conflict.calls) == (99, 2)


async def test_serialization_failure_at_the_commit_is_repeated(postgres: PostgresServer) -> None:
    conflict = Conflict()
    with observed() as seen:
        app = make_app(seen.telemetry, Route("/pay", transfers(conflict.skew, is_repeatable=True)))
        database = add_database(app, postgres.settings())
        with app.override(Transaction, database.transactions(isolation="serializable")):
            async with Server(app) as server, connect(server.port) as client:
                assert await both(Service(app, server, client, seen)) == [204, 204]
                # One after the other: 200 and 300, in either order.
                assert sorted([await balance(database), await balance(database, 2)]) == [200, 300]
    assert conflict.calls == 3


async def test_conflict_outside_of_a_request_is_an_error_with_a_name(postgres: PostgresServer) -> None:
    async with Database(postgres.settings()) as database:
        transaction = await database.transaction(isolation="repeatable read").__aenter__()
        await balance(transaction)
        await pay(database, 1)
        with pytest.raises(ConflictError, match="SerializationError") as raised:
            await pay(transaction, 1)
        await transaction.__aexit__(type(raised.value), raised.value, None)
        assert await balance(database) == 99


async def test_work_outside_of_a_request_is_repeated_after_a_conflict(postgres: PostgresServer) -> None:
    async with Database(postgres.settings()) as database:
        calls: list[int] = []

        async def work(transaction: Transaction) -> int:
            calls.append(await balance(transaction))
            if len(calls) < 3:
                await pay(database, 1)
            await pay(transaction, 1)
            return len(calls)

        assert await database.repeat(work, isolation="repeatable read") == 3
        assert (calls, await balance(database)) == ([100, 99, 98], 97)

        async def fail(transaction: Transaction) -> None:
            calls.append(1)
            raise ConflictError

        with pytest.raises(ConflictError):
            await database.repeat(fail, attempts=2)
        assert len(calls) == 5


@pytest.mark.parametrize(("method", "has_transaction"), [("GET", False), ("HEAD", False), ("POST", True)])
async def test_queries_of_a_request_are_in_a_transaction_unless_its_method_is_safe(
    postgres: PostgresServer, method: str, has_transaction: bool
) -> None:
    class Read(Handler):
        async def get(self, queries: Queries) -> bool:
            assert not isinstance(queries, Transaction)
            return False

        async def post(self, queries: Queries, transaction: Transaction) -> bool:
            return queries is transaction

    async with serve(postgres, Route("/read", Read())) as (service, _):
        response = await service.client.request(method, "/read")
        assert response.status_code == 200
        assert method == "HEAD" or response.json() == has_transaction


async def test_transaction_ends_with_a_query_that_was_interrupted(postgres: PostgresServer) -> None:
    """It is not known whether the query was executed."""
    async with Database(postgres.settings(pool_max=1)) as database:
        transaction = await database.transaction().__aenter__()
        await pay(transaction, 10)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await transaction.execute("SELECT pg_sleep(5)")
        with pytest.raises(TransactionFailedError, match="was interrupted"):
            await balance(transaction)
        with pytest.raises(TransactionFailedError, match="was interrupted"):
            await transaction.__aexit__(None, None, None)
        assert await balance(database) == 100


async def test_nothing_is_written_without_a_begin(postgres: PostgresServer) -> None:
    """The server is gone at the first query, and the handler catches the error and goes on."""
    async with Database(postgres.settings(pool_max=1, pool_min=1, statement_seconds=0.2)) as database:
        transaction = await database.transaction().__aenter__()
        with postgres.paused(), pytest.raises(StatementTimeoutError):
            await pay(transaction, 10)
        with pytest.raises(TransactionFailedError):
            await pay(transaction, 10)
        with pytest.raises(TransactionFailedError):
            await transaction.__aexit__(None, None, None)
        assert await balance(database) == 100


async def test_query_that_no_one_waits_for_ends_before_the_commit(postgres: PostgresServer) -> None:
    tasks: list[asyncio.Task[None]] = []

    async def work(transaction: Transaction) -> None:
        await pay(transaction, 10)
        tasks.append(asyncio.create_task(pay(transaction, 10)))
        await asyncio.sleep(0)

    async with serve(postgres, Route("/run", Run(work))) as (service, database):
        assert (await service.client.post("/run")).status_code == 200
        await asyncio.gather(*tasks)
        assert await balance(database) == 80


async def test_savepoint_does_not_hide_that_a_query_was_interrupted(postgres: PostgresServer) -> None:
    async with Database(postgres.settings()) as database:
        transaction = await database.transaction().__aenter__()
        savepoint = transaction.savepoint()
        await savepoint.__aenter__()
        with pytest.raises(StatementTimeoutError) as raised:
            await transaction.execute("SELECT pg_sleep(5)", timeout_seconds=0.05)
        assert not await savepoint.__aexit__(StatementTimeoutError, raised.value, None)
        await transaction.__aexit__(StatementTimeoutError, raised.value, None)


async def test_transaction_ends_with_a_savepoint_that_was_cancelled(postgres: PostgresServer) -> None:
    async with Database(postgres.settings(pool_max=1)) as database:
        transaction = await database.transaction().__aenter__()
        with suppress(TimeoutError):
            async with asyncio.timeout(0.1), transaction.savepoint():
                await pay(transaction, 10)
                await asyncio.sleep(5)
        with pytest.raises(TransactionFailedError, match="was interrupted"):
            await transaction.__aexit__(None, None, None)
        assert await balance(database) == 100


# Values that the database cannot store.


SHORT = "CREATE TEMPORARY TABLE IF NOT EXISTS short (name varchar(3), indexed text UNIQUE)"
INVALID = [
    ("SELECT $1::text", "a\0b"),
    ("SELECT $1::jsonb", '"a\\u0000b"'),
    ("SELECT $1::text", "\ud800"),
    ("SELECT $1::text[]", ["\ud800"]),
    ("SELECT $1::jsonb", '{"a":"\\ud800"}'),
    ("SELECT $1::jsonb", '{"a":NaN}'),
    ("INSERT INTO short (name) VALUES ($1)", "long"),
    ("INSERT INTO short (indexed) VALUES ($1)", "".join(map(str, range(9_000)))),
    ("SELECT $1::real", 1e300),
    ("SELECT $1::bigint", 2**63),
    ("SELECT $1::int", 2**31),
    ("SELECT $1::int * 2", 2**30),
    ("SELECT $1::timestamptz", datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=14)))),
]


@pytest.mark.parametrize(("query", "value"), INVALID)
async def test_value_that_does_not_fit_its_type_is_422_without_the_value(
    postgres: PostgresServer, query: str, value: Any
) -> None:
    async def work(transaction: Transaction) -> None:
        await transaction.execute(SHORT)
        await transaction.fetchval(query, value)

    async with serve(postgres, Route("/run", Run(work))) as (service, _):
        response = await service.client.post("/run")
        assert response.status_code == 422
        assert response.json()["detail"] == (
            "A value cannot be stored in the database: it is too large or too long, or is not valid text."
        )


async def test_transaction_goes_on_after_a_savepoint_with_an_invalid_value(postgres: PostgresServer) -> None:
    async with Database(postgres.settings()) as database, database.transaction() as transaction:
        with pytest.raises(InvalidValueError):
            async with transaction.savepoint():
                await transaction.fetchval("SELECT $1::text", "\0")
        assert await balance(transaction) == 100


async def test_value_of_a_wrong_type_is_a_mistake_of_the_service(postgres: PostgresServer) -> None:
    async with Database(postgres.settings()) as database:
        with pytest.raises(asyncpg.DataError, match="invalid input for query argument"):
            await database.fetchval("SELECT $1::int", "text")
