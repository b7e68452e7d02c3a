"""Newline-delimited JSON: one document per line, streamed."""

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator, Mapping
from functools import partial
from time import monotonic
from typing import Any

import pydantic_core
from pydantic import BaseModel
from starlette.background import BackgroundTask
from starlette.types import Scope

from .producer import BUFFER_BYTES, Producer
from .streamed_response import StreamedResponse
from .threads import Threads, in_thread, threads_of

BATCH_SECONDS = 0.005


class JsonLines(StreamedResponse):
    """A streamed response of JSON documents, one per line. Return it from a handler:

        async def get(self) -> JsonLines:
            return JsonLines(self._store.all())

    `items` is an async iterable, such as a generator or the result of a query, or a plain iterable. A list or tuple is
    iterated over on the event loop. Any other plain iterable may block, so it runs in the threads of `def` handlers,
    in batches of about 5 ms. If it waits long between two items, make it async, because a batch is sent as a whole.
    pydantic serializes each item, by alias; NaN and infinity become null.

    The media type is `application/x-ndjson`, which most programs that read such streams accept; none is registered.
    Pass `headers={"content-type": "application/jsonl"}` for another media type.

    Lines that wait for the client are sent together; otherwise a line is sent at once. See `StreamedResponse` for
    failures, slow clients and disconnects. Graceful shutdown does not end the response: it has until the end of
    `shutdown_seconds` to complete. Raises `TypeError` if `items` is a single value, such as a string or a mapping.
    """

    media_type = "application/x-ndjson"

    def __init__(
        self,
        items: AsyncIterable[Any] | Iterable[Any],
        *,
        headers: Mapping[str, str] | None = None,
        background: BackgroundTask | None = None,
    ) -> None:
        if isinstance(items, str | bytes | Mapping | BaseModel) or not isinstance(items, AsyncIterable | Iterable):
            raise TypeError(f"items is a single value of type {type(items).__name__}; pass a list or a generator")
        super().__init__(headers, background)
        self._items = items

    def produce(self, scope: Scope) -> Producer[Any]:
        items = self._items
        if isinstance(items, AsyncIterable):
            return Producer(items, encode_line)
        if isinstance(items, list | tuple):
            return Producer(_each(items), encode_line)
        return Producer(_batches(items, threads_of(scope)), _unchanged)


def encode_line(item: Any) -> bytes:
    """A document and a line break. The JSON itself contains no line breaks."""
    return pydantic_core.to_json(item, inf_nan_mode="null") + b"\n"


async def _each(items: Iterable[Any]) -> AsyncIterator[Any]:
    for item in items:
        yield item


async def _batches(items: Iterable[Any], threads: Threads) -> AsyncIterator[bytes]:
    """The lines of `items`, produced in threads."""
    iterator = iter(items)
    try:
        while True:
            batch = asyncio.ensure_future(threads.run(partial(_next_lines, iterator)))
            try:
                await asyncio.wait({batch})
            except asyncio.CancelledError:
                await asyncio.wait({batch})  # a thread cannot be cancelled, nor can a running generator be closed
                batch.exception()
                raise
            if not (lines := batch.result()):
                return
            yield lines
    finally:
        close = getattr(iterator, "close", None)
        if close is not None:
            # In a thread of its own, because all threads of the pool may be busy.
            await asyncio.wrap_future(in_thread(close, name="close a stream"))


def _next_lines(iterator: Iterator[Any]) -> bytes:
    """The lines of the next items, up to a bound of time and size; empty at the end."""
    lines = bytearray()
    ends = monotonic() + BATCH_SECONDS
    for item in iterator:
        lines += encode_line(item)
        if len(lines) >= BUFFER_BYTES or monotonic() >= ends:
            break
    return bytes(lines)


def _unchanged(lines: bytes) -> bytes:
    return lines
