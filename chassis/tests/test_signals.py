"""Signals: graceful shutdown of the process, and its exit status."""

import asyncio
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from .support.process import PROGRAM, run
from .support.service import until


async def test_sigterm_serves_requests_in_flight_and_new_ones() -> None:
    async with run("-m", PROGRAM, forked=False, APP_DRAIN_SECONDS="0.5") as process:
        client = await process.client()
        waiting = asyncio.create_task(client.get("/waiting"))
        await process.line("waiting")
        process.send(signal.SIGTERM)
        await process.line("draining")
        readiness, other = await client.get("/readyz"), await client.get("/docs")
        assert (readiness.status_code, readiness.json()["status"]) == (503, "draining")
        assert (other.status_code, other.headers["connection"]) == (200, "close")
        response = await waiting
        assert (response.json(), response.headers["connection"]) == ("at last", "close")
        assert await process.end() == (0, "")
        assert process.events[-2:] == ["left", "stopped"]


async def test_sigint_skips_the_drain() -> None:
    async with run("-m", PROGRAM, APP_DRAIN_SECONDS="3600") as process:
        client = await process.client()
        waiting = asyncio.create_task(client.get("/waiting"))
        await process.line("waiting")
        process.send(signal.SIGINT)
        assert (await process.line("draining"))["seconds"] == 0
        assert (await waiting).json() == "at last"
        assert await process.end() == (0, "")


async def test_second_signal_ends_at_once() -> None:
    async with run("-m", PROGRAM, APP_DRAIN_SECONDS="3600") as process:
        await process.client()
        process.send(signal.SIGTERM)
        await process.line("draining")
        process.send(signal.SIGTERM)
        assert await process.end() == (128 + signal.SIGTERM, "")


async def test_second_signal_ends_at_once_when_the_log_is_not_read() -> None:
    with full_pipe() as stdout, free_port() as port:
        async with run("-m", PROGRAM, stdout=stdout, APP_PORT=str(port)) as process:
            await until(lambda: accepts(port), seconds=10)
            process.send(signal.SIGTERM)
            process.send(signal.SIGINT)
            assert (await process.end())[0] in (128 + signal.SIGTERM, 128 + signal.SIGINT)


@contextmanager
def free_port() -> Iterator[int]:
    """A port without a listener; no other process gets it meanwhile."""
    with socket.socket() as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


def accepts(port: int) -> bool:
    """Whether somebody listens on `port`."""
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


@contextmanager
def full_pipe() -> Iterator[int]:
    """A pipe that is full."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with suppress(BlockingIOError):
        while True:
            os.write(writer, b"x" * 1024)
    os.set_blocking(writer, True)
    try:
        yield writer
    finally:
        os.close(reader)
        os.close(writer)


async def test_sigterm_during_the_start_shuts_down() -> None:
    async with run("-m", PROGRAM, PROGRAM_RESOURCE="hanging") as process:
        await process.line("entering")
        process.send(signal.SIGTERM)
        assert await process.end() == (0, "")
        assert process.events[-2:] == ["stopped while starting", "left"]


async def test_resource_that_fails_is_status_1_and_logged() -> None:
    async with run("-m", PROGRAM, PROGRAM_RESOURCE="refused") as process:
        assert await process.end() == (1, "")
    (line,) = [line for line in process.lines if line["level"] == "error"]
    assert line["event"] == "service failed to start or stop"
    assert "ConnectionRefusedError: no database at 192.0.2.1" in line["exception"]


async def test_port_in_use_is_status_1_and_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        async with run("-m", PROGRAM, APP_PORT=str(port)) as process:
            assert await process.end() == (1, "")
    (line,) = process.lines
    assert (line["event"], line["level"]) == ("cannot listen", "error")
    assert "in use" in line["error"]


async def test_forked_child_ends_by_a_signal() -> None:
    # Python 3.12 warns of forks in a process that has threads.
    async with run("-m", PROGRAM, warnings="ignore", APP_DRAIN_SECONDS="0") as process:
        client = await process.client()
        assert (await client.get("/child")).json() == -signal.SIGTERM
        process.send(signal.SIGTERM)
        assert await process.end() == (0, "")


async def test_forked_child_logs_its_own_lines_and_none_of_its_parent() -> None:
    async with run("-m", PROGRAM, warnings="ignore", APP_DRAIN_SECONDS="0") as process:
        client = await process.client()
        await client.post("/child")
        process.send(signal.SIGTERM)
        assert await process.end() == (0, "")
    assert process.events.count("before the fork") == 1
    assert process.events.count("in the child") == 1
