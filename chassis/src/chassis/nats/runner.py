"""Runs a consumer: asks the server for messages, processes them concurrently, and gives them back at the shutdown.

The requests are those of JetStream's pull consumers. nats-py's `fetch` is not used: a cancelled `fetch` may have
messages in hand, which the server would deliver again only after `ack_wait`.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from itertools import count
from time import monotonic
from typing import Any

import orjson
import structlog
from nats import errors as nats_errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from structlog.typing import FilteringBoundLogger

from .connection import Connection
from .errors import EventsUnavailableError
from .processing import settle
from .streams import Durable

log: FilteringBoundLogger = structlog.get_logger()

PULL_SECONDS = 5.0  # for one request; the server then says that it has expired
MARGIN_SECONDS = 1.0  # beyond it, the request is taken for lost
RETRY_SECONDS = (0.1, 0.2, 0.5, 1.0)
DRAIN_SECONDS = 2.0
GIVE_BACK_SECONDS = 0.5
EXPIRED = "408"
HEARTBEATS = 3  # in `ack_wait`


class Pull:
    """A request for messages. `left` is the number that the server may still send."""

    def __init__(self, inbox: str, size: int) -> None:
        self.inbox: str = inbox
        self.left: int = size
        self.lost_at: float = monotonic() + PULL_SECONDS + MARGIN_SECONDS
        self.failure: str | None = None

    @property
    def is_open(self) -> bool:
        """Whether messages may still come."""
        return self.left > 0 and self.failure is None and monotonic() < self.lost_at


class Runner:
    """Runs one consumer until the service drains."""

    def __init__(
        self,
        durable: Durable,
        process: Callable[[Msg], Coroutine[Any, Any, None]],
        connection: Connection,
        draining: asyncio.Event,
        set_up: Callable[[Client], Awaitable[None]],
        *,
        max_in_flight: int,
    ) -> None:
        """`set_up` creates the streams of the service that are missing."""
        self._durable = durable
        self._process = process
        self._connection = connection
        self._draining = draining
        self._set_up = set_up
        self._max_in_flight = max_in_flight
        self._in_hand: dict[asyncio.Task[None], Msg] = {}
        self._pull: Pull | None = None
        self._wake = asyncio.Event()
        self._failures = 0
        connection.on_change.append(self._wake.set)

    async def run(self) -> None:
        """Consume until `draining` is set, and finish what is in hand. Cancelled, it gives the rest back."""
        watch = asyncio.create_task(self._draining.wait(), name="wait for draining")
        watch.add_done_callback(lambda _: self._wake.set())
        try:
            while not self._draining.is_set():
                try:
                    await self._consume(await self._connected())
                except (EventsUnavailableError, nats_errors.Error, OSError, TimeoutError) as error:
                    log.warning("consumer interrupted", consumer=self._durable.name, reason=_text(error))
                    await self._pause()
            if self._in_hand:
                await asyncio.wait(self._in_hand)
        finally:
            watch.cancel()
            await self._give_back()

    async def _connected(self) -> Client:
        while not self._connection.connected.is_set() and not self._draining.is_set():
            self._wake.clear()
            await self._wake.wait()
        return self._connection.client

    async def _consume(self, client: Client) -> None:
        """Consume with one client, until another replaces it."""
        await self._set_up(client)
        ack_wait = await self._durable.ensure(client)
        inbox = client.new_inbox()
        subscription = await client.subscribe(f"{inbox}.*", cb=self._on_message)
        heartbeats = asyncio.create_task(self._keep_in_progress(ack_wait / HEARTBEATS), name="heartbeats of messages")
        try:
            await self._ask(client, inbox)
        finally:
            # The server sends nothing more. Messages on their way arrive before this returns, and are given back.
            with suppress(nats_errors.Error, OSError, TimeoutError):
                async with asyncio.timeout(DRAIN_SECONDS):
                    await subscription.drain()  # type: ignore[no-untyped-call]
            try:
                if self._in_hand and self._draining.is_set():
                    await asyncio.wait(self._in_hand)
            finally:
                heartbeats.cancel()

    async def _ask(self, client: Client, inbox: str) -> None:
        """Keep one request open, for as many messages as can be processed."""
        connection_count = self._connection.count
        for number in count():
            self._wake.clear()
            if self._draining.is_set():
                return
            if not self._connection.connected.is_set():
                await self._wake.wait()
                continue
            if self._connection.client is not client:
                return
            pull = self._pull
            if pull is not None and pull.failure not in (None, EXPIRED):
                self._pull = None
                raise EventsUnavailableError(f"the server ended a request for messages: {pull.failure}")
            free = self._max_in_flight - len(self._in_hand)
            is_same = connection_count == self._connection.count  # a server forgets requests when it restarts
            if pull is not None and pull.is_open and is_same:
                await self._woken(pull.lost_at - monotonic())
            elif free <= 0:
                await self._wake.wait()
            else:
                connection_count = self._connection.count
                await self._request(client, f"{inbox}.{number}", free)

    async def _request(self, client: Client, inbox: str, size: int) -> None:
        self._pull = Pull(inbox, size)
        durable = self._durable
        content = orjson.dumps({"batch": size, "expires": int(PULL_SECONDS * 1e9)})
        await client.publish(f"$JS.API.CONSUMER.MSG.NEXT.{durable.stream}.{durable.name}", content, reply=inbox)

    async def _woken(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, seconds)):
                await self._wake.wait()

    async def _pause(self) -> None:
        seconds = RETRY_SECONDS[min(self._failures, len(RETRY_SECONDS) - 1)]
        self._failures += 1
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._draining.wait()

    async def _on_message(self, received: Msg) -> None:
        pull = self._pull
        headers = received.headers or {}
        if "Status" in headers and not received.reply:
            if pull is not None and received.subject == pull.inbox:
                status = headers["Status"]
                pull.failure = status if status == EXPIRED else f"{status} {headers.get('Description', '')}"
                self._wake.set()
            return
        self._failures = 0
        if pull is not None:
            pull.left -= 1
        if self._draining.is_set():
            await settle(received.nak())
            return
        task = asyncio.create_task(self._process(received), name=f"message of {self._durable.name}")
        self._in_hand[task] = received
        task.add_done_callback(self._on_done)
        if pull is not None and pull.left <= 0:
            self._wake.set()

    def _on_done(self, task: asyncio.Task[None]) -> None:
        del self._in_hand[task]
        self._wake.set()
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("processing failed", consumer=self._durable.name, exc_info=error)

    async def _keep_in_progress(self, seconds: float) -> None:
        """Tell the server that the messages in hand are being processed, so that it does not deliver them again."""
        while True:
            await asyncio.sleep(seconds)
            for received in list(self._in_hand.values()):
                if not received.is_acked:
                    with suppress(nats_errors.Error, OSError):
                        await received.in_progress()

    async def _give_back(self) -> None:
        """Give the messages in hand back to the server, so that another instance gets them at once."""
        tasks = list(self._in_hand)
        for task in tasks:
            task.cancel("the service is stopping")
        if tasks:
            log.warning("messages given back at shutdown", consumer=self._durable.name, count=len(tasks))
            await asyncio.wait(tasks, timeout=GIVE_BACK_SECONDS)


def _text(error: Exception) -> str:
    return str(error) or type(error).__name__
