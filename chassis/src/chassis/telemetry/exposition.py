"""The text of all metrics, encoded in a thread, so that requests continue meanwhile."""

import asyncio
import gc
import gzip
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import Context
from typing import NamedTuple

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from ..threads import in_thread

GZIP_LEVEL = 1  # higher levels use more CPU and save little


class Page(NamedTuple):
    """The metrics in one format."""

    content: bytes
    content_type: str
    is_compressed: bool


class Exposition:
    """Encodes the metrics of a registry, one page at a time.

    Requests that wait while a page is made share the next one. So each gets values from after its arrival, and scrapers
    never occupy more than one thread. A client that disconnects stops nothing.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self._next: dict[tuple[str, bool], asyncio.Task[Page]] = {}
        self._turn = asyncio.Lock()

    async def page(self, accept: str, *, compress: bool) -> Page:
        """Prometheus text, or OpenMetrics with exemplars when `accept`, the field's value, asks for it."""
        encode, content_type = choose_encoder(accept)
        key = (content_type, compress)
        task = self._next.get(key)
        if task is None:

            def make() -> Page:
                with _without_garbage_collector():
                    content = encode(self._registry)
                return Page(gzip.compress(content, GZIP_LEVEL) if compress else content, content_type, compress)

            loop = asyncio.get_running_loop()
            task = self._next[key] = loop.create_task(self._make(key, make), name="metrics", context=Context())
        return await asyncio.shield(task)

    async def _make(self, key: tuple[str, bool], make: Callable[[], Page]) -> Page:
        async with self._turn:
            del self._next[key]  # later requests need newer values
            return await asyncio.wrap_future(in_thread(make, name="metrics"))


@contextmanager
def _without_garbage_collector() -> Iterator[None]:
    """Collect no garbage meanwhile. A page makes many objects, and none in reference cycles. Their number would start a
    full collection, which stops every thread."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
