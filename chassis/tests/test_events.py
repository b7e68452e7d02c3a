"""Server-sent events: their lines, and how a stream of them begins, waits and ends."""

import asyncio
import re
from collections.abc import AsyncIterable, AsyncIterator, Callable
from typing import Annotated, Any

import pytest
import uvicorn
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from opentelemetry import trace
from pydantic import BaseModel, Field

from chassis import Event, EventStream, Handler, Header, Problem, Route

from .support.application import make_app
from .support.service import SAMPLED, TRACE_ID, exchange, observed, serve, until

GET = b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"


class Order(BaseModel):
    number: int = Field(serialization_alias="orderNumber")


def of(events: Callable[[], AsyncIterable[Any]], **options: Any) -> Route:
    """A route whose handler responds with these events."""

    class Events(Handler):
        async def get(self) -> EventStream:
            return EventStream(events(), **options)

    return Route("/", Events())


def parsed(stream: bytes) -> tuple[list[dict[str, str]], int | None]:
    """The events that a client dispatches, and the time after which it connects again (section 9.2.6)."""
    events, retry, last_id = [], None, ""
    data, kind = list[str](), ""
    lines = re.split("\r\n|\r|\n", stream.decode())
    assert lines.pop() == ""
    for line in lines:
        if not line:
            if data:
                events.append({"data": "\n".join(data), "event": kind or "message", "id": last_id})
            data, kind = [], ""
            continue
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "data":
            data.append(value)
        elif field == "event":
            kind = value
        elif field == "id" and "\0" not in value:
            last_id = value
        elif field == "retry" and re.fullmatch("[0-9]+", value):
            retry = int(value)
    return events, retry


# The lines of an event.


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # on a busy machine
@given(
    data=st.text(st.characters(exclude_categories=["Cs"])),
    name=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\n"), min_size=1),
    number=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\n\0")),
    retry=st.integers(min_value=0),
    comment=st.text(st.characters(exclude_categories=["Cs"])),
)
def test_client_gets_the_events_that_were_sent(data: str, name: str, number: str, retry: int, comment: str) -> None:
    events, time = parsed(Event(data, id=number, event=name, retry=retry, comment=comment).encode())
    lines = re.sub("\r\n|\r", "\n", data)  # the only line break that a client knows
    assert events == [{"data": lines, "event": name, "id": number}]
    assert time == retry


@pytest.mark.parametrize(
    ("value", "data"),
    [
        ("tea", b"data: tea\n\n"),
        ("one\ntwo\r\nthree\rfour", b"data: one\ndata: two\ndata: three\ndata: four\n\n"),
        ("", b"data: \n\n"),
        (Order(number=7), b'data: {"orderNumber":7}\n\n'),
        ([Order(number=7)], b'data: [{"orderNumber":7}]\n\n'),
        ({"price": float("nan")}, b'data: {"price":null}\n\n'),
        (None, b"data: null\n\n"),
        (Event(Order(number=7), id="7"), b'id: 7\ndata: {"orderNumber":7}\n\n'),
        (Event(comment="one\ntwo"), b": one\n: two\n\n"),
        (Event(id=""), b"id: \n\n"),
    ],
)
async def test_value_becomes_data(value: object, data: bytes) -> None:
    async def events() -> AsyncIterator[object]:
        yield value

    async with serve(of(events)) as service:
        assert (await service.client.get("/")).content == data


@pytest.mark.parametrize(
    "wrong",
    [{"id": "a\nb"}, {"id": "a\rb"}, {"id": "a\0b"}, {"event": "a\nb"}, {"retry": -1}, {"data": None}],
)
def test_event_that_clients_would_misread_is_an_error(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="event"):
        Event(**{"data": "x", **wrong})


def test_events_are_an_async_iterable() -> None:
    with pytest.raises(TypeError, match="async generator"):
        EventStream(["one"])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="heartbeat_seconds is 0"):
        EventStream(never(), heartbeat_seconds=0)


# The response.


async def never() -> AsyncIterator[str]:
    """Events that do not come."""
    await asyncio.Event().wait()
    yield "never"


async def test_headers_are_those_of_a_stream() -> None:
    async def events() -> AsyncIterator[str]:
        yield "one"

    async with serve(of(events, retry=1500, headers={"Cache-Control": "no-cache"})) as service:
        response = await service.client.get("/")
        assert response.content == b"retry: 1500\n\ndata: one\n\n"
        assert response.headers["content-type"] == "text/event-stream"
        assert response.headers.get_list("cache-control") == ["no-cache"]
        assert response.headers["x-accel-buffering"] == "no"
        document = service.app.openapi["paths"]["/"]["get"]["responses"]["200"]
        assert list(document["content"]) == ["text/event-stream"]
    async with serve(of(events)) as service:
        assert (await service.client.get("/")).headers["cache-control"] == "no-store"


async def test_client_that_connects_again_sends_its_last_id() -> None:
    class Counted(Handler):
        async def get(self, last_event_id: Annotated[int, Header()] = 0) -> EventStream:
            return EventStream(self._after(last_event_id))

        async def _after(self, last: int) -> AsyncIterator[Event]:
            for number in range(last + 1, last + 3):
                yield Event(number, id=str(number))

    async with serve(Route("/", Counted())) as service:
        first, _ = parsed((await service.client.get("/")).content)
        then, _ = parsed((await service.client.get("/", headers={"last-event-id": first[-1]["id"]})).content)
        assert [event["data"] for event in first + then] == ["1", "2", "3", "4"]


async def test_head_request_begins_no_stream() -> None:
    begun = []

    async def events() -> AsyncIterator[str]:
        begun.append(1)
        yield "one"

    async with serve(of(events)) as service:
        response = await service.client.head("/")
        assert (response.status_code, response.headers["content-type"]) == (200, "text/event-stream")
        assert begun == []


async def test_silence_is_filled_with_comments() -> None:
    released = asyncio.Event()

    async def events() -> AsyncIterator[str]:
        yield "one"
        await released.wait()
        yield "two"

    async with serve(of(events, heartbeat_seconds=0.01)) as service, service.client.stream("GET", "/") as stream:
        received = b""
        async for part in stream.aiter_bytes():
            received += part
            if received.count(b":\n\n") == 3:
                released.set()
        assert received.startswith(b"data: one\n\n:\n\n")
        assert received.endswith(b":\n\ndata: two\n\n")
        assert [event["data"] for event in parsed(received)[0]] == ["one", "two"]


async def test_time_limit_of_a_generator_is_not_a_heartbeat() -> None:
    async def events() -> AsyncIterator[str]:
        async with asyncio.timeout(0.01):
            yield "one"
            await asyncio.Event().wait()

    async with serve(of(events, heartbeat_seconds=5)) as service:
        assert not (await exchange(service.server.port, GET)).endswith(b"0\r\n\r\n")
        assert (await service.access_line())["error"] == "TimeoutError"


async def test_generator_that_never_waits_does_not_block_the_event_loop() -> None:
    async def events() -> AsyncIterator[int]:
        number = 0
        while True:
            number += 1
            yield number

    async with serve(of(events)) as service, service.client.stream("GET", "/") as stream:
        parts = stream.aiter_bytes()
        await anext(parts)
        for _ in range(20):
            assert (await service.client.get("/healthz")).status_code == 200


# The end.


class Followed:
    """Events that record whether they have been closed."""

    def __init__(self, *first: object) -> None:
        self._first = first
        self.left = asyncio.Event()

    async def __call__(self) -> AsyncIterator[object]:
        try:
            for event in self._first:
                yield event
            await asyncio.Event().wait()
        finally:
            self.left.set()


async def test_stream_ends_complete_when_the_shutdown_begins() -> None:
    followed = Followed("one")
    async with serve(of(followed, retry_when_draining=250), drain_seconds=2.0) as service:
        asked = asyncio.create_task(exchange(service.server.port, GET))
        await service.under_way(1)
        service.server.stop()
        response = await asked
        assert not service.seen.events("stopped")
        assert response.endswith(b"retry: 250\n\n\r\n0\r\n\r\n")
        line = await service.access_line()
        assert (line["status"], line["level"], line.get("shutdown")) == (200, "info", None)
        assert followed.left.is_set()
        assert [line for line in service.seen.lines if line["level"] != "info"] == []


async def test_stream_that_begins_while_the_service_drains_ends_at_once() -> None:
    async with serve(of(never)) as service:
        service.app.draining.set()
        assert (await service.client.get("/")).content == b""


async def test_end_of_a_stream_does_not_wait_for_its_cleanup() -> None:
    released = asyncio.Event()

    async def events() -> AsyncIterator[str]:
        try:
            yield "one"
            await asyncio.Event().wait()
        finally:
            await released.wait()

    async with serve(of(events)) as service, service.client.stream("GET", "/") as stream:
        parts = stream.aiter_bytes()
        assert await anext(parts) == b"data: one\n\n"
        service.app.draining.set()
        assert [part async for part in parts] == []
        released.set()


async def test_generator_is_closed_when_the_client_disconnects() -> None:
    followed = Followed("one")
    async with serve(of(followed)) as service:
        reader, writer = await asyncio.open_connection("127.0.0.1", service.server.port)
        writer.write(GET)
        await reader.readuntil(b"data: one")
        writer.close()
        await asyncio.wait_for(followed.left.wait(), 5)
        line = await service.access_line()
        assert (line["status"], line["level"], "error" in line) == (200, "info", False)
        assert [line for line in service.seen.lines if line["level"] != "info"] == []


async def test_generator_waits_for_a_slow_client() -> None:
    made = 0
    tasks = set()

    async def events() -> AsyncIterator[str]:
        nonlocal made
        try:
            while True:
                made += 1
                tasks.add(asyncio.current_task())
                yield "x" * 1000
        finally:  # in its own task, and not when the garbage is collected
            tasks.add(asyncio.current_task())
            tasks.add(None)

    async with serve(of(events)) as service:
        _, writer = await asyncio.open_connection("127.0.0.1", service.server.port, limit=1000)
        writer.write(GET)

        async def rests() -> bool:
            before = made
            await asyncio.sleep(0.1)
            return made == before > 0

        async with asyncio.timeout(10):
            while not await rests():
                pass
        assert made < 20_000  # what the kernel's buffers take, and not what there is time for
        assert (await service.client.get("/healthz")).status_code == 200
        writer.close()
        await service.under_way(0)
        assert len(tasks - {None}) == 1
        assert None in tasks


async def test_failure_is_logged_once_with_the_ids_and_cuts_the_stream() -> None:
    async def events() -> AsyncIterator[str]:
        yield "one"
        await asyncio.sleep(0.01)
        raise RuntimeError("internal detail")

    async with serve(of(events)) as service:
        with pytest.raises(Exception, match=r"incomplete|closed connection"):
            await service.client.get("/", headers={**SAMPLED, "x-request-id": "mine"})
        line = await service.access_line()
        assert (line["status"], line["level"], line["error"]) == (200, "error", "RuntimeError")
        (logged,) = [line for line in service.seen.lines if "exception" in line]
        assert (logged["request_id"], logged["trace_id"]) == ("mine", TRACE_ID)


async def test_oserror_of_a_generator_is_its_failure_and_not_the_clients_end() -> None:
    async def events() -> AsyncIterator[str]:
        yield "one"
        raise ConnectionRefusedError("the database is down")

    async with serve(of(events)) as service:
        response = await exchange(service.server.port, GET)
        assert b"data: one" in response
        assert not response.endswith(b"0\r\n\r\n")
        assert (await service.access_line())["error"] == "ConnectionRefusedError"


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt, asyncio.CancelledError])
async def test_exception_that_would_end_the_process_ends_the_stream(error: type[BaseException]) -> None:
    async def events() -> AsyncIterator[str]:
        yield "one"
        await asyncio.sleep(0)
        raise error

    async with serve(of(events)) as service:
        assert not (await exchange(service.server.port, GET)).endswith(b"0\r\n\r\n")
        assert (await service.access_line())["level"] == "error"
        assert (await service.client.get("/healthz")).status_code == 200


async def test_problem_before_the_first_event_is_the_response() -> None:
    async def events() -> AsyncIterator[str]:
        raise Problem(410, "These events are over.")
        yield "never"

    async with serve(of(events)) as service:
        response = await service.client.get("/")
        assert (response.status_code, response.json()["detail"]) == (410, "These events are over.")


async def test_failing_cleanup_is_logged() -> None:
    async def events() -> AsyncIterator[str]:
        try:
            yield "one"
            await asyncio.Event().wait()
        finally:
            raise RuntimeError("internal detail")

    async with serve(of(events)) as service:
        reader, writer = await asyncio.open_connection("127.0.0.1", service.server.port)
        writer.write(GET)
        await reader.readuntil(b"data: one")
        writer.close()
        await until(lambda: [line for line in service.seen.lines if "exception" in line])


async def test_generator_runs_in_one_task_with_the_context_of_the_request() -> None:
    tasks = set()
    traces = []

    async def events() -> AsyncIterator[str]:
        async with asyncio.TaskGroup():
            for name in ("one", "two"):
                tasks.add(asyncio.current_task())
                traces.append(f"{trace.get_current_span().get_span_context().trace_id:032x}")
                yield name
                await asyncio.sleep(0.01)
            tasks.add(asyncio.current_task())

    async with serve(of(events)) as service:
        assert (await service.client.get("/", headers=SAMPLED)).content == b"data: one\n\ndata: two\n\n"
    assert len(tasks) == 1
    assert traces == [TRACE_ID, TRACE_ID]


async def test_another_server_ends_the_stream_as_well() -> None:
    followed = Followed("one")
    with observed() as seen:
        app = make_app(seen.telemetry, of(followed))
        config = uvicorn.Config(app, port=0, log_config=None, lifespan="on", access_log=False)
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server.serve())
        await until(lambda: server.started)
        port = server.servers[0].sockets[0].getsockname()[1]
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(GET)
        await reader.readuntil(b"data: one")
        writer.close()
        await asyncio.wait_for(followed.left.wait(), 5)
        followed.left.clear()
        await until(lambda: not app.telemetry.observer.active)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(GET)
        await reader.readuntil(b"data: one")
        app.begin_draining()
        assert (await reader.read()).endswith(b"0\r\n\r\n")
        writer.close()
        assert followed.left.is_set()
        server.should_exit = True
        await serving
        assert [line["status"] for line in seen.events("request")] == [200, 200]
