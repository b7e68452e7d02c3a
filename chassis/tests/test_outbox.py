"""The outbox with a real PostgreSQL: which messages are delivered, when, how often, and in which order."""

import asyncio
import random
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from typing import Any

import asyncpg
import httpx
import orjson
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from pydantic import BaseModel
from sqlalchemy import Connection, MetaData
from sqlalchemy.ext.asyncio import create_async_engine
from starlette.requests import Request

import chassis.sqlalchemy
from chassis import App, Handler, Problem, Route, Server
from chassis.client import http_client
from chassis.delivery import Deliver, HttpDestination, OutboundMessage, RejectedError
from chassis.migrations import NAMING_CONVENTION, inbox_table, outbox_table
from chassis.nats import Consumer, Message, Publisher, add_events
from chassis.postgres import Database, Outbox, OutboxRelay, Queries, add_database, add_inbox, add_outbox
from chassis.postgres.inbox import TABLE as INBOX_TABLE
from chassis.postgres.outbox import TABLE as OUTBOX_TABLE
from chassis.testing import connect as connect_app

from .support.application import make_app
from .support.forked import ForkedProcess, start_forked
from .support.nats import NatsServer
from .support.outbox_program import TABLES, make
from .support.postgres import PostgresServer
from .support.process import PATIENCE_SECONDS, inherited_environment
from .support.service import PARENT_ID, SAMPLED, TRACE_ID, Observed, Service, connect, observed, until

CREATED = "orders.created"


@pytest.fixture
async def tables(postgres: PostgresServer) -> PostgresServer:
    """The server, with an empty outbox and an empty inbox."""
    connection = await asyncpg.connect(postgres.url)
    try:
        await connection.execute(
            f"DROP TABLE IF EXISTS outbox, processed_messages; {OUTBOX_TABLE}{INBOX_TABLE}{TABLES}"
        )
    finally:
        await connection.close()
    return postgres


class Destination:
    """Keeps what is delivered, after calling a function that may raise."""

    def __init__(self, work: Callable[[OutboundMessage], Awaitable[object]] | None = None) -> None:
        self.messages: list[OutboundMessage] = []
        self.attempts: list[str] = []
        self._work = work

    async def __call__(self, message: OutboundMessage) -> None:
        self.attempts.append(message.payload.decode())
        if self._work is not None:
            await self._work(message)
        self.messages.append(message)

    @property
    def payloads(self) -> list[str]:
        return [message.payload.decode() for message in self.messages]


class OrderCreated(BaseModel):
    """An event."""

    order_id: int


class Orders(Handler):
    """Stores a message for each order, and fails for order 0."""

    async def post(self, body: OrderCreated, outbox: Outbox) -> str:
        message_id = await outbox.add(CREATED, body, key=str(body.order_id), headers={"tenant": "blue"})
        if not body.order_id:
            raise Problem(409)
        return message_id


@asynccontextmanager
async def serve(
    postgres: PostgresServer,
    deliver: Deliver,
    *,
    add: Callable[..., Any] = add_database,
    prepare: Callable[[App], object] | None = None,
    settings: dict[str, Any] | None = None,
    **options: Any,
) -> AsyncIterator[tuple[Service, Any]]:
    """A service with an outbox; `options` are those of `add_outbox`."""
    with observed() as seen:
        app = make_app(seen.telemetry, Route("/orders", Orders()))
        if prepare is not None:
            prepare(app)
        database = add(app, postgres.settings(**(settings or {})))
        add_outbox(app, database, deliver, poll_seconds=0.05, **options)
        async with Server(app) as server, connect(server.port) as client:
            yield Service(app, server, client, seen), database


async def add_all(database: Any, *messages: tuple[str | None, str]) -> None:
    """Add messages, pairs of key and payload, in one transaction."""
    async with database.transaction() as queries:
        outbox = Outbox(queries)
        for key, payload in messages:
            await outbox.add(CREATED, payload.encode(), key=key)


async def empty(postgres: PostgresServer) -> None:
    """Wait until the outbox is empty."""
    async with asyncio.timeout(5):
        while await postgres.run("SELECT count(*) FROM outbox"):
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("name", ["outbox", "processed_messages"])
async def test_table_of_the_migrations_is_the_one_in_the_text(tables: PostgresServer, name: str) -> None:
    metadata = MetaData(naming_convention=NAMING_CONVENTION)
    (outbox_table if name == "outbox" else inbox_table)(metadata)

    def differences(connection: Connection) -> list[Any]:
        options = {
            "compare_server_default": True,
            "include_name": lambda found, kind, _: kind != "table" or found == name,
        }
        return list(compare_metadata(MigrationContext.configure(connection, opts=options), metadata))

    engine = create_async_engine(tables.url.replace("postgresql:", "postgresql+asyncpg:"))
    async with engine.connect() as connection:
        assert await connection.run_sync(differences) == []
    await engine.dispose()


# Delivery.


@pytest.mark.parametrize("add", [add_database, chassis.sqlalchemy.add_database], ids=["postgres", "sqlalchemy"])
async def test_message_is_delivered_after_the_commit(tables: PostgresServer, add: Callable[..., Any]) -> None:
    destination = Destination()
    async with serve(tables, destination, add=add) as (service, _):
        message_id = (await service.client.post("/orders", json={"order_id": 1})).json()
        await until(lambda: destination.messages)
        await empty(tables)
    (message,) = destination.messages
    assert (message.id, message.subject, message.key) == (message_id, CREATED, "1")
    assert message.payload == b'{"order_id":1}'
    assert (message.headers["tenant"], message.headers["content-type"]) == ("blue", "application/json")


async def test_message_of_a_transaction_that_is_rolled_back_is_not_delivered(tables: PostgresServer) -> None:
    destination = Destination()
    async with serve(tables, destination) as (service, _):
        assert (await service.client.post("/orders", json={"order_id": 0})).status_code == 409
        await service.client.post("/orders", json={"order_id": 1})
        await until(lambda: destination.messages)
    assert destination.payloads == ['{"order_id":1}']


async def test_message_waits_for_another_transaction_with_its_key(tables: PostgresServer) -> None:
    destination = Destination()
    async with serve(tables, destination) as (_, database):
        first = database.transaction()
        async with first as queries:
            await Outbox(queries).add(CREATED, b"first", key="a")
            second = asyncio.create_task(add_all(database, ("a", "second")))
            await add_all(database, ("b", "other"))
            await until(lambda: destination.messages)
            assert not second.done()
        await second
        await until(lambda: len(destination.messages) == 3)
    assert destination.payloads == ["other", "first", "second"]


async def test_failed_message_holds_up_its_key_and_no_other(tables: PostgresServer) -> None:
    async def fail_twice(message: OutboundMessage) -> None:
        if message.payload == b"a1" and destination.attempts.count("a1") < 3:
            raise ConnectionError("no")

    destination = Destination(fail_twice)
    async with serve(tables, destination) as (service, database):
        await add_all(database, ("a", "a1"), ("a", "a2"), ("b", "b1"), ("b", "b2"), (None, "c"))
        await until(lambda: len(destination.messages) == 5)
        warnings = service.seen.events("outbox message not delivered")
        failures = await service.sample("outbox_delivery_failures_total")
        delivered = await service.sample("outbox_delivered_total")
    assert destination.payloads[-2:] == ["a1", "a2"]
    assert destination.payloads.index("b1") < destination.payloads.index("b2")
    assert [line["reason"] for line in warnings] == ["ConnectionError: no", "ConnectionError: no"]
    assert 0.5 <= warnings[1]["seconds"] <= 1.0
    assert (failures, delivered) == (2, 5)


async def test_message_that_is_rejected_again_and_again_is_set_aside(tables: PostgresServer) -> None:
    async def reject(message: OutboundMessage) -> None:
        if message.payload == b"bad":
            raise RejectedError("not a valid order")

    destination = Destination(reject)
    async with serve(tables, destination, max_rejections=2) as (service, database):
        await add_all(database, ("a", "bad"), ("a", "good"))
        await until(lambda: destination.messages)
        rejected = await service.sample("outbox_rejected_total")
    assert destination.attempts == ["bad", "bad", "good"]
    assert rejected == 1
    assert (
        await tables.run("SELECT error FROM outbox WHERE rejected_at IS NOT NULL") == "RejectedError: not a valid order"
    )
    # An operator delivers it again.
    destination = Destination()
    await tables.run("UPDATE outbox SET rejected_at = NULL, due_at = now()")
    async with serve(tables, destination):
        await until(lambda: destination.messages)
    assert destination.payloads == ["bad"]


async def test_destination_that_is_down_is_left_alone(tables: PostgresServer) -> None:
    is_down = True

    async def fail(_: OutboundMessage) -> None:
        if is_down:
            raise ConnectionError("down")

    destination = Destination(fail)
    async with serve(tables, destination, max_concurrent=2) as (service, database):
        await add_all(database, *((f"key-{number}", str(number)) for number in range(20)))
        await until(lambda: destination.attempts)
        await asyncio.sleep(0.2)
        attempts = len(destination.attempts)
        is_down = False
        await until(lambda: len(destination.messages) == 20)
        aside = service.seen.events("outbox message is set aside")
    assert attempts <= 4
    assert aside == []


async def test_slow_destination_does_not_end_the_transaction_of_the_relay(
    tables: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chassis.postgres.connector.IDLE_IN_TRANSACTION_SECONDS", 0.1)

    async def take_time(_: OutboundMessage) -> None:
        await asyncio.sleep(0.4)

    destination = Destination(take_time)
    async with serve(tables, destination, settings={"statement_seconds": 0.2}) as (_, database):
        await add_all(database, ("a", "first"))
        await empty(tables)
    assert destination.attempts == ["first"]


async def test_relays_share_messages_and_keep_the_order_of_keys(tables: PostgresServer) -> None:
    async def work(_: OutboundMessage) -> None:
        await asyncio.sleep(0.001)

    destination = Destination(work)
    async with (
        serve(tables, destination, batch_size=7) as (one, database),
        serve(tables, destination, batch_size=7) as (other, _),
    ):
        for number in range(10):
            await add_all(database, *((f"key-{key}", f"{key}:{number}") for key in range(12)))
        await until(lambda: len(destination.messages) >= 120)
        counts = [await service.sample("outbox_delivered_total") for service in (one, other)]
    by_key = defaultdict[str, list[int]](list)
    for payload in destination.payloads:
        key, text = payload.split(":")
        by_key[key].append(int(text))
    assert all(numbers == list(range(10)) for numbers in by_key.values())
    assert len(by_key) == 12
    assert min(counts) > 0


async def test_batch_in_hand_is_finished_when_the_service_stops(tables: PostgresServer) -> None:
    may_end = asyncio.Event()

    async def wait(_: OutboundMessage) -> None:
        await may_end.wait()

    destination = Destination(wait)
    async with serve(tables, destination) as (service, database):
        await add_all(database, ("a", "a1"))
        await until(lambda: destination.attempts)
        service.server.stop()
        await asyncio.sleep(0.05)
        may_end.set()
    assert destination.payloads == ["a1"]
    assert await tables.run("SELECT count(*) FROM outbox") == 0


async def test_relay_goes_on_after_a_restart_of_the_database(tables: PostgresServer) -> None:
    destination = Destination()
    async with serve(tables, destination) as (service, database):
        tables.stop()
        await until(lambda: service.seen.events("outbox not relayed"))
        tables.start()
        async with asyncio.timeout(10):
            while True:
                try:
                    await add_all(database, ("a", "a1"))
                    break
                except Exception:  # noqa: BLE001 - until the pool has noticed
                    await asyncio.sleep(0.05)
        await until(lambda: destination.messages)
        failures = service.seen.events("background task failed")
    assert [line["exception"][-500:] for line in failures] == []


# Telemetry.


async def test_delivery_belongs_to_the_trace_of_the_request(tables: PostgresServer, nats: NatsServer) -> None:
    with observed() as seen:
        app = make_app(seen.telemetry, Route("/orders", Orders()))
        database = add_database(app, tables.settings())
        events = add_events(app, nats.settings())
        events.ensure_stream("orders", ["orders.>"])
        add_outbox(app, database, events.publisher.deliver)
        async with Server(app) as server, connect(server.port) as client:
            await client.post("/orders", json={"order_id": 1}, headers=SAMPLED | {"x-request-id": "r-1"})
            await empty(tables)
        (request,) = [span for span in seen.spans if span.name == "POST /orders"]
        (publish,) = [span for span in seen.spans if span.name == f"publish {CREATED}"]
    assert f"{publish.context.trace_id:032x}" == TRACE_ID
    assert publish.parent is not None
    assert publish.parent.span_id == request.context.span_id
    (stored,) = await nats.stored(CREATED)
    assert stored.headers["traceparent"] == f"00-{TRACE_ID}-{publish.context.span_id:016x}-01"
    assert stored.headers["x-request-id"] == "r-1"
    assert stored.headers["tenant"] == "blue"


async def test_metrics_have_the_size_and_the_age_of_the_outbox(tables: PostgresServer) -> None:
    await tables.run(
        "INSERT INTO outbox (message_id, subject, payload, headers, created_at, due_at, rejected_at) VALUES "
        "(gen_random_uuid(), 's', '', '{}', now() - interval '1 hour', now() + interval '1 hour', NULL), "
        "(gen_random_uuid(), 's', '', '{}', now() - interval '2 hours', now(), now())"
    )
    async with serve(tables, Destination()) as (service, _):
        async with asyncio.timeout(5):
            while not await service.sample("outbox_oldest_message_age_seconds"):
                await asyncio.sleep(0.01)
        assert await service.sample("outbox_messages", state="pending") == 1
        assert await service.sample("outbox_messages", state="rejected") == 1
        assert 3600 <= await service.sample("outbox_oldest_message_age_seconds") < 3660


# Destinations.


class Endpoint(Handler):
    """Takes messages, and responds with a status."""

    def __init__(self, status: int = 200) -> None:
        self.status = status
        self.requests: list[dict[str, Any]] = []

    async def post(self, request: Request, body: bytes) -> None:
        self.requests.append({**request.headers, "body": body})
        if self.status != 200:
            raise Problem(self.status)


@asynccontextmanager
async def endpoint(status: int = 200) -> AsyncIterator[tuple[Endpoint, str, Observed]]:
    handler = Endpoint(status)
    with observed() as seen:
        async with Server(make_app(seen.telemetry, Route("/messages", handler))) as server:
            yield handler, f"http://127.0.0.1:{server.port}/messages", seen


async def test_http_destination_gets_the_message_with_its_envelope(tables: PostgresServer) -> None:
    async with endpoint() as (received, url, _):
        client = http_client()
        async with serve(tables, HttpDestination(client, url, source="orders")) as (service, _), client:
            message_id = (await service.client.post("/orders", json={"order_id": 1}, headers=SAMPLED)).json()
            await empty(tables)
    (request,) = received.requests
    assert request["body"] == b'{"order_id":1}'
    assert request["idempotency-key"] == request["ce-id"] == message_id
    assert (request["ce-type"], request["ce-source"], request["ce-partitionkey"]) == (CREATED, "orders", "1")
    assert (request["content-type"], request["tenant"]) == ("application/json", "blue")
    assert request["traceparent"].startswith(f"00-{TRACE_ID}-")
    assert PARENT_ID not in request["traceparent"]


@pytest.mark.parametrize(("status", "error"), [(422, RejectedError), (503, httpx.HTTPStatusError)])
async def test_http_destination_distinguishes_rejections(status: int, error: type[Exception]) -> None:
    message = OutboundMessage("id", CREATED, None, b"{}", {}, datetime.now(UTC))
    async with endpoint(status) as (_, url, _), http_client() as client:
        secret = url.replace("http://", "http://user:geheim@") + "?key=geheim"
        with pytest.raises(error) as raised:
            await HttpDestination(client, secret, source="orders")(message)
    assert str(raised.value) == f"{url} responds with {status}"


async def test_http_destination_encodes_the_envelope() -> None:
    message = OutboundMessage("id", CREATED, "Zoë 1%", b"{}", {}, datetime.now(UTC))
    async with endpoint() as (received, url, _), http_client() as client:
        await HttpDestination(client, url, source="orders")(message)
    assert received.requests[0]["ce-partitionkey"] == "Zo%C3%AB%201%25"


async def test_http_destination_rejects_a_header_that_is_not_ascii() -> None:
    message = OutboundMessage("id", CREATED, None, b"{}", {"tenant": "Zoë"}, datetime.now(UTC))
    async with http_client() as client:
        with pytest.raises(RejectedError, match="is not ASCII: 'Zoë'"):
            await HttpDestination(client, "http://127.0.0.1:1", source="orders")(message)


# The inbox.


class Payments(Consumer):
    """Takes money from an account for each event."""

    def __init__(self) -> None:
        self.calls = 0

    async def handle(self, event: OrderCreated, queries: Queries, message: Message) -> None:
        self.calls += 1
        await queries.execute("UPDATE accounts SET balance = balance - 10 WHERE id = 1")
        if message.headers.get("fails") and message.deliveries == 1:
            raise ValueError("after the update")


@pytest.mark.parametrize("add", [add_database, chassis.sqlalchemy.add_database], ids=["postgres", "sqlalchemy"])
async def test_event_that_comes_twice_is_processed_once(
    tables: PostgresServer, nats: NatsServer, add: Callable[..., Any]
) -> None:
    payments = Payments()
    with observed() as seen:
        app = make_app(seen.telemetry)
        inbox = add_inbox(app, add(app, tables.settings()))
        events = add_events(app, nats.settings())
        events.ensure_stream("orders", ["orders.>"], duplicate_window=0.1)
        events.add_consumer(
            CREATED, payments, stream="orders", durable="payments", inbox=inbox, backoff_seconds=(0.01,)
        )
        async with Server(app):
            publisher: Publisher = events.publisher
            await publisher.publish(CREATED, OrderCreated(order_id=1), message_id="a", headers={"fails": "yes"})
            await until(lambda: len(seen.events("message")) == 2)
            await asyncio.sleep(0.15)
            assert not (await publisher.publish(CREATED, OrderCreated(order_id=1), message_id="a")).is_duplicate
            lines = await until(lambda: lines if len(lines := seen.events("message")) == 3 else [])
    assert [line["outcome"] for line in lines] == ["retried", "acknowledged", "duplicate"]
    assert payments.calls == 2
    assert await tables.run("SELECT balance FROM accounts WHERE id = 1") == 90


async def test_old_entries_of_the_inbox_are_deleted(tables: PostgresServer) -> None:
    with observed() as seen:
        app = make_app(seen.telemetry)
        database = add_database(app, tables.settings())
        inbox = add_inbox(app, database, keep_seconds=60)
        async with connect_app(app):
            await tables.run(
                "INSERT INTO processed_messages VALUES ('c', 'old', now() - interval '2 minutes'), ('c', 'new', now())"
            )
            await inbox.clean()
    assert await tables.run("SELECT string_agg(message_id, ',') FROM processed_messages") == "new"


# Processes that die.


@contextmanager
def killing(processes: list[ForkedProcess]) -> Iterator[None]:
    try:
        yield
    finally:
        for process in processes:
            if process.returncode is None:
                process.kill()


@pytest.mark.parametrize("destination", ["http", "nats"])
async def test_no_message_is_lost_or_invented_when_processes_are_killed(
    tables: PostgresServer, nats: NatsServer, destination: str
) -> None:
    async with endpoint() as (received, url, _):
        target = url if destination == "http" else nats.url
        processes: list[ForkedProcess] = []
        with killing(processes):
            processes += await asyncio.gather(*(start(tables.url, target) for _ in range(2)))
            for count in (20, 40, 60):
                await rows_written(tables, count)
                await asyncio.sleep(random.uniform(0.05, 0.3))  # noqa: S311 - no secret
                processes[0].kill()
                await processes.pop(0).communicate()
                processes.append(await start(tables.url, target))
        for process in processes:
            await process.communicate()
        app, _ = make(tables.url, target)
        async with connect_app(app):
            await empty(tables)
        if destination == "http":
            messages = [(request["ce-id"], request["body"]) for request in received.requests]
        else:
            messages = [(message.id, message.data) for message in await nats.stored(CREATED)]
    written = await tables.run("SELECT coalesce(json_agg(id ORDER BY id), '[]')::text FROM written")
    delivered = [orjson.loads(body) for body in first_of_each(messages).values()]
    assert len(delivered) > 50
    assert sorted(order["id"] for order in delivered) == orjson.loads(written)
    numbers = defaultdict[str, list[int]](list)
    for order in delivered:
        numbers[order["key"]].append(order["number"])
    assert all(found == list(range(1, len(found) + 1)) for found in numbers.values())


async def rows_written(tables: PostgresServer, count: int) -> None:
    """Wait until the processes have written so many orders."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while await tables.run("SELECT count(*) FROM written") < count:
            await asyncio.sleep(0.05)


def first_of_each(messages: list[tuple[str, bytes]]) -> dict[str, bytes]:
    """The messages in the order of their first deliveries."""
    first: dict[str, bytes] = {}
    for message_id, body in messages:
        first.setdefault(message_id, body)
    return first


async def start(database_url: str, destination_url: str) -> ForkedProcess:
    """A process that writes and relays, as soon as it is ready."""
    program = "tests.support.outbox_program"
    process = await start_forked(program, database_url, destination_url, environment=inherited_environment())
    assert process.stdout is not None
    async with asyncio.timeout(PATIENCE_SECONDS):
        while await process.stdout.readline() != b"ready\n":
            assert process.returncode is None
    return process


async def test_options_of_the_relay_are_checked(tables: PostgresServer) -> None:
    with observed() as seen, pytest.raises(ValueError, match="must be 1 or more"):
        OutboxRelay(Database(tables.settings()), Destination(), telemetry=seen.telemetry, batch_size=0)
