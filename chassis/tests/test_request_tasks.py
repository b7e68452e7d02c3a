"""Background tasks of a request: they start when its transaction is committed, and only then."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from chassis import App, ChassisSettings, Handler, Problem, RequestTasks
from chassis.testing import connect

from .support.application import TEST_SETTINGS


class Session:
    """A session that commits at the end of the request."""


class Orders(Handler):
    """Starts a task, and ends as it is asked to."""

    def __init__(self, events: list[str]) -> None:
        self._events = events

    async def post(self, end: str, tasks: RequestTasks, session: Session) -> str:
        tasks.start(self._confirm(), name="confirm")
        await asyncio.sleep(0)
        self._events.append("method has returned")
        if end == "problem":
            raise Problem(409)
        return end

    async def _confirm(self) -> None:
        self._events.append("task")


@pytest.mark.parametrize(
    ("end", "status", "events"),
    [
        ("well", 200, ["method has returned", "commit", "task"]),
        ("problem", 409, ["method has returned"]),
        ("commit fails", 500, ["method has returned", "commit"]),
    ],
)
async def test_task_starts_after_the_commit_and_only_if_it_succeeds(end: str, status: int, events: list[str]) -> None:
    seen: list[str] = []

    async def session() -> AsyncIterator[Session]:
        yield Session()
        seen.append("commit")
        if end == "commit fails":
            raise ValueError(end)

    app = App(ChassisSettings.from_values(**TEST_SETTINGS), name="orders")
    app.add_route("/orders", Orders(seen))
    app.provide(Session, session)
    async with connect(app) as client:
        response = await client.post("/orders", params={"end": end})
        await app.tasks.stop(1)
    assert (response.status_code, seen) == (status, events)
