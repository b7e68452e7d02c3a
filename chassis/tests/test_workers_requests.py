"""Requests of the supervisor to a worker, over the real sockets and the event loop of the service."""

import asyncio
import gc
import os
import socket
import sys
import threading
import warnings
from collections.abc import Awaitable, Callable, Iterator

import pytest

from chassis.server import loop_factory
from chassis.workers.messages import receive
from chassis.workers.requests import NoResponseError
from chassis.workers.worker_process import WorkerProcess

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="services with several workers run on Linux")

Peer = Callable[[socket.socket], object]


def run(work: Callable[[WorkerProcess], Awaitable[None]], peer: Peer) -> None:
    """Do some work with a worker, of which a thread serves each connection with `peer`."""
    ours, link = socket.socketpair()

    def serve() -> None:
        while (message := receive(link)) is not None:
            for connection in message.sockets:
                peer(connection)

    async def use() -> None:
        worker = WorkerProcess(1, 0, ours, on_change=lambda _: None, on_link_end=lambda _: None)
        try:
            await work(worker)
        finally:
            worker.end()

    thread = threading.Thread(target=serve)
    thread.start()
    with link, asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(use())
        thread.join(10)


def answer(*parts: bytes) -> Peer:
    def send(connection: socket.socket) -> None:
        with connection:
            connection.recv(65_536)
            for part in parts:
                connection.sendall(part)

    return send


@pytest.fixture
def _no_descriptor_is_left() -> Iterator[None]:
    before = len(os.listdir("/proc/self/fd"))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
        gc.collect()
    assert [str(warning.message) for warning in caught] == []
    assert len(os.listdir("/proc/self/fd")) == before


def test_response_in_parts_is_read() -> None:
    async def work(worker: WorkerProcess) -> None:
        response = await worker.request("GET", b"/gc")
        assert (response.status, response.body, response.header(b"x")) == (200, b"hello", b"y")

    run(work, answer(b"HTTP/1.1 200 OK\r\nX: y\r\nContent-", b"Length: 5\r\n\r\nhel", b"lo"))


@pytest.mark.usefixtures("_no_descriptor_is_left")
def test_worker_that_ends_at_once_has_no_response_and_no_descriptor_is_closed_twice() -> None:
    async def work(worker: WorkerProcess) -> None:
        for _ in range(500):
            with pytest.raises(NoResponseError):
                await worker.request("GET", b"/gc")

    run(work, lambda connection: connection.close())


@pytest.mark.usefixtures("_no_descriptor_is_left")
@pytest.mark.parametrize("sent", [b"", b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhel", b"hello"])
def test_response_that_is_not_complete_is_none(sent: bytes) -> None:
    async def work(worker: WorkerProcess) -> None:
        with pytest.raises(NoResponseError):
            await worker.request("GET", b"/gc")

    run(work, answer(sent))


@pytest.mark.usefixtures("_no_descriptor_is_left")
def test_worker_that_hangs_has_no_response_in_time() -> None:
    kept: list[socket.socket] = []

    async def work(worker: WorkerProcess) -> None:
        with pytest.raises(NoResponseError, match=r"no response in 0\.05 seconds"):
            await worker.request("GET", b"/gc", seconds=0.05)
        kept.pop().close()

    run(work, kept.append)
