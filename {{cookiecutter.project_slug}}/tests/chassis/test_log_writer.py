"""Log lines on their way out: whole, in order, and none lost."""

import asyncio
import os
import select
import threading
import time
from collections.abc import Iterator

import orjson
import pytest
import structlog

from {{ cookiecutter.__package }}.chassis.logs import Logs

from .service import Observed, observed


@pytest.fixture
def seen() -> Iterator[Observed]:
    with observed() as seen:
        yield seen


def test_lines_of_threads_are_whole(seen: Observed) -> None:
    def work(number: int) -> None:
        for step in range(100):
            structlog.get_logger().info("step", thread=number, step=step, padding="x" * 500)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lines = seen.lines
    assert len(lines) == 800
    for number in range(8):
        assert [line["step"] for line in lines if line["thread"] == number] == list(range(100))


async def test_lines_of_the_loop_and_of_threads_keep_their_order(seen: Observed) -> None:
    log = structlog.get_logger()
    for number in range(10):
        log.info("count", number=2 * number)
        await asyncio.to_thread(log.info, "count", number=2 * number + 1)
    assert [line["number"] for line in seen.lines] == list(range(20))


async def test_lines_are_written_without_being_asked_for(seen: Observed) -> None:
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    logs = Logs(format="json", fd=writer)
    logs.access_logger().line("info", {"event": "request"})
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert orjson.loads(os.read(reader, 1000)) == {"event": "request"}
    os.close(reader)
    os.close(writer)


def test_reader_that_has_gone_away_is_not_an_error() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with observed(fd=writer):
        structlog.get_logger().info("nobody listens")
    os.close(writer)


def test_slow_reader_of_a_pipe_that_does_not_block_loses_nothing() -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)  # as any process that shares our standard output may set it
    received = bytearray()

    def read() -> None:
        while select.select([], [writer], [], 0)[1]:  # until the pipe is full
            time.sleep(0.001)
        while part := os.read(reader, 4096):
            received.extend(part)

    thread = threading.Thread(target=read)
    with observed(fd=writer):
        thread.start()
        for number in range(400):
            structlog.get_logger().info("count", number=number, padding="x" * 1000)
    os.close(writer)
    thread.join(5)
    os.close(reader)
    assert [orjson.loads(line)["number"] for line in received.splitlines()] == list(range(400))
