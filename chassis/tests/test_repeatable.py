"""A method that is declared safe to repeat is called again after a `RepeatableError`."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from chassis import Handler, RepeatableError, Route, Server, repeatable

from .support.application import make_app
from .support.service import Service, connect, observed, serve


class Conflicting(Handler):
    """Has a conflict for some calls."""

    def __init__(self, conflicts: int) -> None:
        self.calls = 0
        self.conflicts = conflicts

    def _call(self) -> int:
        self.calls += 1
        if self.calls <= self.conflicts:
            raise RepeatableError("in the way of another")
        return self.calls

    async def get(self) -> int:
        return self._call()

    @repeatable
    async def post(self, body: dict[str, int]) -> int:
        assert body == {"a": 1}
        return self._call()

    @repeatable(attempts=2)
    def put(self) -> int:
        return self._call()


async def send(service: Service, method: str, **given: Any) -> int:
    return (await service.client.request(method, "/", **given)).status_code


@pytest.mark.parametrize(
    ("method", "conflicts", "status", "calls"),
    [("GET", 1, 500, 1), ("POST", 0, 200, 1), ("POST", 2, 200, 3), ("POST", 3, 500, 3), ("PUT", 1, 200, 2)],
)
async def test_call_is_repeated(method: str, conflicts: int, status: int, calls: int) -> None:
    handler = Conflicting(conflicts)
    given: dict[str, Any] = {"json": {"a": 1}} if method == "POST" else {}
    async with serve(Route("/", handler)) as service:
        assert await send(service, method, **given) == status
    assert handler.calls == calls


async def test_each_attempt_has_new_dependencies_whose_cleanup_may_fail() -> None:
    made: list[int] = []

    class Unit:
        """What a dependency makes."""

    async def units() -> AsyncIterator[Unit]:
        made.append(len(made))
        yield Unit()
        if len(made) < 3:
            raise RepeatableError("at the commit")

    class Use(Handler):
        @repeatable
        async def post(self, unit: Unit) -> int:
            return len(made)

    with observed() as seen:
        app = make_app(seen.telemetry, Route("/", Use()))
        app.provide(Unit, units)
        async with Server(app) as server, connect(server.port) as client:
            assert (await client.post("/")).json() == 3
        assert [line["attempt"] for line in seen.events("request is handled again")] == [1, 2]
    assert made == [0, 1, 2]


def test_number_of_attempts_is_checked() -> None:
    with pytest.raises(ValueError, match="attempts is 0; it must be 1 or more"):
        repeatable(attempts=0)


def test_streamed_body_cannot_be_repeated() -> None:
    class Upload(Handler):
        @repeatable
        async def post(self, body: AsyncIterator[bytes]) -> None: ...

    with pytest.raises(TypeError, match=r"Upload.post cannot be @repeatable: its body is streamed"):
        Route("/", Upload())
