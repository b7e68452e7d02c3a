"""The chunks of a stream, produced in a task of their own, ahead of the client up to a bound (backpressure)."""

import asyncio
from collections.abc import AsyncIterable, Callable
from time import monotonic
from types import TracebackType
from typing import Generic, Self, TypeVar

BUFFER_BYTES = 65_536
TURN_SECONDS = 0.005

Item = TypeVar("Item")


class Producer(Generic[Item]):
    """An async context manager that iterates over `items`, and buffers the encoded chunks until `take` is called.

    One task runs the whole iteration, so a generator may hold a timeout, a task group or a context variable across its
    `yield`. It runs ahead by at most `BUFFER_BYTES` and one item. After `TURN_SECONDS` without a pause it waits until
    its chunks are taken, because a generator that never awaits would block the event loop. On exit the iteration is
    cancelled and closed, and its cleanup runs.
    """

    def __init__(self, items: AsyncIterable[Item], encode: Callable[[Item], bytes]) -> None:
        self._items = items
        self._encode = encode
        self._chunks: list[bytes] = []
        self._size = 0
        self._turn_ends = 0.0
        self._available = asyncio.Event()
        self._taken = asyncio.Event()
        self._is_stopped = False
        self._failure_is_raised = False
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._produce())
        self._task.add_done_callback(lambda _: self._available.set())
        return self

    async def __aexit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        task = self._task
        if task is None:
            return
        task.cancel()
        await asyncio.wait({task})
        if not task.cancelled() and not self._failure_is_raised:
            task.result()  # raises the exception of its cleanup

    def stop(self) -> None:
        """Stop the iteration and start its cleanup. The chunks that are buffered can still be taken."""
        self._is_stopped = True
        self._available.set()
        if self._task is not None:
            self._task.cancel()

    async def wait(self, seconds: float | None = None) -> bool:
        """Wait until `take` has chunks or the end; False if neither comes within `seconds`."""
        try:
            async with asyncio.timeout(seconds):
                await self._available.wait()
        except TimeoutError:
            return False
        return True

    def take(self) -> bytes | None:
        """The buffered chunks, joined; None at the end. Raises the exception that ended the iteration."""
        content = b"".join(self._chunks)
        self._chunks.clear()
        self._size = 0
        self._turn_ends = monotonic() + TURN_SECONDS
        self._taken.set()
        has_ended = self._is_stopped or self._task is None or self._task.done()
        if not has_ended:
            self._available.clear()
        elif not content:
            if not self._is_stopped and self._task is not None:
                self._failure_is_raised = True
                self._task.result()
            return None
        return content

    async def _produce(self) -> None:
        self._turn_ends = monotonic() + TURN_SECONDS
        try:
            async for item in self._items:
                if self._is_stopped:
                    return
                chunk = self._encode(item)
                self._chunks.append(chunk)
                self._size += len(chunk)
                self._available.set()
                if self._size >= BUFFER_BYTES or monotonic() >= self._turn_ends:
                    self._taken.clear()
                    await self._taken.wait()
        except (SystemExit, KeyboardInterrupt) as error:  # raised by a library; only a signal ends the process
            raise RuntimeError(f"the stream raised {type(error).__qualname__}") from error
        finally:
            close = getattr(self._items, "aclose", None)
            if close is not None:
                await close()
