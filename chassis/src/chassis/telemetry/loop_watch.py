"""Watches the event loop: how late its timers are, and which code blocks it."""

import asyncio
import sys
import threading
import time
from collections.abc import Collection, Iterable
from pathlib import PurePath
from types import FrameType
from typing import Any

import structlog
from opentelemetry.context import Context
from prometheus_client import Histogram
from structlog.typing import FilteringBoundLogger

from ..context import RequestContext, request_context
from .observation import Observation
from .route_template import route_template
from .stacks import calls_of

log: FilteringBoundLogger = structlog.get_logger()

PERIOD_SECONDS = 0.25
CHECK_SECONDS = 0.1
BLOCKED_SECONDS = 0.5


class LoopWatch:
    """Observes the lag of the event loop, and logs one warning each time that it is blocked.

    Code that blocks for `BLOCKED_SECONDS` delays every request and every probe, and leaves no trace of the
    code. So a thread reads the stack of the loop's thread meanwhile. `active` are the observations of the requests in
    progress.
    """

    def __init__(self, lag: Histogram, active: Collection[Observation]) -> None:
        self._lag = lag
        self._active = active
        self._due = 0.0

    async def run(self) -> None:
        """Watch the loop that runs this until it is cancelled."""
        self._due = time.monotonic() + PERIOD_SECONDS
        stopped = threading.Event()
        arguments = (asyncio.get_running_loop(), threading.get_ident(), stopped)
        threading.Thread(target=self._watch, args=arguments, name="event loop watch", daemon=True).start()
        try:
            while True:
                await asyncio.sleep(PERIOD_SECONDS)
                now = time.monotonic()
                self._lag.observe(max(0.0, now - self._due))
                self._due = now + PERIOD_SECONDS
        finally:
            stopped.set()

    def _watch(self, loop: asyncio.AbstractEventLoop, thread: int, stopped: threading.Event) -> None:
        warned_of = 0.0
        while not stopped.wait(CHECK_SECONDS):
            due = self._due
            late = time.monotonic() - due
            if late < BLOCKED_SECONDS or due == warned_of:
                continue
            frame = sys._current_frames().get(thread)  # documented, in spite of its name
            # A loop that only waits for events has no frame of ours: then the whole process was suspended.
            if frame is not None and PurePath(frame.f_code.co_filename).parent.name != "asyncio":
                warned_of = due
                request = _facts(current_request(loop, frame, self._active))
                log.warning("event loop is blocked", late_seconds=round(late, 3), **request, at=calls_of(frame))
            del frame  # or its locals would live until the next one


def current_request(
    loop: asyncio.AbstractEventLoop, frame: FrameType | None, active: Collection[Observation]
) -> Observation | None:
    """The request whose code runs in `loop` right now; None if it runs no request. May be called in any thread.

    `frame` is the innermost of the loop's thread. From Python 3.12 on the request is found by the context variables
    of the task that runs, which tasks of the handler inherit. Before, a task's variables cannot be read from outside:
    the request is found by its observation, which the telemetry middleware holds in its frame.
    """
    if sys.version_info < (3, 12):
        return _observation_in(frame)
    task = asyncio.current_task(loop)
    context = request_of(task.get_context().values()) if task is not None else None
    # A copy, since requests come and go in the other thread.
    return next((observation for observation in list(active) if observation.context is context), None)


def request_of(values: Iterable[object]) -> RequestContext | None:
    """The request among the values of context variables."""
    contexts = (request_context(value) for value in values if isinstance(value, Context))
    return next((context for context in contexts if context is not None), None)


def _observation_in(frame: FrameType | None) -> Observation | None:
    while frame is not None:
        observation = observation_among(frame.f_locals.values())
        if observation is not None:
            return observation
        frame = frame.f_back
    return None


def observation_among(values: Iterable[object]) -> Observation | None:
    """The first observation among the values of variables."""
    return next((value for value in values if isinstance(value, Observation)), None)


def _facts(observation: Observation | None) -> dict[str, Any]:
    if observation is None:
        return {}
    scope, context = observation.scope, observation.context
    ids = {"request_id": context.request_id, "trace_id": context.trace_id}
    route = route_template(scope, observation.path, 0, observation.rules.find_route)
    return {"method": scope.get("method", "GET"), "route": route, **ids}
