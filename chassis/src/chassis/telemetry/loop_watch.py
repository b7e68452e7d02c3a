"""Watches whether the event loop gets to run: how late its timers are, and what holds it."""

import asyncio
import sys
import threading
import time
from pathlib import PurePath
from types import FrameType
from typing import Any

import structlog
from prometheus_client.metrics import Histogram

from ..context import RequestContext
from .observation import route_template

log = structlog.get_logger()

PERIOD_SECONDS = 0.25
LOOK_SECONDS = 0.1
BLOCKED_SECONDS = 0.5
FRAMES = 4


class LoopWatch:
    """Observes the lag of the event loop, and warns once each time that something holds it.

    Code that blocks for `BLOCKED_SECONDS` holds up every request and every probe. Afterwards nobody can
    tell which it was, so a thread looks at what the loop's thread is doing meanwhile. Requests pay nothing.
    """

    def __init__(self, lag: Histogram) -> None:
        self._lag = lag
        self._due = 0.0

    async def run(self) -> None:
        """Watch the loop that runs this until it is cancelled."""
        self._due = time.monotonic() + PERIOD_SECONDS
        stopped = threading.Event()
        looking = (threading.get_ident(), stopped)
        threading.Thread(target=self._look, args=looking, name="event loop watch", daemon=True).start()
        try:
            while True:
                await asyncio.sleep(PERIOD_SECONDS)
                now = time.monotonic()
                self._lag.observe(max(0.0, now - self._due))
                self._due = now + PERIOD_SECONDS
        finally:
            stopped.set()

    def _look(self, thread: int, stopped: threading.Event) -> None:
        warned_of = 0.0
        while not stopped.wait(LOOK_SECONDS):
            due = self._due
            late = time.monotonic() - due
            if late < BLOCKED_SECONDS or due == warned_of:
                continue
            frame = sys._current_frames().get(thread)
            # None of ours where it only waits for events: then the whole process had to stand still.
            if frame is not None and PurePath(frame.f_code.co_filename).parent.name != "asyncio":
                warned_of = due
                log.warning(
                    "event loop is blocked", late_seconds=round(late, 3), **_request_of(frame), at=_place(frame)
                )
            del frame  # or what it holds would live until the next one


def _request_of(frame: FrameType | None) -> dict[str, Any]:
    """Which request it is, from the frame of the middleware that observes it."""
    while frame is not None:
        request, scope = frame.f_locals.get("request"), frame.f_locals.get("scope")
        if isinstance(request, RequestContext) and isinstance(scope, dict):
            ids = {"request_id": request.request_id, "trace_id": request.trace_id}
            return {"method": scope.get("method", "GET"), "route": route_template(scope), **ids}
        frame = frame.f_back
    return {}


def _place(frame: FrameType | None) -> list[str]:
    """The innermost calls, the innermost first."""
    calls: list[str] = []
    while frame is not None and len(calls) < FRAMES:
        file = PurePath(frame.f_code.co_filename)
        calls.append(f"{file.parent.name}/{file.name}:{frame.f_lineno} {frame.f_code.co_qualname}")
        frame = frame.f_back
    return calls
