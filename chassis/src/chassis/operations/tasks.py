"""`/tasks` and `/threads`: each with the innermost calls of its stack."""

import asyncio
import sys
import threading
from collections.abc import Collection
from typing import Annotated, Any

from pydantic import Field

from ..api.handler import Handler
from ..telemetry.loop_watch import observation_among, request_of
from ..telemetry.observation import Observation
from ..telemetry.route_template import route_template
from ..telemetry.stacks import calls_of, frames_of, waiting_calls

MAX_TASKS = 2000
FRAMES = 12
UNNAMED = "Task-"  # and a number that grows: the name that asyncio gives


class Tasks(Handler):
    """The tasks of the event loop: requests in progress, background tasks, and those of libraries."""

    def __init__(self, active: Collection[Observation]) -> None:
        """`active` are the observations of the requests in progress."""
        self._active = active

    async def get(self, limit: Annotated[int, Field(ge=1, le=MAX_TASKS)] = 200) -> list[dict[str, Any]]:
        """Those with a name of their own come first, then the oldest: they are the ones that may hang."""
        by_context = {id(observation.context): observation for observation in self._active}
        tasks = sorted(asyncio.all_tasks(), key=_order)
        return [_document(task, by_context) for task in tasks[:limit]]


def _order(task: asyncio.Task[Any]) -> tuple[int, str]:
    name = task.get_name()
    number = name.removeprefix(UNNAMED)
    return (int(number), "") if number != name and number.isdecimal() else (0, name)


def _document(task: asyncio.Task[Any], by_context: dict[int, Observation]) -> dict[str, Any]:
    frames = frames_of(task.get_coro())
    if sys.version_info >= (3, 12):
        observation = by_context.get(id(request_of(task.get_context().values())))
    else:
        observation = observation_among(value for frame in frames for value in frame.f_locals.values())
    document = {"name": task.get_name(), "at": waiting_calls(frames, FRAMES), "method": None, "route": None}
    document |= {"request_id": None, "trace_id": None}
    if observation is not None:
        scope, context = observation.scope, observation.context
        route = route_template(scope, observation.path, 0, observation.rules.find_route)
        document |= {"method": observation.method, "route": route}
        document |= {"request_id": context.request_id, "trace_id": context.trace_id}
    return document


class Threads(Handler):
    """The threads of the process."""

    async def get(self) -> list[dict[str, Any]]:
        frames = sys._current_frames()  # documented, in spite of its name
        main = threading.main_thread()
        return [
            {
                "name": thread.name,
                "id": thread.native_id,
                "is_main": thread is main,
                "is_daemon": thread.daemon,
                "at": calls_of(frames.get(thread.ident or 0), FRAMES),
            }
            for thread in sorted(threading.enumerate(), key=lambda thread: (thread is not main, thread.name))
        ]
