"""When periodic work is due."""

import asyncio
from datetime import UTC, datetime, time, timedelta, timezone
from itertools import pairwise

import pytest

from chassis.schedules import Clock, Daily, Every

BERLIN = "Europe/Berlin"


def utc(text: str) -> float:
    """Seconds since the epoch of a time in UTC."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


def ticks(daily: Daily, begin: str, count: int) -> list[str]:
    """The next ticks after a moment, in UTC."""
    moment, found = utc(begin), list[str]()
    for _ in range(count):
        moment = daily.next(moment)
        found.append(datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%d %H:%M"))
    return found


def test_interval_is_counted_from_the_first_tick() -> None:
    every = Every(10, first_after=3)
    assert every.begin(100) == 103
    assert every.next(103) == 113
    assert every.next(104.5) == 113


def test_missed_ticks_are_skipped() -> None:
    every = Every(10)
    every.begin(100)
    assert every.next(147) == 150


def test_day_has_one_tick() -> None:
    assert ticks(Daily("03:30"), "2026-01-31 03:29", 3) == ["2026-01-31 03:30", "2026-02-01 03:30", "2026-02-02 03:30"]


def test_tick_is_after_the_moment() -> None:
    assert ticks(Daily(time(3, 30)), "2026-01-31 03:30", 1) == ["2026-02-01 03:30"]


def test_time_of_day_is_that_of_the_time_zone() -> None:
    daily = Daily("03:30", BERLIN)
    assert ticks(daily, "2026-03-27 12:00", 3) == ["2026-03-28 02:30", "2026-03-29 01:30", "2026-03-30 01:30"]


def test_time_zone_may_be_an_object() -> None:
    assert ticks(Daily("03:30", timezone(timedelta(hours=2))), "2026-01-01 00:00", 1) == ["2026-01-01 01:30"]


def test_skipped_time_is_later_by_the_skipped_hour() -> None:
    # 2026-03-29 goes from 02:00 to 03:00; 01:30 in UTC is 03:30.
    daily = Daily("02:30", BERLIN)
    assert ticks(daily, "2026-03-28 12:00", 2) == ["2026-03-29 01:30", "2026-03-30 00:30"]


def test_time_that_occurs_twice_counts_the_first_time() -> None:
    # On 2026-10-25 02:30 is 00:30 and 01:30 in UTC.
    daily = Daily(time(2, 30, fold=1), BERLIN)
    assert ticks(daily, "2026-10-24 12:00", 2) == ["2026-10-25 00:30", "2026-10-26 01:30"]
    assert ticks(daily, "2026-10-25 00:45", 1) == ["2026-10-26 01:30"]


def test_day_that_a_time_zone_skips_has_no_tick_of_its_own() -> None:
    # Samoa had no 2011-12-30.
    daily = Daily("03:30", "Pacific/Apia")
    assert ticks(daily, "2011-12-29 00:00", 3) == ["2011-12-29 13:30", "2011-12-30 13:30", "2011-12-31 13:30"]


@pytest.mark.parametrize("at", ["00:00", "01:30", "02:00", "02:30", "03:00", "23:59"])
@pytest.mark.parametrize("zone", [BERLIN, "America/New_York", "Australia/Lord_Howe", "UTC"])
def test_every_day_of_a_year_has_one_tick(zone: str, at: str) -> None:
    daily = Daily(at, zone)
    moment, found = utc("2026-01-01 12:00"), list[float]()
    for _ in range(365):
        moment = daily.next(moment)
        found.append(moment)
    assert all(22 * 3600 <= after - before <= 26 * 3600 for before, after in pairwise(found))
    assert abs(found[-1] - utc("2027-01-01 12:00")) <= 86_400


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Every(0), "seconds above 0"),
        (lambda: Every(float("inf")), "seconds above 0"),
        (lambda: Every(1, first_after=-1), "first_after is -1"),
        (lambda: Daily("half past three"), 'pass "03:30"'),
        (lambda: Daily(time(3, 30, tzinfo=UTC)), "timezone="),
        (lambda: Daily("03:30", "Europe/Atlantis"), "Europe/Atlantis"),
    ],
)
def test_invalid_schedule_is_an_error(make: object, message: str) -> None:
    assert callable(make)
    with pytest.raises(ValueError, match=message):
        make()


async def test_clock_does_not_sleep_when_the_event_is_set() -> None:
    event = asyncio.Event()
    event.set()
    async with asyncio.timeout(5):
        await Clock().sleep(3600, event)


async def test_clock_sleeps_no_longer_than_requested() -> None:
    async with asyncio.timeout(5):
        await Clock().sleep(0.01, asyncio.Event())
