"""`RequestTasks`: background tasks of a request, which start when its work is committed."""

from collections.abc import Coroutine
from typing import Any, Protocol


class Start(Protocol):
    """Starts a background task, as `Tasks.start` does."""

    def __call__(self, work: Coroutine[Any, Any, object], *, name: str) -> None: ...


class RequestTasks:
    """Background tasks that start after the request, if it succeeds. Every app provides it.

        async def post(self, body: NewOrder, store: OrderStore, tasks: RequestTasks) -> Order:
            ...
            tasks.start(confirm(order), name="confirm order")

    They start when the method has returned and its dependencies have exited, so after the commit of its transaction.
    If the method or the commit fails, they do not start. If the process ends in between, they are lost: use an outbox
    for what must not be lost.
    """

    def __init__(self, start: Start) -> None:
        self._start = start
        self._waiting: list[tuple[Coroutine[Any, Any, object], str]] = []

    def start(self, work: Coroutine[Any, Any, object], *, name: str) -> None:
        """Run `work` in the background after the request. `name` is a label of metrics: name the type of work."""
        self._waiting.append((work, name))

    def begin(self) -> None:
        """Start the tasks. The chassis calls it."""
        waiting, self._waiting = self._waiting, []
        for work, name in waiting:
            self._start(work, name=name)

    def discard(self) -> None:
        """Drop the tasks. The chassis calls it when the request has failed."""
        waiting, self._waiting = self._waiting, []
        for work, _ in waiting:
            work.close()  # avoids Python's warning about a coroutine that was never awaited
