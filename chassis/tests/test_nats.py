"""Publishing and consuming with a real NATS server: what is stored, delivered, and acknowledged."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from pydantic import BaseModel, SecretStr
from starlette.requests import Request

from chassis import Handler, RepeatableError, Route, Server, repeatable
from chassis.app import App
from chassis.delivery import UnavailableError
from chassis.nats import (
    Consumer,
    ConsumerError,
    DeadLetterError,
    EventRejectedError,
    Events,
    EventsUnavailableError,
    Message,
    NatsSettings,
    Published,
    Publisher,
    add_events,
)
from chassis.postgres import StatementTimeoutError

from .support.application import make_app
from .support.nats import NatsServer
from .support.service import Service, connect, observed, until

CREATED = "orders.created"


class OrderCreated(BaseModel):
    """An event."""

    order_id: int


class Collector(Consumer):
    """Keeps the events that it gets, after calling a function."""

    def __init__(self, work: Callable[[OrderCreated, Message], Awaitable[object]] | None = None) -> None:
        self.ids: list[int] = []
        self.messages: list[Message] = []
        self._work = work

    async def handle(self, event: OrderCreated, message: Message) -> None:
        self.messages.append(message)
        if self._work is not None:
            await self._work(event, message)
        self.ids.append(event.order_id)


@asynccontextmanager
async def serve(
    nats: NatsServer,
    *consumers: Consumer,
    routes: Sequence[Route] = (),
    prepare: Callable[[App, Events], object] | None = None,
    settings: dict[str, Any] | None = None,
    app: dict[str, Any] | None = None,
    required: bool = True,
    subject: str = CREATED,
    **options: Any,
) -> AsyncIterator[tuple[Service, Events]]:
    """A service with a stream `orders`, and consumers of one subject; `options` are those of `add_consumer`."""
    with observed() as seen:
        made = make_app(seen.telemetry, *routes, **(app or {}))
        events = add_events(made, nats.settings(**(settings or {})), required=required)
        events.ensure_stream("orders", ["orders.>"])
        if prepare is not None:
            prepare(made, events)
        for number, consumer in enumerate(consumers):
            events.add_consumer(subject, consumer, stream="orders", durable=f"consumer-{number}", **options)
        async with Server(made) as server, connect(server.port) as client:
            yield Service(made, server, client, seen), events


async def lines_of(service: Service, count: int = 1) -> list[dict[str, Any]]:
    return await until(lambda: lines if len(lines := service.seen.events("message")) >= count else [])


# Publishing.


class Publish(Handler):
    """Publishes an event."""

    async def post(self, body: OrderCreated, publisher: Publisher) -> int:
        return (await publisher.publish(CREATED, body)).sequence


async def test_handler_publishes_an_event_that_is_stored(nats: NatsServer) -> None:
    async with serve(nats, routes=[Route("/orders", Publish())]) as (service, _):
        response = await service.client.post("/orders", json={"order_id": 7})
    assert response.json() == 1
    (stored,) = await nats.stored(CREATED)
    assert stored.data == b'{"order_id":7}'
    assert stored.headers["Content-Type"] == "application/json"
    assert len(stored.id) == 32


async def test_event_with_the_same_message_id_is_stored_once(nats: NatsServer) -> None:
    async with serve(nats) as (_, events):
        first = await events.publisher.publish(CREATED, b"{}", message_id="a")
        second = await events.publisher.publish(CREATED, b"{}", message_id="a")
    assert first == Published("orders", 1, is_duplicate=False)
    assert second == Published("orders", 1, is_duplicate=True)


async def test_event_without_a_stream_is_not_published(nats: NatsServer) -> None:
    async with serve(nats) as (_, events):
        with pytest.raises(EventsUnavailableError, match=r"no stream takes payments\.made; add the subject"):
            await events.publisher.publish("payments.made", b"{}")


async def test_event_that_is_too_large_is_rejected(nats: NatsServer) -> None:
    async with serve(nats) as (_, events):
        with pytest.raises(
            EventRejectedError, match=r"has 2000\d{3} bytes with its headers, more than the 1048576 bytes"
        ):
            await events.publisher.publish(CREATED, b"x" * 2_000_000)


async def test_headers_count_as_part_of_a_large_event(nats: NatsServer) -> None:
    async with serve(nats) as (service, events):
        with pytest.raises(EventRejectedError, match="with its headers"):
            await events.publisher.publish(CREATED, b"x" * 1_048_500)
        largest = await events.publisher.publish(CREATED, b"x" * (1_048_576 - 98), message_id="a")
        with pytest.raises(EventRejectedError, match="has 1048577 bytes with its headers"):
            await events.publisher.publish(CREATED, b"x" * (1_048_576 - 97), message_id="b")
        assert not service.seen.events("connection to NATS lost")
    assert largest.sequence == 1


async def test_subject_with_a_space_is_rejected(nats: NatsServer) -> None:
    async with serve(nats) as (_, events):
        with pytest.raises(EventRejectedError, match="'orders created' is not a subject"):
            await events.publisher.publish("orders created", b"{}")


async def test_event_with_an_invalid_header_is_rejected(nats: NatsServer) -> None:
    async with serve(nats) as (_, events):
        with pytest.raises(EventRejectedError, match="has a header whose name is not valid"):
            await events.publisher.publish(CREATED, b"{}", headers={"not valid": "1"})


async def test_request_gets_503_when_the_server_does_not_respond(nats: NatsServer) -> None:
    async with serve(nats, routes=[Route("/orders", Publish())], settings={"publish_seconds": 0.2}) as (service, _):
        with nats.paused():
            response = await service.client.post("/orders", json={"order_id": 7})
    assert response.status_code == 503
    assert response.json()["detail"] == "The event could not be published; retry later."


# Consuming.


async def test_consumer_gets_each_event_once(nats: NatsServer) -> None:
    collector = Collector()
    async with serve(nats, collector) as (service, events):
        for number in range(50):
            await events.publisher.publish(CREATED, OrderCreated(order_id=number))
        await lines_of(service, 50)
    assert sorted(collector.ids) == list(range(50))
    assert await nats.unfinished("orders", "consumer-0") == 0


async def test_consumer_gets_the_envelope(nats: NatsServer) -> None:
    collector = Collector()
    async with serve(nats, collector) as (service, events):
        await events.publisher.publish(
            CREATED, OrderCreated(order_id=1), message_id="order-1", headers={"tenant": "blue"}
        )
        await lines_of(service)
    (message,) = collector.messages
    assert (message.id, message.stream, message.sequence, message.deliveries) == ("order-1", "orders", 1, 1)
    assert message.headers["tenant"] == "blue"


async def test_consumers_with_two_durable_names_both_get_an_event(nats: NatsServer) -> None:
    first, second = Collector(), Collector()
    async with serve(nats, first, second) as (service, events):
        await events.publisher.publish(CREATED, OrderCreated(order_id=1))
        await lines_of(service, 2)
    assert first.ids == second.ids == [1]


async def test_instances_share_the_events(nats: NatsServer) -> None:
    first, second = Collector(), Collector()
    async with serve(nats, first, max_in_flight=1) as (one, events), serve(nats, second, max_in_flight=1):
        for number in range(20):
            await events.publisher.publish(CREATED, OrderCreated(order_id=number))
        await until(lambda: len(first.ids) + len(second.ids) == 20)
    assert one.app is not None
    assert sorted(first.ids + second.ids) == list(range(20))


async def test_failure_is_delivered_again_after_a_growing_delay(nats: NatsServer) -> None:
    times: list[float] = []

    async def fail_twice(_: OrderCreated, message: Message) -> None:
        times.append(asyncio.get_running_loop().time())
        if message.deliveries < 3:
            raise ValueError("not yet")

    collector = Collector(fail_twice)
    async with serve(nats, collector, backoff_seconds=(0.1, 0.4)) as (service, events):
        await events.publisher.publish(CREATED, OrderCreated(order_id=1))
        lines = await lines_of(service, 3)
        failures = service.seen.events("message failed")
    assert collector.ids == [1]
    assert 0.05 <= times[1] - times[0] < 0.2
    assert times[2] - times[1] >= 0.2
    assert [line["outcome"] for line in lines] == ["retried", "retried", "acknowledged"]
    assert [line["deliveries"] for line in lines] == [1, 2, 3]
    assert "not yet" in failures[0]["exception"]


async def test_last_failure_goes_to_the_dead_letters(nats: NatsServer) -> None:
    async def fail(_: OrderCreated, message: Message) -> None:
        raise ValueError("never")

    async with serve(nats, Collector(fail), max_deliveries=2, backoff_seconds=(0.01,)) as (service, events):
        await events.publisher.publish(
            CREATED, OrderCreated(order_id=1), message_id="order-1", headers={"tenant": "blue"}
        )
        lines = await lines_of(service, 2)
        dead = await service.sample("messaging_dead_letters_total", messaging_consumer_group_name="consumer-0")
    (letter,) = await nats.stored(f"{CREATED}.dead")
    assert letter.data == b'{"order_id":1}'
    assert letter.headers["Dead-Letter-Reason"] == "failed 2 times, with ValueError: never"
    assert letter.headers["Dead-Letter-Message-Id"] == "order-1"
    assert letter.headers["tenant"] == "blue"
    assert [line["outcome"] for line in lines] == ["retried", "dead"]
    assert dead == 1
    assert await nats.unfinished("orders", "consumer-0") == 0


async def test_invalid_payload_goes_to_the_dead_letters_at_once(nats: NatsServer) -> None:
    collector = Collector()
    async with serve(nats, collector) as (service, events):
        await events.publisher.publish(CREATED, b'{"order_id": "secret"}')
        await lines_of(service)
        await events.publisher.publish(CREATED, b"not JSON")
        await lines_of(service, 2)
    letters = await nats.stored(f"{CREATED}.dead")
    reasons = [letter.headers["Dead-Letter-Reason"] for letter in letters]
    assert reasons[0].startswith("invalid payload: order_id: Input should be a valid integer")
    assert "secret" not in reasons[0]
    assert reasons[1].startswith("invalid payload: event: Invalid JSON")
    assert collector.messages == []


async def test_consumer_can_send_an_event_to_the_dead_letters(nats: NatsServer) -> None:
    async def reject(_: OrderCreated, message: Message) -> None:
        raise DeadLetterError("the order\nis too old")

    async with serve(nats, Collector(reject)) as (service, events):
        await events.publisher.publish(CREATED, OrderCreated(order_id=1))
        await lines_of(service)
    (letter,) = await nats.stored(f"{CREATED}.dead")
    assert letter.headers["Dead-Letter-Reason"] == "the order is too old"


async def test_dead_letter_that_would_be_too_large_has_no_payload(nats: NatsServer) -> None:
    async with serve(nats, Collector()) as (service, events):
        await events.publisher.publish(CREATED, b"x" * 1_048_450, message_id="l")
        (line,) = await lines_of(service)
    (letter,) = await nats.stored(f"{CREATED}.dead")
    assert line["outcome"] == "dead"
    assert letter.data == b""
    assert letter.headers["Dead-Letter-Message-Id"] == "l"
    assert (letter.headers["Dead-Letter-Stream"], letter.headers["Dead-Letter-Sequence"]) == ("orders", "1")


async def test_event_of_a_stream_that_was_created_again_has_another_id(nats: NatsServer) -> None:
    collector = Collector()
    async with serve(nats, collector) as (service, _), nats.client() as client:
        await client.jetstream().publish(CREATED, b'{"order_id": 1}')
        await lines_of(service)
        await client.jsm().delete_stream("orders")
        await until(lambda: len(service.seen.events("consumer created")) == 2)
        await client.jetstream().publish(CREATED, b'{"order_id": 2}')
        await lines_of(service, 2)
    first, second = collector.messages
    assert first.sequence == second.sequence
    assert first.id != second.id


async def test_event_that_was_delivered_too_often_is_not_handled_again(nats: NatsServer) -> None:
    collector = Collector()
    async with nats.client() as client:
        await client.jsm().add_stream(name="orders", subjects=["orders.>"])
        await client.jetstream().publish(CREATED, b'{"order_id": 1}')
        subscription = await client.jetstream().pull_subscribe(CREATED, durable="consumer-0", stream="orders")
        for _ in range(2):  # as if the process had died each time
            await (await subscription.fetch(1))[0].nak()
    async with serve(nats, collector, max_deliveries=2) as (service, _):
        (line,) = await lines_of(service)
    (letter,) = await nats.stored(f"{CREATED}.dead")
    assert letter.headers["Dead-Letter-Reason"] == "delivered 3 times without an acknowledgement"
    assert line["outcome"] == "dead"
    assert collector.messages == []


async def test_slow_consumer_is_not_delivered_the_event_again(nats: NatsServer) -> None:
    async def work_slowly(_: OrderCreated, message: Message) -> None:
        await asyncio.sleep(1.0)

    collector = Collector(work_slowly)
    async with serve(nats, collector, ack_wait_seconds=0.3) as (service, events):
        await events.publisher.publish(CREATED, OrderCreated(order_id=1))
        await lines_of(service)
    assert [message.deliveries for message in collector.messages] == [1]


async def test_event_is_delivered_again_beyond_its_deadline(nats: NatsServer) -> None:
    async def hang_once(_: OrderCreated, message: Message) -> None:
        if message.deliveries == 1:
            await asyncio.Event().wait()

    collector = Collector(hang_once)
    async with serve(nats, collector, deadline_seconds=0.1, backoff_seconds=(0.01,)) as (service, events):
        await events.publisher.publish(CREATED, OrderCreated(order_id=1))
        lines = await lines_of(service, 2)
    assert lines[0]["error"] == "TimeoutError"
    assert collector.ids == [1]


async def test_number_of_events_in_hand_is_limited(nats: NatsServer) -> None:
    running = 0
    most = 0

    async def count(_: OrderCreated, message: Message) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.02)
        running -= 1

    collector = Collector(count)
    async with serve(nats, collector, max_in_flight=3) as (service, events):
        for number in range(12):
            await events.publisher.publish(CREATED, OrderCreated(order_id=number))
        await lines_of(service, 12)
    assert most == 3


class Again(Consumer):
    """Fails with a conflict at first."""

    def __init__(self) -> None:
        self.calls = 0

    @repeatable
    async def handle(self, event: OrderCreated) -> None:
        self.calls += 1
        if self.calls < 3:
            raise RepeatableError("a conflict")


async def test_repeatable_consumer_is_called_again_after_a_conflict(nats: NatsServer) -> None:
    again = Again()
    async with serve(nats, again) as (service, events):
        await events.publisher.publish(CREATED, OrderCreated(order_id=1))
        (line,) = await lines_of(service)
    assert again.calls == 3
    assert (line["outcome"], line["deliveries"], line["attempts"]) == ("acknowledged", 1, 3)


class DownError(UnavailableError):
    """A dependency is not available."""


async def test_event_whose_query_is_too_slow_does_not_wait(nats: NatsServer) -> None:
    async def call(_: OrderCreated, message: Message) -> None:
        raise StatementTimeoutError("the statement did not end in time")

    def prepare(app: App, _: Events) -> None:
        app.add_problems({StatementTimeoutError: 503})

    async with serve(nats, Collector(call), prepare=prepare, max_deliveries=1) as (service, events):
        await events.publisher.publish(CREATED, OrderCreated(order_id=1))
        (line,) = await lines_of(service)
    assert line["outcome"] == "dead"


async def test_event_waits_while_a_dependency_is_not_available(nats: NatsServer) -> None:
    calls = 0

    async def call(_: OrderCreated, message: Message) -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise DownError("no connection")

    collector = Collector(call)
    async with serve(nats, collector) as (service, events):
        await events.publisher.publish(CREATED, OrderCreated(order_id=1))
        (line,) = await lines_of(service)
        waits = service.seen.events("message waits for a dependency")
    assert (line["outcome"], line["deliveries"]) == ("acknowledged", 1)
    assert waits[0]["reason"] == "DownError: no connection"


class Session:
    """A provided dependency that notes how it ends."""

    def __init__(self) -> None:
        self.ended: list[str] = []


class WithSession(Consumer):
    """Needs a dependency, and fails for odd numbers."""

    async def handle(self, event: OrderCreated, session: Session, request: Request) -> None:
        assert request.headers["tenant"] == "blue"
        if event.order_id % 2:
            raise DeadLetterError("odd")


async def test_dependencies_exit_after_each_event_with_its_failure(nats: NatsServer) -> None:
    session = Session()

    def provide(app: App, _: Events) -> None:
        async def sessions() -> AsyncIterator[Session]:
            try:
                yield session
            except Exception as error:
                session.ended.append(type(error).__name__)
                raise
            session.ended.append("committed")

        app.provide(Session, sessions)

    async with serve(nats, WithSession(), prepare=provide, max_in_flight=1) as (service, events):
        for number in (1, 2):
            await events.publisher.publish(CREATED, OrderCreated(order_id=number), headers={"tenant": "blue"})
        await lines_of(service, 2)
    assert session.ended == ["DeadLetterError", "committed"]


async def test_event_is_acknowledged_after_the_commit(nats: NatsServer) -> None:
    commits = 0

    def provide(app: App, _: Events) -> None:
        async def sessions() -> AsyncIterator[Session]:
            nonlocal commits
            yield Session()
            commits += 1
            if commits == 1:
                raise ValueError("the commit has failed")

        app.provide(Session, sessions)

    async with serve(nats, WithSession(), prepare=provide, backoff_seconds=(0.01,)) as (service, events):
        await events.publisher.publish(CREATED, OrderCreated(order_id=2), headers={"tenant": "blue"})
        lines = await lines_of(service, 2)
    assert [line["outcome"] for line in lines] == ["retried", "acknowledged"]


# Shutdown and failures of the server.


async def test_event_in_hand_is_finished_and_no_further_one_is_taken(nats: NatsServer) -> None:
    has_begun, may_end = asyncio.Event(), asyncio.Event()

    async def wait(_: OrderCreated, message: Message) -> None:
        has_begun.set()
        await may_end.wait()

    collector = Collector(wait)
    async with serve(nats, collector, max_in_flight=5) as (service, events):
        await events.publisher.publish(CREATED, OrderCreated(order_id=1))
        await has_begun.wait()
        service.app.begin_draining()
        await asyncio.sleep(0.05)
        await events.publisher.publish(CREATED, OrderCreated(order_id=2))
        may_end.set()
        await lines_of(service)
    assert collector.ids == [1]
    assert await nats.unfinished("orders", "consumer-0") == 1


async def test_event_that_is_not_finished_in_time_is_given_back_at_once(nats: NatsServer) -> None:
    has_begun = asyncio.Event()

    async def hang(_: OrderCreated, message: Message) -> None:
        has_begun.set()
        await asyncio.Event().wait()

    async with serve(nats, Collector(hang), app={"shutdown_seconds": 0.1}) as (service, events):
        await events.publisher.publish(CREATED, OrderCreated(order_id=1))
        await has_begun.wait()
        service.server.stop()
        (line,) = await lines_of(service)
    assert line["outcome"] == "returned"
    other = Collector()
    async with serve(nats, other) as (service, _):
        await lines_of(service)
    assert other.messages[0].deliveries == 2


async def test_consumer_goes_on_after_a_restart_of_the_server(nats: NatsServer) -> None:
    collector = Collector()
    async with serve(nats, collector) as (service, events):
        await events.publisher.publish(CREATED, OrderCreated(order_id=1))
        await lines_of(service)
        nats.kill()
        await until(lambda: service.seen.events("connection to NATS lost"))
        assert (await service.client.get("/readyz")).status_code == 503
        nats.start()
        await until(lambda: service.seen.events("reconnected to NATS"))
        await events.publisher.publish(CREATED, OrderCreated(order_id=2))
        await lines_of(service, 2)
        assert (await service.client.get("/readyz")).status_code == 200
    assert collector.ids == [1, 2]


async def test_stream_that_was_deleted_is_created_again_by_the_next_event(nats: NatsServer) -> None:
    async with serve(nats, routes=[Route("/orders", Publish())]) as (service, events):
        await nats.prepare()
        responses = await asyncio.gather(*(service.client.post("/orders", json={"order_id": 7}) for _ in range(5)))
        assert sorted(response.json() for response in responses) == [1, 2, 3, 4, 5]
        await nats.prepare()
        with pytest.raises(EventsUnavailableError, match="no stream takes"):
            await events.publisher.publish(CREATED, b"{}")  # a second time only after a while
        await asyncio.sleep(1.0)
        assert (await events.publisher.publish(CREATED, b"{}")).sequence == 1


async def test_stream_that_a_restarted_server_has_lost_is_created_again(nats: NatsServer) -> None:
    def prepare(_: App, events: Events) -> None:
        events.ensure_stream("payments", ["payments.>"], storage="memory")

    async with serve(nats, prepare=prepare) as (service, _):
        nats.kill()
        nats.start()
        await until(lambda: service.seen.events("reconnected to NATS"))
        await until(lambda: len(service.seen.events("stream created")) == 3)
        async with nats.client() as client:
            assert await client.jsm().find_stream_name_by_subject("payments.made") == "payments"


async def test_streams_that_cannot_be_created_are_logged_once_in_a_while(nats: NatsServer) -> None:
    async with serve(nats) as (service, events):
        async with nats.client() as client:
            await client.jsm().delete_stream("orders")
            await client.jsm().add_stream(name="orders", subjects=["other"])
        for _ in range(3):
            with pytest.raises(EventsUnavailableError, match="no stream takes"):
                await events.publisher.publish(CREATED, b"{}")
        (line,) = service.seen.events("streams not set up")
    assert "the stream 'orders' exists with the subjects other, without orders.>" in line["reason"]


async def test_service_that_does_not_require_nats_is_ready_while_it_is_down_and_stops_well(nats: NatsServer) -> None:
    try:
        async with serve(nats, Collector(), required=False, settings={"publish_seconds": 0.1}) as (service, events):
            await until(lambda: service.seen.events("consumer created"))
            nats.kill()
            await until(lambda: service.seen.events("connection to NATS lost"))
            with pytest.raises(EventsUnavailableError):
                await events.publisher.publish(CREATED, b"{}")
            response = await service.client.get("/readyz")
            (line,) = await until(lambda: service.seen.events("check changed"))
    finally:
        nats.start()
    assert response.status_code == 200
    check = response.json()["checks"]["events"]
    assert (check["status"], check["required"]) == ("fail", False)
    assert (line["check"], line["status"]) == ("events", "fail")
    assert line["reason"].startswith("EventsUnavailableError: NATS at 127.0.0.1")
    assert "exception" not in line


async def test_service_does_not_start_without_a_server(nats: NatsServer) -> None:
    settings = {"url": "nats://127.0.0.1:1", "connect_seconds": 0.3}
    with pytest.raises(EventsUnavailableError, match=r"NATS at 127\.0\.0\.1:1 accepted no connection in 0\.3 seconds"):
        async with serve(nats, settings=settings):
            pass


async def test_service_starts_without_a_server_that_is_not_required(nats: NatsServer) -> None:
    collector = Collector()
    nats.kill()
    try:
        async with serve(nats, collector, required=False, settings={"publish_seconds": 0.1}) as (service, events):
            assert (await service.client.get("/readyz")).status_code == 200
            with pytest.raises(EventsUnavailableError):
                await events.publisher.publish(CREATED, OrderCreated(order_id=1))
            nats.start()
            await until(lambda: service.seen.events("consumer created"))
            await events.publisher.publish(CREATED, OrderCreated(order_id=2))
            await lines_of(service)
    finally:
        nats.kill()
        nats.start()
    assert collector.ids == [2]


async def test_password_that_has_changed_is_read_again(nats: NatsServer, tmp_path: Any) -> None:
    password = tmp_path / "password"
    password.write_text("old\n")
    nats.kill()
    nats.start("--user", "orders", "--pass", "old")
    try:
        settings = {"user": "orders", "password_file": password}
        async with serve(nats, settings=settings, app={"drain_seconds": 0}) as (service, events):
            nats.kill()
            nats.start("--user", "orders", "--pass", "new")
            await until(lambda: any("uthorization" in line["reason"] for line in service.seen.events(FAILED)))
            password.write_text("new\n")
            await until(lambda: service.seen.events("reconnected to NATS"))
            await events.publisher.publish(CREATED, OrderCreated(order_id=2))
    finally:
        nats.kill()
        nats.start()


@pytest.mark.parametrize("kind", ["password", "token"])
async def test_changed_credentials_are_used_after_the_server_rejects_the_old_ones(nats: NatsServer, kind: str) -> None:
    def arguments(secret: str) -> list[str]:
        return ["--user", "orders", "--pass", secret] if kind == "password" else ["--auth", secret]

    nats.kill()
    nats.start(*arguments("old"))
    try:
        settings = {"user": "orders", "password": "old"} if kind == "password" else {"token": "old"}
        async with serve(nats, settings=settings, app={"drain_seconds": 0}) as (service, events):
            before = events._connection.settings
            events.use_changed(before, before.model_copy(update={f"nats_{kind}": SecretStr("new")}))
            await events.publisher.publish(CREATED, OrderCreated(order_id=1))  # the connection stays
            nats.kill()
            nats.start(*arguments("new"))
            await until(lambda: service.seen.events("reconnected to NATS"))
            await events.publisher.publish(CREATED, OrderCreated(order_id=2))
    finally:
        nats.kill()
        nats.start()


FAILED = "connection to NATS failed"

# Mistakes.


async def test_consumer_of_a_missing_stream_stops_the_start(nats: NatsServer) -> None:
    def add(_: App, events: Events) -> None:
        events.add_consumer("payments.made", Collector(), stream="payments", durable="accounting")

    with pytest.raises(ConsumerError, match="needs the stream 'payments', which does not exist; create it"):
        async with serve(nats, prepare=add):
            pass


async def test_stream_without_dead_letters_stops_the_start(nats: NatsServer) -> None:
    def add(_: App, events: Events) -> None:
        events.ensure_stream("payments", ["payments.made"])
        events.add_consumer("payments.made", Collector(), stream="payments", durable="accounting")

    with pytest.raises(ConsumerError, match=r"no stream takes payments\.made\.dead, the dead letters"):
        async with serve(nats, prepare=add):
            pass


async def test_stream_that_exists_is_not_changed(nats: NatsServer) -> None:
    async with nats.client() as client:
        await client.jsm().add_stream(name="orders", subjects=["orders.>"], max_msgs=5)
    async with serve(nats), nats.client() as client:
        info = await client.jsm().stream_info("orders")
    assert info.config.max_msgs == 5


async def test_stream_that_exists_with_other_subjects_stops_the_start(nats: NatsServer) -> None:
    async with nats.client() as client:
        await client.jsm().add_stream(name="orders", subjects=["orders.created"])
    with pytest.raises(ConsumerError, match=r"exists with the subjects orders\.created, without orders\.>; change it"):
        async with serve(nats):
            pass


async def test_durable_name_of_another_subject_stops_the_start(nats: NatsServer) -> None:
    async with serve(nats, Collector()):
        pass
    with pytest.raises(ConsumerError, match=r"exists for orders\.created, not for orders\.paid; pass another"):
        async with serve(nats, Collector(), subject="orders.paid"):
            pass


class Unprovided(Consumer):
    """Needs what nobody provides."""

    async def handle(self, event: OrderCreated, session: Session) -> None: ...


class Blocking(Consumer):
    """Is no coroutine."""

    def handle(self, event: OrderCreated) -> None: ...


@pytest.mark.parametrize(
    ("consumer", "message"),
    [
        (Unprovided(), r"parameter 'session' is Session, which has no provider; call app\.provide"),
        (Blocking(), r"Blocking\.handle is not an async def"),
        (Consumer(), r"Consumer\.handle is not an async def"),
    ],
)
async def test_unsupported_signature_stops_the_start(nats: NatsServer, consumer: Consumer, message: str) -> None:
    with pytest.raises(ConsumerError, match=message):
        async with serve(nats, consumer):
            pass


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"subject": "orders.>"}, "also matches its own dead letters"),
        ({"subject": "orders created"}, "is not a subject"),
        ({"durable": "a.b"}, "durable is 'a.b'; use letters"),
        ({"max_in_flight": 0}, "both must be 1 or more"),
        ({"backoff_seconds": ()}, "must be more than 0"),
    ],
)
async def test_invalid_option_of_a_consumer_is_an_error(
    nats: NatsServer, options: dict[str, Any], message: str
) -> None:
    given: dict[str, Any] = {"subject": CREATED, "consumer": Collector(), "stream": "orders", "durable": "a"} | options
    with observed() as seen:
        events = add_events(make_app(seen.telemetry), nats.settings())
        with pytest.raises(ValueError, match=message):
            events.add_consumer(**given)


async def test_two_consumers_with_one_durable_name_are_an_error(nats: NatsServer) -> None:
    with observed() as seen:
        events = add_events(make_app(seen.telemetry), nats.settings())
        events.add_consumer(CREATED, Collector(), stream="orders", durable="a")
        with pytest.raises(ValueError, match="two consumers have the durable name 'a'; change one"):
            events.add_consumer("payments.made", Collector(), stream="payments", durable="a")


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("nats://host:abc", "the port is not a number"),
        ("nats://user:p/w@host:4222", "the port is not a number"),
        ("nats://host:99999", "the port is not a number"),
        ("nats://host:0", "the port is not a number from 1 to 65535"),
        ("nats://", "has no host"),
        ("nats://p#w@host", "encode / # [?] @ in the password"),
        ("ws://host", "must begin with nats:// or tls://"),
    ],
)
def test_invalid_url_is_an_error_without_its_password(url: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        NatsSettings.model_validate({"nats_url": url})
    assert "p/w" not in str(error.value)
