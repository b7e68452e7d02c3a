"""The pieces of a stream, made in a task of their own, ahead of the client up to a bound."""

import asyncio
from collections.abc import AsyncIterable, Callable
from time import monotonic
from types import TracebackType
from typing import Generic, Self, TypeVar

BUFFER_BYTES = 65_536
TURN_SECONDS = 0.005

Item = TypeVar("Item")


class Producer(Generic[Item]):
    """Iterates over `items` while it is entered, and keeps what `encode` makes of each until it is taken.

    One task runs the whole iteration, so that a generator may hold a time limit, a task group or a context variable
    across its `yield`. It runs ahead by at most `BUFFER_BYTES` and one item. After `TURN_SECONDS` without a pause it
    waits until its pieces are taken: a generator that never waits for anything would keep the event loop for itself.
    On exit it is cancelled and closed, and its cleanup has run.
    """

    def __init__(self, items: AsyncIterable[Item], encode: Callable[[Item], bytes]) -> None:
        self._items = items
        self._encode = encode
        self._pieces: list[bytes] = []
        self._size = 0
        self._turn_ends = 0.0
        self._news = asyncio.Event()
        self._taken = asyncio.Event()
        self._is_stopped = False
        self._failure_is_raised = False
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._produce())
        self._task.add_done_callback(lambda _: self._news.set())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        task = self._task
        if task is None:
            return
        task.cancel()
        await asyncio.wait({task})
        if not task.cancelled() and not self._failure_is_raised:
            task.result()  # raises what its cleanup has raised

    def stop(self) -> None:
        """Take no more of the items: the end comes after the pieces that there are, and the cleanup begins."""
        self._is_stopped = True
        self._news.set()
        if self._task is not None:
            self._task.cancel()

    async def wait(self, seconds: float | None = None) -> bool:
        """Wait until there is something to take or the end; False if neither comes within `seconds`."""
        try:
            async with asyncio.timeout(seconds):
                await self._news.wait()
        except TimeoutError:
            return False
        return True

    def take(self) -> bytes | None:
        """Every piece that there is, as one; None at the end. Raises what the items have raised in place of an end."""
        content = b"".join(self._pieces)
        self._pieces.clear()
        self._size = 0
        self._turn_ends = monotonic() + TURN_SECONDS
        self._taken.set()
        has_ended = self._is_stopped or self._task is None or self._task.done()
        if not has_ended:
            self._news.clear()
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
                piece = self._encode(item)
                self._pieces.append(piece)
                self._size += len(piece)
                self._news.set()
                if self._size >= BUFFER_BYTES or monotonic() >= self._turn_ends:
                    self._taken.clear()
                    await self._taken.wait()
        except (SystemExit, KeyboardInterrupt) as error:  # a library's; only a signal ends the process
            raise RuntimeError(f"the stream raised {type(error).__qualname__}") from error
        finally:
            close = getattr(self._items, "aclose", None)
            if close is not None:
                await close()
