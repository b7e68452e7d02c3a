"""Spans, log lines and metrics of events, and the shutdown of a process that consumes them."""

import signal
from typing import Any

import pytest
from opentelemetry.trace import SpanKind

from chassis import Route, annotate
from chassis.nats import EventsUnavailableError, Message

from .support import process
from .support.nats import NatsServer
from .support.service import SAMPLED, TRACE_ID, UNSAMPLED
from .test_nats import CREATED, Collector, OrderCreated, Publish, lines_of, serve


async def test_span_of_a_message_has_a_link_to_the_span_that_has_sent_it(nats: NatsServer) -> None:
    async with serve(nats, Collector(), routes=[Route("/orders", Publish())]) as (service, _):
        await service.client.post("/orders", json={"order_id": 1}, headers=SAMPLED)
        await lines_of(service)
        spans = {span.name: span for span in service.seen.spans}
    request, sent, processed = (spans[name] for name in ("POST /orders", f"publish {CREATED}", f"process {CREATED}"))
    assert sent.kind is SpanKind.PRODUCER
    assert sent.parent is not None
    assert sent.parent.span_id == request.context.span_id
    assert processed.kind is SpanKind.CONSUMER
    assert processed.parent is None
    assert processed.context.trace_id != sent.context.trace_id
    (link,) = processed.links
    assert (link.context.trace_id, link.context.span_id) == (int(TRACE_ID, 16), sent.context.span_id)


async def test_spans_have_the_attributes_of_the_semantic_conventions(nats: NatsServer) -> None:
    async with serve(nats, Collector(), routes=[Route("/orders", Publish())]) as (service, _):
        await service.client.post("/orders", json={"order_id": 1}, headers=SAMPLED)
        await lines_of(service)
        spans = {span.name: span for span in service.seen.spans}
    common = {
        "messaging.system": "nats",
        "messaging.destination.name": CREATED,
        "messaging.message.body.size": 14,
        "server.address": "127.0.0.1",
        "server.port": nats.port,
    }
    sent = dict(spans[f"publish {CREATED}"].attributes or {})
    message_id = sent.pop("messaging.message.id")
    assert sent == common | {"messaging.operation.name": "publish", "messaging.operation.type": "send"}
    assert spans[f"process {CREATED}"].attributes == common | {
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.template": CREATED,
        "messaging.consumer.group.name": "consumer-0",
        "messaging.message.id": message_id,
    }


async def test_failed_message_has_a_failed_span(nats: NatsServer) -> None:
    async def fail(_: OrderCreated, message: Message) -> None:
        raise ValueError("no")

    routes = [Route("/orders", Publish())]
    async with serve(nats, Collector(fail), routes=routes, max_deliveries=1) as (service, _):
        await service.client.post("/orders", json={"order_id": 1}, headers=SAMPLED)
        await lines_of(service)
        (span,) = [span for span in service.seen.spans if span.name == f"process {CREATED}"]
    assert not span.status.is_ok
    assert span.attributes is not None
    assert span.attributes["error.type"] == "ValueError"


async def test_log_line_of_a_message_has_its_facts(nats: NatsServer) -> None:
    async def note(event: OrderCreated, _: Message) -> None:
        annotate(order_id=event.order_id, password="secret")  # noqa: S106 - must not be shown

    headers = UNSAMPLED | {"x-request-id": "request-1"}
    async with serve(nats, Collector(note), routes=[Route("/orders", Publish())]) as (service, _):
        await service.client.post("/orders", json={"order_id": 7}, headers=headers)
        (line,) = await lines_of(service)
    expected: dict[str, Any] = {
        "level": "info",
        "consumer": "consumer-0",
        "subject": CREATED,
        "outcome": "acknowledged",
        "sequence": 1,
        "deliveries": 1,
        "message_bytes": 14,
        "request_id": "request-1",
        "order_id": 7,
    }
    assert expected.items() <= line.items()
    assert "secret" not in str(line)
    assert line["trace_id"] != TRACE_ID
    assert 0 < line["duration_ms"] < 5000


async def test_metrics_count_what_is_sent_and_what_is_processed(nats: NatsServer) -> None:
    async def fail(event: OrderCreated, _: Message) -> None:
        if event.order_id == 1:
            raise ValueError("no")

    async with serve(nats, Collector(fail), max_deliveries=1) as (service, events):
        for number in range(3):
            await events.publisher.publish(CREATED, OrderCreated(order_id=number))
        await lines_of(service, 3)
        sample = service.sample
        sent = {"messaging_system": "nats", "messaging_destination_name": CREATED}
        processed = sent | {"messaging_consumer_group_name": "consumer-0"}
        assert await sample("messaging_client_sent_messages_total", **sent) == 3
        assert await sample("messaging_client_operation_duration_seconds_count", **sent) == 3
        assert await sample("messaging_client_consumed_messages_total", **processed) == 3
        assert await sample("messaging_process_duration_seconds_count", **processed, error_type="ValueError") == 1
        assert await sample("messaging_consumer_active_messages", messaging_consumer_group_name="consumer-0") == 0


async def test_metrics_have_a_bounded_number_of_subjects(nats: NatsServer) -> None:
    async with serve(nats) as (service, events):
        for number in range(110):
            await events.publisher.publish(f"orders.{number}.created", b"{}")
        others = await service.sample("messaging_client_sent_messages_total", messaging_destination_name="_OTHER")
    assert others == 10


async def test_failure_to_publish_is_counted_with_its_type(nats: NatsServer) -> None:
    async with serve(nats) as (service, events):
        with pytest.raises(EventsUnavailableError):
            await events.publisher.publish("payments.made", b"{}")
        error_type = "chassis.nats.errors.EventsUnavailableError"
        assert await service.sample("messaging_client_sent_messages_total", error_type=error_type) == 1


async def test_process_finishes_events_in_hand_at_sigterm(nats: NatsServer) -> None:
    settings: dict[str, Any] = {"APP_NATS_URL": nats.url, "APP_DRAIN_SECONDS": "0", "APP_SHUTDOWN_SECONDS": "5"}
    async with process.run("-m", "tests.support.nats_program", **settings) as program, nats.client() as client:
        await program.line("ready")
        for content in (b"1", b"2", b"3"):
            await client.jetstream().publish(CREATED, content)
        await program.line("begun")
        await program.line("begun")
        program.send(signal.SIGTERM)
        status, errors = await program.end()
    outcomes = [line["outcome"] for line in program.lines if line["event"] == "message"]
    assert (status, errors) == (0, "")
    assert outcomes == ["acknowledged", "acknowledged"]
    assert await nats.unfinished("orders", "slow") == 1


async def test_process_gives_an_event_back_that_does_not_end_in_time(nats: NatsServer) -> None:
    settings: dict[str, Any] = {"APP_NATS_URL": nats.url, "APP_DRAIN_SECONDS": "0", "APP_SHUTDOWN_SECONDS": "0.2"}
    async with process.run("-m", "tests.support.nats_program", **settings) as program, nats.client() as client:
        await program.line("ready")
        await client.jetstream().publish(CREATED, b"hang")
        await program.line("begun")
        program.send(signal.SIGTERM)
        status, errors = await program.end()
        subscription = await client.jetstream().pull_subscribe(CREATED, durable="slow", stream="orders")
        (again,) = await subscription.fetch(1, timeout=2)
    assert (status, errors) == (0, "")
    assert again.metadata.num_delivered == 2
    assert "messages given back at shutdown" in program.events
