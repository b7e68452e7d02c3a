"""Newline-delimited JSON: a document a line, sent while the next ones are made."""

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator, Mapping
from functools import partial
from time import monotonic
from typing import Any

import pydantic_core
from starlette.background import BackgroundTask
from starlette.types import Scope

from .producer import BUFFER_BYTES, Producer
from .streamed_response import StreamedResponse
from .threads import Threads, in_thread, threads_of

BATCH_SECONDS = 0.005


class JsonLines(StreamedResponse):
    """A response of JSON documents, one a line: return it from a handler.

        async def get(self) -> JsonLines:
            return JsonLines(self._store.all())

    `items` is an async iterable, such as a generator or the result of a query, or a plain one. A list or tuple is
    iterated over on the event loop. Any other plain iterable, which may block, runs in the threads of `def` handlers,
    for about 5 ms at a time: one that waits long between two items should be async, because its items wait with it.
    Each item becomes JSON as pydantic writes it, by alias; NaN and infinity become null.

    The media type is `application/x-ndjson`, the one that most programs that read such streams know; none is
    registered. Pass `headers={"content-type": "application/jsonl"}` to name another.

    Lines that wait for the client are sent together, and a line that does not wait is sent at once. See
    `StreamedResponse` for failures, slow clients, and clients that leave. The shutdown of the service does not end
    it: it is a download that will end, and it has until the end of `shutdown_seconds`.
    """

    media_type = "application/x-ndjson"

    def __init__(
        self,
        items: AsyncIterable[Any] | Iterable[Any],
        *,
        headers: Mapping[str, str] | None = None,
        background: BackgroundTask | None = None,
    ) -> None:
        super().__init__(headers, background)
        self._items = items

    def produce(self, scope: Scope) -> Producer[Any]:
        items = self._items
        if isinstance(items, AsyncIterable):
            return Producer(items, encode_line)
        if isinstance(items, list | tuple):
            return Producer(_each(items), encode_line)
        return Producer(_batches(items, threads_of(scope)), _same)


def encode_line(item: Any) -> bytes:
    """A document and the end of its line; JSON has no line breaks of its own."""
    return pydantic_core.to_json(item, inf_nan_mode="null") + b"\n"


async def _each(items: Iterable[Any]) -> AsyncIterator[Any]:
    for item in items:
        yield item


async def _batches(items: Iterable[Any], threads: Threads) -> AsyncIterator[bytes]:
    """The lines of `items`, made in threads."""
    iterator = iter(items)
    try:
        while True:
            batch = asyncio.ensure_future(threads.run(partial(_next_lines, iterator)))
            try:
                await asyncio.wait({batch})
            except asyncio.CancelledError:
                await asyncio.wait({batch})  # a thread cannot be cancelled, and a generator that runs cannot be closed
                batch.exception()
                raise
            if not (lines := batch.result()):
                return
            yield lines
    finally:
        close = getattr(iterator, "close", None)
        if close is not None:
            # In a thread that nobody else can have taken.
            await asyncio.wrap_future(in_thread(close, name="close a stream"))


def _next_lines(iterator: Iterator[Any]) -> bytes:
    """The lines of the next items: as many as come soon; none at the end."""
    lines = bytearray()
    ends = monotonic() + BATCH_SECONDS
    for item in iterator:
        lines += encode_line(item)
        if len(lines) >= BUFFER_BYTES or monotonic() >= ends:
            break
    return bytes(lines)


def _same(lines: bytes) -> bytes:
    return lines
