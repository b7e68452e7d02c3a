"""A response that is sent piece by piece, and ends when its client has gone."""

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
    """Sends the pieces of a `Producer` as soon as the client takes them.

    Pieces that wait for the client are sent together. The producer is at most 64 KiB ahead of the client, so the memory
    of a stream does not grow. When the client has gone, the iteration ends and its cleanup runs. What the iteration
    raises is logged once, with the ids of the request, and the response is cut off. A `HEAD` request gets the headers,
    and nothing is iterated over.

    Subclasses implement `produce`, and may set the other attributes.
    """

    heartbeat_seconds: float | None = None
    """When nothing was sent for so long, `silence` is sent."""
    ends_when_draining: bool = False
    """Whether the response ends, and is complete, when the shutdown of the service begins."""

    opening: bytes = b""
    """Sent before the first item."""
    closing: bytes = b""
    """Sent at the end when the service drains."""
    silence: bytes = b""
    """Sent when there was nothing else to send for `heartbeat_seconds`."""

    def __init__(self, headers: Mapping[str, str] | None = None, background: BackgroundTask | None = None) -> None:
        self.status_code: int = 200
        self.background: BackgroundTask | None = background
        self.init_headers(headers)

    def produce(self, scope: Scope) -> Producer[Any]:
        """The producer of the content; not entered yet."""
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
        if not tells_of_client(scope):
            watches.append(client_leaves(receive))
        with stopped_by(producer, watches):
            if self.opening:
                await send_piece(send, self.opening)
            while True:
                piece = producer.take() if await producer.wait(self.heartbeat_seconds) else self.silence
                if piece is None:
                    break
                if piece:
                    await send_piece(send, piece)
            closing = self.closing if draining is not None and draining.is_set() else b""
            # Before the producer is left, because the cleanup of a generator may take its time.
            await send({"type": "http.response.body", "body": closing})


async def send_piece(send: Send, piece: bytes) -> None:
    """Send a part of the content; raises `ClientDisconnect` when the client has gone."""
    try:
        await send({"type": "http.response.body", "body": piece, "more_body": True})
    except ClientDisconnect:
        raise
    except OSError as error:  # of another server (ASGI 2.4)
        raise ClientDisconnect from error


def draining_of(scope: Scope) -> asyncio.Event | None:
    """The event that is set when the shutdown of the service begins; None outside of an `App`."""
    draining = getattr(scope.get("app"), "draining", None)
    return draining if isinstance(draining, asyncio.Event) else None


def tells_of_client(scope: Scope) -> bool:
    """Whether the server cancels a request whose client has gone, as ours does."""
    info = scope.get(REQUEST_INFO)
    return info is not None and info.read_at is not None


async def client_leaves(receive: Receive) -> None:
    """Wait until the client has gone."""
    while (await receive())["type"] != "http.disconnect":
        pass


@contextmanager
def stopped_by(producer: Producer[Any], watches: list[Coroutine[Any, Any, object]]) -> Iterator[None]:
    """Stop `producer` as soon as one of `watches` returns inside of the block."""

    def stop(watch: asyncio.Task[object]) -> None:
        if not watch.cancelled():
            watch.exception()  # of a server's `receive`: there will be no more messages
            producer.stop()

    tasks = [asyncio.create_task(watch) for watch in watches]
    for task in tasks:
        task.add_done_callback(stop)
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
