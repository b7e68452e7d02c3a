"""Log lines on their way out: whole, in order, and none lost."""

import asyncio
import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest
import structlog

from chassis.telemetry.log_writer import GATHER_SECONDS, MAX_GATHERED, MAX_HELD_BYTES, LineWriter
from chassis.telemetry.logs import Logs

from .support.process import PROGRAM, run
from .support.service import Line, Observed, exchange, observed


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


def sizes_of_writes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The bytes of each write from now on."""
    sizes: list[int] = []
    write = os.write

    def observed_write(to: int, data: bytes) -> int:
        sizes.append(len(data))
        return write(to, data)

    monkeypatch.setattr(os, "write", observed_write)
    return sizes


@pytest.mark.skipif(sys.platform != "linux", reason="how much an empty pipe takes is known of Linux's")
async def test_lines_of_a_turn_wake_the_reader_once(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, fd = os.pipe()
    sizes = sizes_of_writes(monkeypatch)
    writer = LineWriter(fd)

    async def log_hundred() -> None:
        for number in range(100):
            writer.write(b"%03d" % number * 100)
        await asyncio.sleep(0)

    await log_hundred()
    assert sizes == [30_100]
    # How much more fits beside that is not to be known, but for this.
    await log_hundred()
    assert max(sizes[1:]) <= select.PIPE_BUF
    assert os.read(reader, 65_536).split() == [b"%03d" % number * 100 for number in range(100)] * 2


@pytest.fixture
def pipe() -> Iterator[tuple[int, LineWriter]]:
    """The end of a pipe that is read, which does not block, and a writer to it."""
    reader, fd = os.pipe()
    os.set_blocking(reader, False)
    yield reader, LineWriter(fd)
    os.close(reader)
    os.close(fd)


async def end_of_turn() -> None:
    """Let what this turn of the event loop has asked for run."""
    await asyncio.sleep(0)
    await asyncio.sleep(0)


def read_now(reader: int) -> bytes:
    """The output so far."""
    try:
        return os.read(reader, 65_536)
    except BlockingIOError:
        return b""


async def test_gathered_line_is_written_at_the_end_of_its_turn_when_there_are_few(
    pipe: tuple[int, LineWriter],
) -> None:
    reader, writer = pipe
    for line in (b"first", b"second"):
        writer.gather(line)
        await end_of_turn()
        assert read_now(reader) == line + b"\n"
        await asyncio.sleep(2 * GATHER_SECONDS)


async def test_gathered_lines_of_many_turns_leave_in_few_writes(
    pipe: tuple[int, LineWriter], monkeypatch: pytest.MonkeyPatch
) -> None:
    reader, writer = pipe
    monkeypatch.setattr("chassis.telemetry.log_writer.GATHER_SECONDS", 0.3)
    sizes = sizes_of_writes(monkeypatch)
    for _ in range(MAX_GATHERED):
        writer.gather(b"line")
        await end_of_turn()
    received = b""
    while received.count(b"\n") < MAX_GATHERED:
        await asyncio.sleep(0.001)
        received += read_now(reader)
    assert received == b"line\n" * MAX_GATHERED
    assert len(sizes) < MAX_GATHERED / 2


async def test_many_gathered_lines_do_not_wait(pipe: tuple[int, LineWriter]) -> None:
    reader, writer = pipe
    writer.gather(b"line")
    await end_of_turn()
    for _ in range(MAX_GATHERED):
        writer.gather(b"line")
    await end_of_turn()
    assert read_now(reader) == b"line\n" * (1 + MAX_GATHERED)


async def test_other_line_takes_gathered_ones_along_in_their_order(pipe: tuple[int, LineWriter]) -> None:
    reader, writer = pipe
    writer.gather(b"first")
    await end_of_turn()
    writer.gather(b"gathered")
    writer.write(b"last")
    await end_of_turn()
    assert read_now(reader) == b"first\ngathered\nlast\n"


def test_event_loop_that_has_closed_with_gathered_lines_does_not_hold_up_those_of_the_next(
    pipe: tuple[int, LineWriter],
) -> None:
    reader, writer = pipe

    async def gather(count: int) -> None:
        for _ in range(count):
            writer.gather(b"line")
            await end_of_turn()

    async def read(count: int) -> None:
        received = b""
        while received.count(b"\n") < count:
            await asyncio.sleep(0.001)
            received += read_now(reader)

    asyncio.run(gather(2))
    with asyncio.Runner() as runner:
        runner.run(gather(1))
        runner.run(asyncio.wait_for(read(3), 10))


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
    with observed(fd=writer) as seen:
        thread.start()
        for number in range(400):
            structlog.get_logger().info("count", number=number, padding="x" * 1000)
        seen.telemetry.logs.writer.flush(5.0)
    os.close(writer)
    thread.join(5)
    os.close(reader)
    assert [orjson.loads(line)["number"] for line in received.splitlines()] == list(range(400))


LINE_BYTES = 1000
BUFFER_BYTES = 100_000


async def test_stopped_reader_blocks_nothing_and_gets_the_number_of_dropped_lines() -> None:
    reader, writer = os.pipe()
    with observed(fd=writer, buffer_bytes=BUFFER_BYTES) as seen:
        log = structlog.get_logger()
        for number in range(400):
            log.info("count", number=number, padding="x" * LINE_BYTES)
            if number % 10 == 9:
                await asyncio.sleep(0)
        dropped = seen.telemetry.metrics.registry.get_sample_value("log_lines_dropped_total")
        assert dropped is not None
        kept = 400 - int(dropped)
        # The capacity of a pipe of Linux, and the buffer.
        assert BUFFER_BYTES < kept * LINE_BYTES < 65_536 + BUFFER_BYTES

        lines = await asyncio.to_thread(read_lines, reader, kept + 1)
        log.info("count", number=400)
        lines += await asyncio.to_thread(read_lines, reader, 1)
    assert [line["number"] for line in lines if line["event"] == "count"] == [*range(kept), 400]
    (told,) = (line for line in lines if line["event"] != "count")
    assert (told["event"], told["level"], told["count"]) == (
        "log lines dropped",
        "warning",
        dropped,
    )
    for fd in (reader, writer):
        os.close(fd)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_buffer_takes_the_memory_that_it_may_take() -> None:
    reader, writer = os.pipe()
    buffer = LineWriter(writer)
    before = resident_bytes()
    for number in range(MAX_HELD_BYTES // 200):
        buffer.write(orjson.dumps({"number": number, "padding": "x" * 200}))
    assert resident_bytes() - before < 4 * MAX_HELD_BYTES
    for fd in (reader, writer):
        os.close(fd)


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def read_lines(fd: int, count: int) -> list[Line]:
    """Read until there are so many lines."""
    data = b""
    while data.count(b"\n") < count:
        data += os.read(fd, 65_536)
    return [orjson.loads(line) for line in data.splitlines()]


async def test_reader_that_was_late_catches_up_while_more_lines_come() -> None:
    reader, writer = os.pipe()
    with observed(fd=writer) as seen:
        log = structlog.get_logger()
        for number in range(400):  # several times what a pipe takes
            log.info("count", number=number, padding="x" * LINE_BYTES)
        await turn()
        data = b""
        for number in range(400, 420):
            while select.select([reader], [], [], 0)[0]:
                data += os.read(reader, 65_536)
            # Each turn with a new line uses the free capacity; a timer alone would be too slow for many lines.
            log.info("count", number=number, padding="x" * LINE_BYTES)
            await turn()
        while select.select([reader], [], [], 0)[0]:
            data += os.read(reader, 65_536)
        dropped = seen.telemetry.metrics.registry.get_sample_value("log_lines_dropped_total")
    assert dropped == 0
    assert [orjson.loads(line)["number"] for line in data.splitlines()] == list(range(420))
    for fd in (reader, writer):
        os.close(fd)


async def turn() -> None:
    """One turn of the event loop, with what its lines are written by."""
    await asyncio.sleep(0)
    await asyncio.sleep(0)


async def test_line_of_any_length_is_whole() -> None:
    reader, writer = os.pipe()
    with observed(fd=writer):
        for size in (1, 4094, 4095, 4096, 4097, 8192, 300_000, 1):
            structlog.get_logger().info("long", padding="x" * size)
        lines = await asyncio.to_thread(read_lines, reader, 8)
    assert [len(line["padding"]) for line in lines] == [1, 4094, 4095, 4096, 4097, 8192, 300_000, 1]
    for fd in (reader, writer):
        os.close(fd)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such promise")
async def test_writes_hold_whole_lines_and_no_more_than_a_pipe_takes_at_once() -> None:
    # A socket of this kind keeps the borders between writes.
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        writer = LineWriter(ours.fileno())
        for _ in range(20):
            writer.write(b"x" * 999)
        await asyncio.sleep(0)
        parts = [theirs.recv(100_000) for _ in range(5)]
    assert [len(part) for part in parts] == [4000] * 5
    assert all(part.endswith(b"x\n") for part in parts)


BATCHES = 20
BATCH = 100
REQUEST = b"GET /nowhere HTTP/1.1\r\nhost: x\r\n"


@pytest.mark.parametrize("buffer_bytes", [65_536, 8_388_608])
async def test_service_responds_while_its_log_is_not_read(buffer_bytes: int) -> None:
    async with run("-m", PROGRAM, APP_LOG_BUFFER_BYTES=str(buffer_bytes), APP_DRAIN_SECONDS="0") as process:
        client = await process.client()
        port = client.base_url.port
        assert port is not None
        # From here on nobody reads but asyncio, which stops at some kilobytes.
        for _ in range(BATCHES):
            sent = (REQUEST + b"\r\n") * (BATCH - 1) + REQUEST + b"connection: close\r\n\r\n"
            assert (await exchange(port, sent)).count(b"HTTP/1.1 404 ") == BATCH
        metrics = (await client.get("/metrics")).text
        dropped = int(float(metrics.partition("\nlog_lines_dropped_total ")[2].partition("\n")[0]))
        process.send(signal.SIGTERM)
        assert await process.end() == (0, "")
        lines = sum(line["event"] == "request" for line in process.lines)
    assert lines + dropped == BATCHES * BATCH
    assert (dropped > 0) is (buffer_bytes == 65_536)
