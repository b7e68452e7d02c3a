"""Idempotency keys in a real PostgreSQL, for both kinds of database: a response and its work are committed together."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any, ClassVar

import asyncpg
import pytest
from pydantic import BaseModel
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.responses import Response

from chassis import App, Handler, IdempotencyStore, Route, Server, idempotent, repeatable
from chassis import sqlalchemy as with_sqlalchemy
from chassis.api.idempotency_store import IdempotentRequest, KeyInUseError, KeyReusedError, StoredResponse
from chassis.postgres import (
    ConflictError,
    Database,
    PostgresIdempotencyStore,
    Queries,
    Transaction,
    add_database,
    idempotency,
)
from chassis.postgres.idempotency import TABLE

from .support.accounts import pay_from
from .support.application import make_app
from .support.postgres import PostgresServer
from .support.service import Service, connect, observed, until
from .test_postgres import balance, pay

KEY = {"idempotency-key": "a"}
RESPONSE = StoredResponse(201, ((b"content-type", b"text/plain"), (b"x-name", b"caf\xe9")), b"\x00\xff")


class Amount(BaseModel):
    """An amount to pay."""

    amount: int = 10


class Payments(Handler):
    """Pays once for each key. `before_end` is called after the payment."""

    calls: int = 0

    async def before_end(self) -> None:
        """For a test."""


class InTransaction(Payments):
    @idempotent(lock_seconds=0.4)
    @repeatable
    async def post(self, body: Amount, transaction: Transaction) -> int:
        self.calls += 1
        await pay(transaction, body.amount)
        await self.before_end()
        return self.calls


class WithQueries(Payments):
    @idempotent(lock_seconds=0.4)
    @repeatable
    async def post(self, body: Amount, queries: Queries) -> int:
        self.calls += 1
        await pay(queries, body.amount)
        await self.before_end()
        return self.calls


class InSession(Payments):
    @idempotent(lock_seconds=0.4)
    @repeatable
    async def post(self, body: Amount, session: AsyncSession) -> int:
        self.calls += 1
        await pay_from(session, body.amount)
        await self.before_end()
        return self.calls


KINDS = [
    pytest.param(add_database, InTransaction, id="asyncpg"),
    pytest.param(add_database, WithQueries, id="asyncpg-queries"),
    pytest.param(with_sqlalchemy.add_database, InSession, id="sqlalchemy"),
    pytest.param(with_sqlalchemy.add_database, WithQueries, id="sqlalchemy-queries"),
]
kinds = pytest.mark.parametrize(("add", "handler"), KINDS)


@pytest.fixture(autouse=True)
async def _table(postgres: PostgresServer) -> None:
    connection = await asyncpg.connect(postgres.url)
    await connection.execute("DROP TABLE IF EXISTS idempotency_keys;" + TABLE)
    await connection.close()


@asynccontextmanager
async def serve(
    postgres: PostgresServer, add: Callable[..., Any], *handlers: Handler, **given: Any
) -> AsyncIterator[list[Service]]:
    """One service for each handler, with the same database."""
    async with AsyncExitStack() as stack:
        services = []
        for handler in handlers:
            seen = stack.enter_context(observed())
            app: App = make_app(seen.telemetry, Route("/pay", handler), deadline_seconds=5.0)
            database = add(app, postgres.settings(**given))
            app.provide(IdempotencyStore, PostgresIdempotencyStore(database))
            server = await stack.enter_async_context(Server(app))
            client = await stack.enter_async_context(connect(server.port))
            services.append(Service(app, server, client, seen))
        yield services


async def paid(postgres: PostgresServer) -> int:
    return 100 - int(await postgres.run("SELECT balance FROM accounts WHERE id = 1"))


@kinds
async def test_response_is_replayed_by_another_process(
    postgres: PostgresServer, add: Callable[..., Any], handler: type[Payments]
) -> None:
    async with serve(postgres, add, handler(), handler()) as (first, second):
        for service, replayed in ((first, None), (second, "true"), (first, "true")):
            response = await service.client.post("/pay", json={}, headers=KEY)
            assert (response.status_code, response.json()) == (200, 1)
            assert response.headers.get("idempotency-replayed") == replayed
        assert (await second.client.post("/pay", json={"amount": 11}, headers=KEY)).status_code == 422
        assert await paid(postgres) == 10
        assert await postgres.run("SELECT body FROM idempotency_keys") == b"1"


@kinds
async def test_request_with_a_key_in_use_is_rejected(
    postgres: PostgresServer, add: Callable[..., Any], handler: type[Payments]
) -> None:
    begun, goes_on = asyncio.Event(), asyncio.Event()

    class Slow(handler):  # type: ignore[valid-type,misc]
        async def before_end(self) -> None:
            begun.set()
            await goes_on.wait()

    async with serve(postgres, add, Slow(), handler()) as (first, second):
        request = asyncio.create_task(first.client.post("/pay", json={}, headers=KEY))
        await begun.wait()
        assert (await second.client.post("/pay", json={}, headers=KEY)).status_code == 409
        goes_on.set()
        assert (await request).status_code == 200
        assert (await second.client.post("/pay", json={}, headers=KEY)).status_code == 200
        assert await paid(postgres) == 10


@kinds
async def test_attempt_that_took_longer_than_its_lock_is_rolled_back(
    postgres: PostgresServer, add: Callable[..., Any], handler: type[Payments]
) -> None:
    begun, goes_on = asyncio.Event(), asyncio.Event()

    class Late(handler):  # type: ignore[valid-type,misc]
        async def before_end(self) -> None:
            begun.set()
            await goes_on.wait()

    async with serve(postgres, add, Late()) as (service,):
        request = asyncio.create_task(service.client.post("/pay", json={}, headers=KEY))
        await begun.wait()
        await postgres.run("UPDATE idempotency_keys SET expires_at = now()")
        key, fingerprint = (await postgres.run("SELECT key || ' ' || fingerprint FROM idempotency_keys")).split()
        async with Database(postgres.settings()) as database:
            other = PostgresIdempotencyStore(database)
            assert await other.begin(IdempotentRequest(key, fingerprint, "other"), 60.0) is None
        goes_on.set()
        assert (await request).status_code == 409
        assert await paid(postgres) == 0
        assert await postgres.run("SELECT attempt FROM idempotency_keys") == "other"


@kinds
async def test_nothing_is_stored_if_the_commit_fails(
    postgres: PostgresServer, add: Callable[..., Any], handler: type[Payments]
) -> None:
    await postgres.run("UPDATE accounts SET balance = 90 WHERE id = 2")
    await postgres.run("ALTER TABLE accounts ADD UNIQUE (balance) DEFERRABLE INITIALLY DEFERRED")
    async with serve(postgres, add, handler()) as (service,):
        assert (await service.client.post("/pay", json={}, headers=KEY)).status_code == 500
        assert await postgres.run("SELECT count(*) FROM idempotency_keys") == 0
        await postgres.run("UPDATE accounts SET balance = 80 WHERE id = 2")
        assert (await service.client.post("/pay", json={}, headers=KEY)).json() == 2
        assert await paid(postgres) == 10


@kinds
async def test_each_attempt_of_a_repeated_request_stores_its_response(
    postgres: PostgresServer, add: Callable[..., Any], handler: type[Payments]
) -> None:
    class Conflicting(handler):  # type: ignore[valid-type,misc]
        async def before_end(self) -> None:
            if self.calls == 1:
                raise ConflictError("with another one")

    async with serve(postgres, add, Conflicting()) as (service,):
        responses = [await service.client.post("/pay", json={}, headers=KEY) for _ in range(2)]
        assert [response.json() for response in responses] == [2, 2]
        assert await paid(postgres) == 10


@pytest.mark.parametrize("add", [add_database, with_sqlalchemy.add_database], ids=["asyncpg", "sqlalchemy"])
async def test_method_without_a_transaction_stores_its_response_at_the_end(
    postgres: PostgresServer, add: Callable[..., Any]
) -> None:
    class Plain(Handler):
        calls: ClassVar[list[int]] = []

        @idempotent
        async def post(self) -> Response:
            self.calls.append(1)
            return Response(RESPONSE.body, 201, {"x-name": "café"}, "application/octet-stream")

    async with serve(postgres, add, Plain()) as (service,):
        responses = [await service.client.post("/pay", headers=KEY) for _ in range(2)]
        for response in responses:
            assert (response.status_code, response.content) == (201, RESPONSE.body)
            assert response.headers["x-name"] == "café"
        assert responses[1].headers["idempotency-replayed"] == "true"
    assert Plain.calls == [1]


# The store itself.


def request_of(attempt: str, key: str = "key", fingerprint: str = "same") -> IdempotentRequest:
    return IdempotentRequest(key, fingerprint, attempt)


async def test_one_of_many_attempts_begins(postgres: PostgresServer) -> None:
    async with Database(postgres.settings()) as database:
        store = PostgresIdempotencyStore(database)
        attempts = [store.begin(request_of(str(number)), 60.0) for number in range(20)]
        results = await asyncio.gather(*attempts, return_exceptions=True)
        assert [result for result in results if result is not None and not isinstance(result, KeyInUseError)] == []
        assert results.count(None) == 1


async def test_response_in_a_transaction_is_not_replayed_before_the_commit(postgres: PostgresServer) -> None:
    async with Database(postgres.settings()) as database:
        store = PostgresIdempotencyStore(database)
        await store.begin(request_of("first"), 60.0)
        async with database.transaction() as transaction:
            await store.record(request_of("first"), RESPONSE, 60.0, {Transaction: transaction})
            second = asyncio.create_task(store.begin(request_of("second"), 60.0))
            await asyncio.sleep(0.05)
            assert not second.done()
        assert await second == RESPONSE
        # The commit has succeeded, and its response did not arrive.
        await store.abandon(request_of("first"))
        assert await store.begin(request_of("third"), 60.0) == RESPONSE
        with pytest.raises(KeyReusedError):
            await store.begin(request_of("fourth", fingerprint="other"), 60.0)


async def test_transaction_of_another_database_does_not_store_the_response(postgres: PostgresServer) -> None:
    async with Database(postgres.settings()) as database, Database(postgres.settings()) as other:
        store = PostgresIdempotencyStore(database)
        await store.begin(request_of("first"), 60.0)
        async with other.transaction() as transaction:
            await store.record(request_of("first"), RESPONSE, 60.0, {Transaction: transaction})
        assert await balance(other) == 100
        with pytest.raises(KeyInUseError):
            await store.begin(request_of("second"), 60.0)
        await store.complete(request_of("first"), RESPONSE, 60.0)
        assert await store.begin(request_of("second"), 60.0) == RESPONSE


async def test_key_is_free_after_its_time_and_after_a_release(postgres: PostgresServer) -> None:
    async with Database(postgres.settings()) as database:
        store = PostgresIdempotencyStore(database)
        assert await store.begin(request_of("first"), 0.0) is None
        assert await store.begin(request_of("second"), 60.0) is None
        await store.complete(request_of("first"), RESPONSE, 60.0)  # too late
        await store.abandon(request_of("first"))
        with pytest.raises(KeyInUseError):
            await store.begin(request_of("third"), 60.0)
        await store.abandon(request_of("second"))
        assert await store.begin(request_of("third"), 60.0) is None
        await store.complete(request_of("third"), RESPONSE, 0.0)
        assert await store.begin(request_of("fourth"), 60.0) is None


async def test_expired_rows_are_removed_in_small_batches(
    postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chassis.postgres.idempotency.CLEAN_SECONDS", 0.0)
    monkeypatch.setattr("chassis.postgres.idempotency.CLEAN_ROWS", 2)
    await postgres.run(
        "INSERT INTO idempotency_keys SELECT n, '', '', now() - interval '1 second' FROM generate_series(1, 7) n"
    )
    async with Database(postgres.settings()) as database:
        stores = [PostgresIdempotencyStore(database) for _ in range(3)]
        for number, store in enumerate(stores):
            await store.begin(request_of("first", key=f"key {number}"), 60.0)
        await until(lambda: all(store._cleaning is None for store in stores))
        assert await postgres.run("SELECT count(*) FROM idempotency_keys") == 3


async def test_missing_table_is_logged_by_the_clean_up_and_raised_by_a_request(
    postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chassis.postgres.idempotency.CLEAN_SECONDS", 0.0)
    await postgres.run("DROP TABLE idempotency_keys")
    with observed() as seen:
        async with Database(postgres.settings()) as database:
            store = PostgresIdempotencyStore(database)
            with pytest.raises(asyncpg.UndefinedTableError):
                await store.begin(request_of("first"), 60.0)
            await until(lambda: store._cleaning is None)
        (line,) = seen.events("expired idempotency keys not removed")
        assert "idempotency_keys" in line["reason"]


async def test_lock_is_renewed_while_its_process_lives_and_expires_after_its_death(
    postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(idempotency, "LEASE_SECONDS", 0.4)
    monkeypatch.setattr(idempotency, "RENEW_SECONDS", 0.1)
    async with Database(postgres.settings()) as database, Database(postgres.settings()) as other_database:
        store, other = PostgresIdempotencyStore(database), PostgresIdempotencyStore(other_database)
        assert await store.begin(IdempotentRequest("key", "fingerprint", "first"), 300.0) is None
        await asyncio.sleep(0.8)
        with pytest.raises(KeyInUseError):
            await other.begin(IdempotentRequest("key", "fingerprint", "second"), 300.0)
        await database.__aexit__(None, None, None)  # nobody renews the lock, as after SIGKILL

        async with asyncio.timeout(5):
            while True:
                with suppress(KeyInUseError):
                    assert await other.begin(IdempotentRequest("key", "fingerprint", "third"), 300.0) is None
                    break
                await asyncio.sleep(0.05)
        await other.abandon(IdempotentRequest("key", "fingerprint", "third"))
        store._let_go(IdempotentRequest("key", "fingerprint", "first"))
