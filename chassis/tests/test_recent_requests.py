"""The last requests that are kept for operators: which ones, and the bounds of the memory they take."""

import time
from typing import Any

import orjson

from chassis.telemetry.recent_requests import MAX_FAILED, MAX_LINE_BYTES, MAX_RECENT, MAX_SLOW, RecentRequests


def add(
    recent: RecentRequests,
    *,
    at: float | None = None,
    seconds: float = 0.01,
    status: int = 200,
    is_failed: bool = False,
    is_stream: bool = False,
    **members: Any,
) -> None:
    """Add a request with an access line of these members."""
    line: dict[str, Any] = {"event": "request", "level": "info", "route": "/", "path": "/", "status": status}
    line |= {"duration_ms": seconds * 1000, "client": "192.0.2.1", **members}
    recent.add(orjson.dumps(line), time.time() if at is None else at, seconds, is_failed, is_stream)


def test_last_requests_are_kept_the_newest_first() -> None:
    recent = RecentRequests()
    for number in range(MAX_RECENT + 5):
        add(recent, path=f"/{number}")
    paths = [request["path"] for request in recent.recent()]
    assert (len(paths), paths[0], paths[-1]) == (MAX_RECENT, f"/{MAX_RECENT + 4}", "/5")


def test_slowest_of_each_minute_are_kept() -> None:
    recent, now = RecentRequests(), time.time()
    for minute in (3, 2, 1):
        for number in range(MAX_SLOW * 2):
            add(recent, at=now - 60 * minute + number / 1000, seconds=number / 1000, path=f"/{minute}/{number}")
    slow = [request["duration_ms"] / 1000 for request in recent.slow()]
    assert len(slow) == MAX_SLOW * 3
    assert set(slow) == {number / 1000 for number in range(MAX_SLOW, MAX_SLOW * 2)}
    assert slow == sorted(slow, reverse=True)


def test_slow_requests_of_long_ago_are_not_shown() -> None:
    recent, now = RecentRequests(), time.time()
    add(recent, at=now - 400, seconds=9)
    add(recent, at=now, seconds=1)
    assert [request["duration_ms"] for request in recent.slow()] == [1000]


def test_fast_request_is_among_the_slowest_of_a_new_minute() -> None:
    recent, now = RecentRequests(), time.time()
    for _ in range(MAX_SLOW):
        add(recent, at=now - 61, seconds=5)
    add(recent, at=now, seconds=0.001)
    assert [*recent.slow()][-1]["duration_ms"] == 1


def test_websocket_is_not_slow() -> None:
    recent = RecentRequests()
    add(recent, status=101, seconds=3600, is_stream=True)
    assert [*recent.slow()] == []


def test_failed_requests_are_kept_apart() -> None:
    recent = RecentRequests()
    for number in range(MAX_FAILED * 2):
        add(recent, status=500, is_failed=True, number=number)
        add(recent)
    numbers = [request["facts"]["number"] for request in recent.failed()]
    assert numbers == [*range(MAX_FAILED * 2 - 1, MAX_FAILED - 1, -1)]


def test_long_line_is_shortened() -> None:
    recent = RecentRequests()
    add(recent, path="/" + "x" * 10_000, subject="s" * 1000, fact="y" * 10_000)
    (document,) = recent.recent()
    assert (len(document["path"]), len(document["subject"]), document["status"]) == (300, 300, 200)
    assert document["facts"] == {"dropped": "the facts are too large to be kept"}
    assert len(orjson.dumps(document)) < MAX_LINE_BYTES


def test_facts_of_the_owner_are_apart() -> None:
    recent = RecentRequests()
    add(recent, user_id=7, worker=1, status_="new")
    (document,) = recent.recent()
    assert document["facts"] == {"user_id": 7, "status_": "new"}
    assert not {"user_id", "worker", "level", "event"} & document.keys()
