"""`/profile/heap`: the memory that is allocated during the profile, and not freed."""

import asyncio
import tracemalloc
from pathlib import PurePath
from typing import Annotated, Any

from pydantic import Field
from starlette.requests import Request

from ..api.handler import Handler
from ..problem import Problem
from ..threads import in_thread
from .access import client_of
from .audit import Audit
from .profiling import Profiling, Seconds

FRAMES = 5
IGNORED = (tracemalloc.__file__, "<frozen importlib._bootstrap>", "<unknown>")


class HeapProfile(Handler):
    """Traces allocations with tracemalloc. Meanwhile small requests cost about six times the CPU."""

    def __init__(self, profiling: Profiling, audit: Audit) -> None:
        self._profiling = profiling
        self._audit = audit

    async def post(
        self, request: Request, seconds: Seconds = 10.0, limit: Annotated[int, Field(ge=1, le=1000)] = 50
    ) -> list[dict[str, Any]]:
        """The places with the most bytes, with their callers."""
        with self._profiling.alone():
            if tracemalloc.is_tracing():
                raise Problem(409, "tracemalloc runs already in this process; unset PYTHONTRACEMALLOC.")
            tracemalloc.start(FRAMES)
            try:
                self._audit.changed("the heap profiler", by=client_of(request.scope), seconds=seconds)
                await self._profiling.wait(seconds)
                snapshot = tracemalloc.take_snapshot()
            finally:
                tracemalloc.stop()
            return await asyncio.wrap_future(in_thread(lambda: largest(snapshot, limit), name="profile"))


def largest(snapshot: tracemalloc.Snapshot, limit: int) -> list[dict[str, Any]]:
    """The places with the most bytes, the largest first; the frames of each, the innermost first."""
    filters = [tracemalloc.Filter(False, name) for name in IGNORED]
    statistics = snapshot.filter_traces(filters).statistics("traceback")[:limit]
    return [
        {
            "size_bytes": statistic.size,
            "count": statistic.count,
            "at": [_call_of(frame) for frame in reversed(statistic.traceback)],
        }
        for statistic in statistics
    ]


def _call_of(frame: tracemalloc.Frame) -> str:
    file = PurePath(frame.filename)
    return f"{file.parent.name}/{file.name}:{frame.lineno}"
