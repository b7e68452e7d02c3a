"""Newline-delimited JSON: its lines, where items come from, and how a download ends."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import orjson
import pytest
from pydantic import BaseModel, Field

from chassis import Handler, JsonLines, Route

from .support.service import Service, exchange, serve, until

GET = b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"


class Order(BaseModel):
    number: int = Field(serialization_alias="orderNumber")


def of(items: Callable[[], Any], **options: Any) -> Route:
    """A route whose handler responds with these items."""

    class Items(Handler):
        async def get(self) -> JsonLines:
            return JsonLines(items(), **options)

    return Route("/", Items())


async def awaited() -> AsyncIterator[Order]:
    for number in range(3):
        await asyncio.sleep(0)
        yield Order(number=number)


async def at_once() -> AsyncIterator[Order]:
    for number in range(3):
        yield Order(number=number)


def generated() -> Iterator[Order]:
    for number in range(3):
        yield Order(number=number)


@pytest.mark.parametrize(
    "items", [awaited, at_once, generated, lambda: list(generated()), lambda: dict.fromkeys(map(str, range(3))).keys()]
)
async def test_items_are_lines(items: Callable[[], Any]) -> None:
    async with serve(of(items)) as service:
        response = await service.client.get("/")
        assert response.headers["content-type"] == "application/x-ndjson"
        assert response.text.endswith("\n")
        documents = [orjson.loads(line) for line in response.text.splitlines()]
        assert documents in ([{"orderNumber": number} for number in range(3)], ["0", "1", "2"])
        content = service.app.openapi["paths"]["/"]["get"]["responses"]["200"]["content"]
        assert list(content) == ["application/x-ndjson"]


async def test_line_breaks_and_numbers_without_a_notation_keep_the_lines_apart() -> None:
    async with serve(of(lambda: ["one\ntwo\r\u2028", float("inf"), None])) as service:
        assert (await service.client.get("/")).content == '"one\\ntwo\\r\u2028"\nnull\nnull\n'.encode()


@pytest.mark.parametrize("wrong", [Order(number=1), "text", {"a": 1}, b"bytes", 7])
def test_single_value_is_an_error(wrong: Any) -> None:
    with pytest.raises(TypeError, match="items is a single value of type"):
        JsonLines(wrong)


async def test_nothing_is_an_empty_response() -> None:
    async with serve(of(list)) as service:
        response = await service.client.get("/")
        assert (response.status_code, response.content) == (200, b"")


async def test_other_media_type_may_be_named() -> None:
    async with serve(of(list, headers={"content-type": "application/jsonl"})) as service:
        assert (await service.client.get("/")).headers.get_list("content-type") == ["application/jsonl"]


async def chunks(service: Service) -> list[bytes]:
    """The chunks of the response to a request (RFC 9112, section 7.1)."""
    content = (await exchange(service.server.port, GET)).partition(b"\r\n\r\n")[2]
    found = []
    while content:
        size, _, content = content.partition(b"\r\n")
        found.append(content[: int(size, 16)])
        content = content[int(size, 16) + 2 :]
    assert found.pop() == b""
    return found


@pytest.mark.parametrize("is_async", [False, True])
async def test_small_lines_are_sent_together(is_async: bool) -> None:
    async def of_a_generator() -> AsyncIterator[int]:
        for number in range(5000):
            yield number

    async with serve(of(of_a_generator if is_async else lambda: iter(range(5000)))) as service:
        parts = await chunks(service)
        assert b"".join(parts) == b"".join(b"%d\n" % number for number in range(5000))
        assert len(parts) < 100


async def test_line_is_sent_while_the_next_one_is_awaited() -> None:
    released = asyncio.Event()

    async def items() -> AsyncIterator[str]:
        yield "one"
        await released.wait()
        yield "two"

    async with serve(of(items)) as service, service.client.stream("GET", "/") as stream:
        parts = stream.aiter_bytes()
        assert await anext(parts) == b'"one"\n'
        released.set()
        assert [part async for part in parts] == [b'"two"\n']


async def test_plain_iterable_runs_in_a_thread_of_the_handlers() -> None:
    names = set()

    def items() -> Iterator[str]:
        try:
            names.add(threading.current_thread().name)
            yield "one"
        finally:
            names.add(threading.current_thread().name)

    async with serve(of(items)) as service:
        await service.client.get("/")
    assert names == {"handler"}


async def test_generator_in_a_thread_is_closed_when_the_client_disconnects() -> None:
    closed = threading.Event()

    def items() -> Iterator[str]:
        try:
            while True:
                yield "x" * 1000
        finally:
            closed.set()

    async with serve(of(items)) as service:
        reader, writer = await asyncio.open_connection("127.0.0.1", service.server.port)
        writer.write(GET)
        await reader.readuntil(b"xxx")
        writer.close()
        await until(closed.is_set)
        assert (await service.access_line())["status"] == 200
        await service.under_way(0)
        assert service.app.threads.in_use == 0
        assert [line for line in service.seen.lines if line["level"] != "info"] == []


async def test_shutdown_does_not_end_a_download() -> None:
    released = asyncio.Event()

    async def items() -> AsyncIterator[str]:
        yield "one"
        await released.wait()
        yield "two"

    async with serve(of(items), drain_seconds=0.0, shutdown_seconds=10.0) as service:
        asked = asyncio.create_task(exchange(service.server.port, GET))
        await service.under_way(1)
        service.server.stop()
        await service.app.draining.wait()
        released.set()
        assert (await asked).endswith(b'"two"\n\r\n0\r\n\r\n')


@pytest.mark.parametrize("is_async", [False, True])
async def test_failure_cuts_the_download(is_async: bool) -> None:
    def items() -> Iterator[object]:
        yield "one"
        yield object()

    async def async_items() -> AsyncIterator[object]:
        for item in items():
            yield item

    async with serve(of(async_items if is_async else items)) as service:
        response = await exchange(service.server.port, GET)
        assert not response.endswith(b"0\r\n\r\n")
        assert (await service.access_line())["error"] == "PydanticSerializationError"
        assert len([line for line in service.seen.lines if "exception" in line]) == 1
