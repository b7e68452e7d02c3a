"""Deadlines for the start of responses."""

import asyncio
from math import inf
from time import monotonic

from prometheus_client import Counter

from ..request_info import CALLER_DEADLINE, NOT_BEGUN, OWN_DEADLINE, RequestInfo
from ..response_sender import ResponseSender

MIN_DELAY_SECONDS = 0.05
# The deadlines of callers are looked through at most this often, whatever clients send.
MIN_LOOK_SECONDS = 0.005
# A timer takes no longer delay: the caller may wait for ever.
MAX_DELAY_SECONDS = 3600.0

# A request that has to respond: monotonic seconds; its response, and its facts. A plain tuple.
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
        """With the times at which the requests began."""
        self._uploads: dict[asyncio.Task[object], asyncio.TimerHandle] = {}
        """Those that have got more time, each with a timer of its own."""
        self._timer: asyncio.TimerHandle | None = None

    def set(self, task: asyncio.Task[object], sender: ResponseSender, info: RequestInfo) -> None:
        """Cancel `task` when its time is up, unless its response has started by then."""
        now = monotonic()
        info.deadline_at = now + self._seconds
        info.response = sender
        self._due[task] = (now, sender, info)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._seconds, self._cancel_overdue)

    def clear(self, task: asyncio.Task[object]) -> None:
        """The request of `task` has ended."""
        if self._due.pop(task, None) is None and self._uploads:
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
        cancel(task, due, OWN_DEADLINE, self._timed_out)


class CallerDeadlines:
    """The deadlines that callers have handed on, each after a time of its own.

    There is one timer, for the earliest of them. Few pass, so all of them are looked through when it ends. The time of
    an upload counts here, because the caller waits for it too.
    """

    def __init__(self, timed_out: Counter | None = None) -> None:
        self._timed_out = timed_out
        self._due: dict[asyncio.Task[object], Due] = {}
        """With the times at which the callers give up."""
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = inf
        self._looked_at = 0.0

    def set(self, task: asyncio.Task[object], sender: ResponseSender, info: RequestInfo, at: float) -> None:
        """Cancel `task` at that time (monotonic seconds), unless its response has started by then."""
        info.caller_deadline_at = at
        self._due[task] = (at, sender, info)
        if at < self._timer_at:
            self._set_timer(at)

    def clear(self, task: asyncio.Task[object]) -> None:
        """The request of `task` has ended, or is not begun."""
        self._due.pop(task, None)

    def _set_timer(self, at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = at
        delay = max(at, self._looked_at + MIN_LOOK_SECONDS) - monotonic()
        self._timer = asyncio.get_running_loop().call_later(min(delay, MAX_DELAY_SECONDS), self._cancel_overdue)

    def _cancel_overdue(self) -> None:
        self._timer, self._timer_at = None, inf
        self._looked_at = now = monotonic()
        for task, due in [item for item in self._due.items() if item[1][0] <= now]:
            del self._due[task]
            cancel(task, due, NOT_BEGUN if due[2].is_queued else CALLER_DEADLINE, self._timed_out)
        if self._due:
            self._set_timer(min(due[0] for due in self._due.values()))


def cancel(task: asyncio.Task[object], due: Due, reason: str, timed_out: Counter | None) -> None:
    """Cancel `task`, and count that, unless its response has started, or the other deadline has cancelled it."""
    _, sender, info = due
    if sender.status or info.timed_out:
        return
    if timed_out is not None:
        timed_out.labels(reason).inc()
    info.timed_out = reason
    info.timed_out_task = task
    task.cancel("deadline")
