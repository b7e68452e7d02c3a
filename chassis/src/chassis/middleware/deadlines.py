"""Deadlines for the start of responses."""

import asyncio
from time import monotonic

from prometheus_client import Counter

from ..request_info import RequestInfo
from ..response_sender import ResponseSender

MIN_DELAY_SECONDS = 0.05


# A request that has to respond: when it began, monotonic seconds; its response, and its facts. A plain tuple.
Due = tuple[float, ResponseSender, RequestInfo]


class Deadlines:
    """One timer for all requests: they end in the order in which they began, since all have the same time.

    The time in which a handler waits for the request's body does not count: a slow upload is not a slow handler, and
    has limits of its own. `timed_out` counts the requests that pass their deadline.
    """

    def __init__(self, seconds: float, timed_out: Counter | None = None) -> None:
        self._seconds = seconds
        self._timed_out = timed_out
        self._due: dict[asyncio.Task[object], Due] = {}
        self._uploads: dict[asyncio.Task[object], asyncio.TimerHandle] = {}
        """Those that have got more time, each with a timer of its own."""
        self._timer: asyncio.TimerHandle | None = None

    def set(self, task: asyncio.Task[object], sender: ResponseSender, info: RequestInfo) -> None:
        """Cancel `task` when its time is up, unless its response has started by then."""
        now = monotonic()
        info.deadline_at = now + self._seconds
        self._due[task] = (now, sender, info)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._seconds, self._cancel_overdue)

    def clear(self, task: asyncio.Task[object]) -> None:
        """The request of `task` has ended."""
        due = self._due.pop(task, None)
        if due is not None:
            due[2].deadline_at = None  # what continues without its client has no deadline
        elif self._uploads:
            timer = self._uploads.pop(task, None)
            if timer is not None:
                timer.cancel()

    def _cancel_overdue(self) -> None:
        now = monotonic()
        self._timer = None
        while self._due:
            task, due = next(iter(self._due.items()))
            remaining = due[0] + self._seconds - now
            if remaining > 0:
                self._timer = asyncio.get_running_loop().call_later(remaining, self._cancel_overdue)
                return
            del self._due[task]
            self._cancel(task, due)

    def _cancel(self, task: asyncio.Task[object], due: Due) -> None:
        """Cancel `task`, or give it the time that it has waited for its body."""
        self._uploads.pop(task, None)
        began, sender, info = due
        now = monotonic()
        if sender.status:
            return
        waited = info.upload_seconds + (0.0 if info.receiving_since is None else now - info.receiving_since)
        remaining = began + self._seconds + waited - now
        if remaining > 0 and waited > 0:
            delay = max(remaining, MIN_DELAY_SECONDS)
            self._uploads[task] = asyncio.get_running_loop().call_later(delay, self._cancel, task, due)
            return
        if self._timed_out is not None:
            self._timed_out.inc()
        info.timed_out_task = task
        task.cancel("deadline")
