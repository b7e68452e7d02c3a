"""A response that is sent in chunks, and ends when the client disconnects."""

import asyncio
from collections.abc import Coroutine, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from starlette.background import BackgroundTask
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from .producer import Producer
from .request_info import REQUEST_INFO


class StreamedResponse(Response):
    """Sends the chunks of a `Producer` as fast as the client receives them (backpressure).

    Chunks that wait for the client are sent together. The producer is at most 64 KiB ahead of the client, so the memory
    of a stream is bounded. When the client disconnects, the iteration ends and its cleanup runs. An exception of the
    iteration is logged once, with the ids of the request, and the response is aborted. A `HEAD` request gets the
    headers, and the iteration does not start.

    Subclasses implement `produce`, and may set the other attributes.
    """

    heartbeat_seconds: float | None = None
    """The time without a chunk after which `heartbeat` is sent."""
    ends_when_draining: bool = False
    """Whether the response is completed when graceful shutdown begins."""

    opening: bytes = b""
    """Sent before the first item."""
    closing: bytes = b""
    """Sent at the end when the service drains."""
    heartbeat: bytes = b""
    """Sent after `heartbeat_seconds` without a chunk."""

    def __init__(self, headers: Mapping[str, str] | None = None, background: BackgroundTask | None = None) -> None:
        self.status_code: int = 200
        self.background: BackgroundTask | None = background
        self.init_headers(headers)

    def produce(self, scope: Scope) -> Producer[Any]:
        """The producer of the content. It is entered later."""
        raise NotImplementedError

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        if scope["method"] == "HEAD":
            await send({"type": "http.response.body", "body": b""})
        else:
            async with self.produce(scope) as producer:
                await self._stream(producer, scope, receive, send)
        if self.background is not None:
            await self.background()

    async def _stream(self, producer: Producer[Any], scope: Scope, receive: Receive, send: Send) -> None:
        draining = draining_of(scope) if self.ends_when_draining else None
        watches: list[Coroutine[Any, Any, object]] = [draining.wait()] if draining is not None else []
        if not cancels_on_disconnect(scope):
            watches.append(until_disconnect(receive))
        with stopped_by(producer, watches):
            if self.opening:
                await send_chunk(send, self.opening)
            while True:
                chunk = producer.take() if await producer.wait(self.heartbeat_seconds) else self.heartbeat
                if chunk is None:
                    break
                if chunk:
                    await send_chunk(send, chunk)
            closing = self.closing if draining is not None and draining.is_set() else b""
            # Before the producer is closed, because the cleanup of a generator may take long.
            await send({"type": "http.response.body", "body": closing})


async def send_chunk(send: Send, chunk: bytes) -> None:
    """Send a part of the content. Raises `ClientDisconnect` if the client has disconnected."""
    try:
        await send({"type": "http.response.body", "body": chunk, "more_body": True})
    except ClientDisconnect:
        raise
    except OSError as error:  # from another server (ASGI 2.4)
        raise ClientDisconnect from error


def draining_of(scope: Scope) -> asyncio.Event | None:
    """The event that is set when graceful shutdown begins; None outside an `App`."""
    draining = getattr(scope.get("app"), "draining", None)
    return draining if isinstance(draining, asyncio.Event) else None


def cancels_on_disconnect(scope: Scope) -> bool:
    """Whether the server cancels a request when its client disconnects, as our server does."""
    info = scope.get(REQUEST_INFO)
    return info is not None and info.read_at is not None


async def until_disconnect(receive: Receive) -> None:
    """Wait until the client disconnects."""
    while (await receive())["type"] != "http.disconnect":
        pass


@contextmanager
def stopped_by(producer: Producer[Any], watches: list[Coroutine[Any, Any, object]]) -> Iterator[None]:
    """Stop `producer` as soon as one of `watches` returns while the block runs."""

    def stop(watch: asyncio.Task[object]) -> None:
        if not watch.cancelled():
            watch.exception()  # from `receive` of another server: it sends no more messages
            producer.stop()

    tasks = [asyncio.create_task(watch) for watch in watches]
    for task in tasks:
        task.add_done_callback(stop)
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
