"""The last requests that are kept for operators: which ones, and the bounds of the memory they take."""

import time
from typing import Any

from starlette.types import Message

from chassis.context import RequestContext
from chassis.request_info import RequestInfo
from chassis.response_sender import ResponseSender
from chassis.telemetry.observation import Observation
from chassis.telemetry.recent_requests import MAX_FAILED, MAX_RECENT, MAX_SLOW, RecentRequests


async def send(_message: Message) -> None:
    """Takes a response."""


def add(
    recent: RecentRequests,
    *,
    at: float | None = None,
    seconds: float = 0.01,
    status: int = 200,
    path: str = "/",
    route: str = "/",
    facts: dict[str, Any] | None = None,
    error: type[BaseException] | None = None,
    subject: str | None = None,
) -> None:
    info = RequestInfo()
    info.error, info.subject = error, subject
    context = RequestContext("a" * 32, "b" * 16, "", False)
    observation = Observation({"client": ("192.0.2.1", 1)}, path, "GET", info, context, ResponseSender(send), 0)
    observation.seconds = seconds
    recent.add(observation, time.time() if at is None else at, status, route, 0, 0, facts)


def test_last_requests_are_kept_the_newest_first() -> None:
    recent = RecentRequests()
    for number in range(MAX_RECENT + 5):
        add(recent, path=f"/{number}")
    paths = [record.path for record in recent.recent()]
    assert (len(paths), paths[0], paths[-1]) == (MAX_RECENT, f"/{MAX_RECENT + 4}", "/5")


def test_slowest_of_each_minute_are_kept() -> None:
    recent, now = RecentRequests(), time.time()
    for minute in (3, 2, 1):
        for number in range(MAX_SLOW * 2):
            add(recent, at=now - 60 * minute + number / 1000, seconds=number / 1000, path=f"/{minute}/{number}")
    slow = recent.slow()
    assert len(slow) == MAX_SLOW * 3
    assert {record.seconds for record in slow} == {number / 1000 for number in range(MAX_SLOW, MAX_SLOW * 2)}
    assert [record.seconds for record in slow] == sorted((record.seconds for record in slow), reverse=True)


def test_slow_requests_of_long_ago_are_not_shown() -> None:
    recent, now = RecentRequests(), time.time()
    add(recent, at=now - 400, seconds=9)
    add(recent, at=now, seconds=1)
    assert [record.seconds for record in recent.slow()] == [1]


def test_fast_request_is_among_the_slowest_of_a_new_minute() -> None:
    recent, now = RecentRequests(), time.time()
    for _ in range(MAX_SLOW):
        add(recent, at=now - 61, seconds=5)
    add(recent, at=now, seconds=0.001)
    assert recent.slow()[-1].seconds == 0.001


def test_websocket_is_not_slow() -> None:
    recent = RecentRequests()
    add(recent, status=101, seconds=3600)
    assert recent.slow() == []


def test_failed_requests_are_those_from_500_and_those_with_an_exception() -> None:
    recent = RecentRequests()
    for status, error in ((200, None), (404, None), (500, ValueError), (503, None), (200, KeyError)):
        add(recent, status=status, error=error)
    assert [(record.status, record.error) for record in recent.failed()] == [
        (200, "KeyError"),
        (503, None),
        (500, "ValueError"),
    ]
    for _ in range(MAX_FAILED * 2):
        add(recent, status=500)
    assert len(recent.failed()) == MAX_FAILED


def test_requests_that_were_shed_do_not_replace_failures() -> None:
    recent = RecentRequests()
    add(recent, status=500)
    add(recent, status=503, route="/orders")
    for status in (501, 503):
        add(recent, status=status, route="unmatched")
    assert [record.status for record in recent.failed()] == [503, 500]
    assert len(recent.recent()) == 4


def test_texts_of_clients_and_facts_are_bounded() -> None:
    recent = RecentRequests()
    error = type("E" * 1000, (Exception,), {})
    add(recent, path="/" + "x" * 10_000, subject="s" * 1000, error=error, facts={"fact": "y" * 10_000})
    document = recent.recent()[0].document()
    assert (len(document["path"]), len(document["subject"]), len(document["error"])) == (300, 300, 300)
    assert document["facts"] == {"dropped": "the facts are too large to be kept"}


def test_facts_keep_no_objects_alive() -> None:
    recent = RecentRequests()
    facts = {"items": [1, 2]}
    add(recent, facts=facts)
    facts["items"].append(3)
    assert recent.recent()[0].document()["facts"] == {"items": [1, 2]}
