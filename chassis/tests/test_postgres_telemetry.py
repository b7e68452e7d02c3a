"""Queries are observed by OpenTelemetry's semantic conventions, and cheaply where no one looks."""

import asyncio

import asyncpg
import pytest
from opentelemetry import trace
from opentelemetry.instrumentation.utils import suppress_instrumentation
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanKind, StatusCode

from chassis import Route, Server
from chassis.postgres import Database, Transaction, add_database
from chassis.postgres.metrics import MAX_SUMMARIES, DatabaseMetrics, QueryKey
from chassis.postgres.query_summary import summary_of

from .support.application import make_app
from .support.postgres import PostgresServer
from .support.service import SAMPLED, UNSAMPLED, Service, connect, observed
from .test_postgres import Run, balance, pay, serve

VALUE = "1987654321"


async def work(transaction: Transaction) -> None:
    await transaction.fetchval("SELECT balance FROM accounts WHERE id = $1 AND balance <> 1987654321", 1)
    await pay(transaction, 10)


async def query_spans(service: Service, count: int) -> list[ReadableSpan]:
    spans = await service.spans(count + 1)
    return [span for span in spans if span.kind is SpanKind.CLIENT]


async def test_sampled_request_has_a_span_for_each_query(postgres: PostgresServer) -> None:
    async with serve(postgres, Route("/run", Run(work))) as (service, _):
        await service.client.post("/run", headers=SAMPLED)
        spans = await query_spans(service, 4)
        (server,) = (span for span in service.seen.spans if span.kind is SpanKind.SERVER)
    assert [span.name for span in spans] == ["BEGIN", "SELECT accounts", "UPDATE accounts", "COMMIT"]
    for span in spans:
        assert span.parent is not None
        assert span.context is not None
        assert server.context is not None
        assert (span.parent.span_id, span.context.trace_id) == (server.context.span_id, server.context.trace_id)
        assert span.status.status_code is StatusCode.UNSET
    assert dict(spans[1].attributes or {}) == {
        "db.system.name": "postgresql",
        "db.namespace": "postgres",
        "db.query.summary": "SELECT accounts",
        "server.address": "127.0.0.1",
        "server.port": postgres.port,
    }


async def test_unsampled_request_has_no_span(postgres: PostgresServer) -> None:
    async with serve(postgres, Route("/run", Run(work))) as (service, _):
        await service.client.post("/run", headers=UNSAMPLED)
        assert await service.sample("db_client_operation_duration_seconds_count") == 4
        assert service.seen.spans == []


async def test_query_outside_of_a_trace_begins_none(postgres: PostgresServer) -> None:
    with observed() as seen:
        async with Database(postgres.settings(), telemetry=seen.telemetry) as database:
            await balance(database)
        assert seen.spans == []


async def test_query_inside_of_the_owner_s_span_is_its_child(postgres: PostgresServer) -> None:
    async def nested(transaction: Transaction) -> None:
        with trace.get_tracer("test").start_as_current_span("report"):
            await balance(transaction)

    async with serve(postgres, Route("/run", Run(nested))) as (service, _):
        await service.client.post("/run", headers=SAMPLED)
        spans = await query_spans(service, 3)
        begin = next(span for span in spans if span.name == "BEGIN")
        commit = next(span for span in spans if span.name == "COMMIT")
    assert begin.parent is not None
    assert commit.parent is not None
    assert begin.parent.span_id != commit.parent.span_id


async def test_suppressed_instrumentation_makes_no_span(postgres: PostgresServer) -> None:
    async def quiet(transaction: Transaction) -> None:
        with suppress_instrumentation():
            await balance(transaction)

    async with serve(postgres, Route("/run", Run(quiet))) as (service, _):
        await service.client.post("/run", headers=SAMPLED)
        assert [span.name for span in await query_spans(service, 1)] == ["COMMIT"]


async def test_failed_query_has_its_code_and_no_values(postgres: PostgresServer) -> None:
    async def fail(transaction: Transaction) -> None:
        try:
            await transaction.execute("INSERT INTO accounts VALUES ($1, $2)", 1, int(VALUE))
        except asyncpg.UniqueViolationError:
            raise ValueError from None

    async with serve(postgres, Route("/run", Run(fail))) as (service, _):
        await service.client.post("/run", headers=SAMPLED)
        failed = (await query_spans(service, 2))[-1]
        labels = {"db_query_summary": "INSERT accounts", "db_response_status_code": "23505", "error_type": "23505"}
        assert await service.sample("db_client_operation_duration_seconds_count", **labels) == 1
    assert failed.status.status_code is StatusCode.ERROR
    attributes = dict(failed.attributes or {})
    assert attributes["error.type"] == attributes["db.response.status_code"] == "23505"
    assert list(failed.events) == []
    assert VALUE not in failed.to_json()


async def test_slow_query_is_logged_with_the_trace_id_and_no_values(postgres: PostgresServer) -> None:
    async def slow(transaction: Transaction) -> None:
        await transaction.execute("SELECT pg_sleep(0.1), 1987654321 FROM accounts WHERE id = $1", 1)
        await balance(transaction)

    async with serve(postgres, Route("/run", Run(slow)), slow_query_seconds=0.08) as (service, _):
        await service.client.post("/run", headers=SAMPLED)
        (line,) = service.seen.events("slow query")
        (access,) = await service.access_lines()
    assert line["trace_id"] == access["trace_id"]
    assert line["query_summary"] == "SELECT accounts"
    assert 0.08 <= line["seconds"] < 1
    assert VALUE not in str(line)


async def test_pool_is_in_the_metrics(postgres: PostgresServer) -> None:
    async with serve(postgres, pool_min=3, pool_max=7) as (service, database), database.connection():
        name = {"db_client_connection_pool_name": "database"}
        count = "db_client_connection_count"
        assert await service.sample(count, db_client_connection_state="used", **name) == 1
        assert await service.sample(count, db_client_connection_state="idle", **name) == 2
        assert await service.sample("db_client_connection_max", **name) == 7
        assert await service.sample("db_client_connection_pending_requests", **name) == 0
        assert await service.sample("db_client_connection_timeouts_total", **name) == 0


async def test_two_databases_share_the_metrics(postgres: PostgresServer) -> None:
    async with serve(postgres) as (service, _):
        replica = Database(postgres.settings(pool_max=3), name="replica", telemetry=service.app.telemetry)
        async with replica:
            await balance(replica)
            assert await service.sample("db_client_connection_max") == 13
            assert await service.sample("db_client_operation_duration_seconds_count") == 1


def test_number_of_series_is_bounded() -> None:
    metrics = DatabaseMetrics()
    for number in range(MAX_SUMMARIES + 50):
        metrics.observe(QueryKey("db", f"SELECT t{number}", "", ""), 0.1, None)
    durations = next(iter(metrics.collect()))
    assert len({sample.labels["db_query_summary"] for sample in durations.samples}) == MAX_SUMMARIES + 1


async def test_readiness_check_has_its_own_timeout(postgres: PostgresServer) -> None:
    async with serve(postgres, check_seconds=0.1) as (service, _):
        assert (await service.client.get("/readyz")).json()["checks"]["database"]["status"] == "pass"
        with postgres.paused():
            loop = asyncio.get_running_loop()
            began = loop.time()
            response = await service.client.get("/readyz")
            assert loop.time() - began < 0.5
        assert response.json()["checks"]["database"]["status"] == "timeout"
        async with asyncio.timeout(5.0):
            while (await service.client.get("/readyz")).status_code != 200:
                await asyncio.sleep(0.01)


async def test_optional_database_leaves_the_service_ready(postgres: PostgresServer) -> None:
    with observed() as seen:
        app = make_app(seen.telemetry)
        add_database(app, postgres.settings(check_seconds=0.1), required=False)
        async with Server(app) as server, connect(server.port) as client:
            with postgres.paused():
                assert (await client.get("/readyz")).status_code == 200


@pytest.mark.parametrize(
    ("query", "summary"),
    [
        ("SELECT * FROM orders WHERE id = $1", "SELECT orders"),
        ("select 1", "SELECT"),
        ('SELECT * FROM "Orders" o JOIN shop.customers c ON c.id = o.customer', 'SELECT "Orders" shop.customers'),
        ("INSERT INTO orders (id) VALUES ($1) ON CONFLICT (id) DO UPDATE SET n = 1", "INSERT orders"),
        ("INSERT INTO archive SELECT * FROM orders", "INSERT archive SELECT orders"),
        ("UPDATE ONLY orders SET name = 'FROM secret'", "UPDATE orders"),
        ("DELETE FROM orders USING customers", "DELETE orders customers"),
        ("SELECT * FROM orders FOR UPDATE SKIP LOCKED", "SELECT orders"),
        ("SELECT * FROM orders FOR NO KEY UPDATE", "SELECT orders"),
        ("WITH new AS (INSERT INTO orders VALUES (1) RETURNING id) SELECT id FROM new", "INSERT orders SELECT new"),
        ("SELECT * FROM (SELECT 1 FROM inside) x", "SELECT SELECT inside"),
        ("SELECT count(*) FROM orders WHERE a IS DISTINCT FROM b", "SELECT orders"),
        ("-- from a comment\nSELECT /* FROM x */ 1 FROM orders", "SELECT orders"),
        ("SELECT $$ FROM body $$ FROM orders", "SELECT orders"),
        ("SELECT 'it''s FROM x' FROM orders", "SELECT orders"),
        (r"SELECT * FROM t WHERE path = 'C:\' AND name = 'x FROM secret'", "SELECT t"),
        ("BEGIN ISOLATION LEVEL SERIALIZABLE; SET LOCAL statement_timeout = 10", "BEGIN"),
        ("SAVEPOINT s1", "SAVEPOINT"),
        ("CREATE TABLE IF NOT EXISTS orders (id int)", "CREATE orders"),
        ("MERGE INTO orders USING changes ON true WHEN MATCHED THEN UPDATE SET a = 1", "MERGE orders changes"),
        ("", "UNKNOWN"),
        ("12 §", "UNKNOWN"),
    ],
)
def test_summary_has_operations_and_tables_and_no_values(query: str, summary: str) -> None:
    assert summary_of(query) == summary


def test_summary_of_a_long_query_is_short() -> None:
    query = " JOIN ".join(["SELECT 1 FROM t", *(f"table_{number} USING (id)" for number in range(1000))])
    assert len(summary_of(query)) <= 255
