"""The time in which responses have to start."""

import asyncio
from time import monotonic

from prometheus_client import Counter

from ..request_info import RequestInfo
from ..response_sender import ResponseSender


class Deadlines:
    """One timer for all requests: they end in the order in which they began, since all have the same time.

    `timed_out` counts the requests that pass their deadline.
    """

    def __init__(self, seconds: float, timed_out: Counter | None = None) -> None:
        self._seconds = seconds
        self._timed_out = timed_out
        self._due: dict[asyncio.Task[object], tuple[float, ResponseSender, RequestInfo]] = {}
        self._timer: asyncio.TimerHandle | None = None

    def set(self, task: asyncio.Task[object], sender: ResponseSender, info: RequestInfo) -> None:
        """Cancel `task` when its time is up, unless its response has started by then."""
        self._due[task] = (monotonic() + self._seconds, sender, info)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._seconds, self._cancel_overdue)

    def clear(self, task: asyncio.Task[object]) -> None:
        """The request of `task` has ended."""
        self._due.pop(task, None)

    def _cancel_overdue(self) -> None:
        now = monotonic()
        self._timer = None
        while self._due:
            task, (due, sender, info) = next(iter(self._due.items()))
            if due > now:
                self._timer = asyncio.get_running_loop().call_later(due - now, self._cancel_overdue)
                return
            del self._due[task]
            if not sender.status:
                if self._timed_out is not None:
                    self._timed_out.inc()
                info.timed_out_task = task
                task.cancel("deadline")
