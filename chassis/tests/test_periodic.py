"""Periodic work: its schedule and its failures."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pytest
import structlog
from opentelemetry import trace
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from chassis import IDLE, App, Idle, Server
from chassis.periodic import PeriodicTask
from chassis.periodic_options import PeriodicOptions
from chassis.schedules import Daily, Every, Schedule
from chassis.tasks import BackgroundTaskDownError

from .support.application import make_app
from .support.clock import ManualClock
from .support.service import Observed, Service, connect, observed, until

log = structlog.get_logger()


@pytest.fixture(autouse=True)
def _all_traces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_on")


@dataclass
class Periodic:
    """A running task, its clock, and its records."""

    task: PeriodicTask
    clock: ManualClock
    seen: Observed
    draining: asyncio.Event

    def sample(self, name: str) -> float | None:
        """The value of a metric of the task."""
        return self.seen.telemetry.metrics.registry.get_sample_value(name, {"task": self.task.name})


@asynccontextmanager
async def running(
    schedule: Schedule, work: Callable[[], object], clock: ManualClock | None = None, **options: Any
) -> AsyncIterator[Periodic]:
    """A periodic task without a service, in a time of its own."""
    clock = clock or ManualClock()
    chosen: PeriodicOptions = {"jitter": 0.0, "name": "task", **options}  # type: ignore[typeddict-item]
    with observed() as seen:
        draining = asyncio.Event()
        task = PeriodicTask(schedule, work, seen.telemetry, draining, chosen, clock=clock)
        loop = asyncio.create_task(task.run())
        try:
            yield Periodic(task, clock, seen, draining)
        finally:
            draining.set()
            await asyncio.wait_for(loop, 5)


@dataclass
class Work:
    """Fails as often as it should, and notes when it was called."""

    clock: ManualClock
    failures: int = 0
    at: list[float] = field(default_factory=list[float])

    async def run(self) -> None:
        self.at.append(self.clock.now)
        if len(self.at) <= self.failures:
            raise ConnectionRefusedError("no database")


async def test_work_runs_at_each_tick() -> None:
    clock = ManualClock(0.0)
    work = Work(clock)
    async with running(Every(10, first_after=4), work.run, clock):
        assert [await clock.sleep_over() for _ in range(3)] == [4, 10, 10]
        await until(lambda: len(work.at) == 3)
    assert work.at == [4, 14, 24]


async def test_work_begins_at_the_start_by_default() -> None:
    clock = ManualClock()
    work = Work(clock)
    async with running(Every(10), work.run, clock):
        await until(lambda: work.at)
    assert work.at == [clock.now]


async def test_daily_work_runs_at_its_time() -> None:
    clock = ManualClock(datetime(2026, 1, 31, 3, 0, tzinfo=UTC).timestamp())
    work = Work(clock)
    async with running(Daily("03:30"), work.run, clock):
        while len(work.at) < 2:
            assert await clock.sleep_over() <= 300
            await clock.wait_for_sleeper()
    times = [datetime.fromtimestamp(moment, UTC).isoformat() for moment in work.at]
    assert times == ["2026-01-31T03:30:00+00:00", "2026-02-01T03:30:00+00:00"]


async def test_daily_work_is_not_repeated_when_the_clock_is_set_back() -> None:
    clock = ManualClock(datetime(2026, 1, 31, 3, 29, tzinfo=UTC).timestamp())
    calls = 0

    async def work() -> None:
        nonlocal calls
        calls += 1
        clock.now -= 20

    async with running(Daily("03:30"), work, clock):
        await clock.sleep_over()
        await until(lambda: calls)
        for _ in range(3):
            await clock.sleep_over()
        await clock.wait_for_sleeper()
    assert calls == 1


async def test_runs_do_not_overlap_and_missed_ticks_are_skipped() -> None:
    clock = ManualClock(0.0)
    began, gate = list[float](), asyncio.Event()

    async def work() -> None:
        began.append(clock.now)
        await gate.wait()

    async with running(Every(10), work, clock):
        await until(lambda: began)
        clock.advance(37)
        gate.set()
        assert await clock.sleep_over() == 3
        await until(lambda: len(began) == 2)
    assert began == [0, 40]


async def test_jitter_delays_each_run_and_adds_up_to_nothing() -> None:
    clock = ManualClock(0.0)
    work = Work(clock)
    async with running(Every(10), work.run, clock, jitter=4.0):
        while len(work.at) < 20:
            await clock.sleep_over()
    late = [moment - 10 * number for number, moment in enumerate(work.at)]
    assert all(0 <= seconds <= 4 for seconds in late)
    assert max(late) - min(late) > 1


async def test_failure_is_logged_and_counted() -> None:
    clock = ManualClock()
    work = Work(clock, failures=1)
    async with running(Every(10), work.run, clock) as periodic:
        assert periodic.sample("periodic_task_failures_total") == 0
        (line,) = await until(lambda: periodic.seen.events("periodic task failed"))
        assert (line["task"], line["level"]) == ("task", "error")
        assert "ConnectionRefusedError: no database" in line["exception"]
        assert periodic.sample("periodic_task_failures_total") == 1
        assert periodic.sample("periodic_task_last_success_timestamp_seconds") is None
        assert line["retry_in_seconds"] == pytest.approx(await clock.wait_for_sleeper(), abs=0.001)


async def test_success_is_timed_and_logged() -> None:
    clock = ManualClock()

    async def work() -> None:
        clock.now += 2

    async with running(Every(10), work, clock) as periodic:
        (line,) = await until(lambda: periodic.seen.events("periodic task done"))
        assert (line["task"], line["duration_ms"]) == ("task", 2000)
        assert periodic.sample("periodic_task_last_success_timestamp_seconds") == clock.now
        assert periodic.sample("periodic_task_duration_seconds_count") == 1
        assert periodic.sample("periodic_task_duration_seconds_sum") == 2


async def retries(schedule: Schedule, count: int, clock: ManualClock) -> list[float]:
    """The delays after each of the first failures."""
    work = Work(clock, failures=count)
    async with running(schedule, work.run, clock):
        while not work.at:
            if isinstance(schedule, Daily):
                await clock.sleep_over()
            await asyncio.sleep(0)
        while len(work.at) <= count:
            await clock.sleep_over()
            await asyncio.sleep(0)
    return [after - before for before, after in zip(work.at, work.at[1:], strict=False)]


async def test_delays_grow_beyond_a_short_interval() -> None:
    delays = await retries(Every(4), 7, ManualClock(0.0))
    for delay, most in zip(delays, [4, 8, 16, 32, 60, 60, 60], strict=True):
        assert most / 2 <= delay <= most


async def test_long_interval_is_tried_again_before_its_next_tick() -> None:
    delays = await retries(Every(100), 3, ManualClock(0.0))
    for delay, most in zip(delays, [10, 20, 40], strict=True):
        assert most / 2 <= delay <= most


async def test_failed_day_is_tried_again_with_growing_delays_up_to_a_quarter_of_an_hour() -> None:
    delays = await retries(Daily("03:30"), 10, ManualClock(datetime(2026, 1, 31, 3, 29, tzinfo=UTC).timestamp()))
    for delay, most in zip(delays, [10, 20, 40, 80, 160, 320, 640, 900, 900, 900], strict=True):
        assert most / 2 <= delay <= most


async def test_success_after_failures_returns_to_the_ticks() -> None:
    clock = ManualClock(0.0)
    work = Work(clock, failures=2)
    async with running(Every(100), work.run, clock) as periodic:
        for _ in range(3):
            await clock.sleep_over()
            await asyncio.sleep(0)
        await until(lambda: len(work.at) == 4)
        assert work.at[3] == 100
        await periodic.task.check()


async def test_failure_is_a_failed_check_until_the_next_success() -> None:
    clock = ManualClock()
    work = Work(clock, failures=1)
    async with running(Every(10), work.run, clock) as periodic:
        await periodic.task.check()
        await until(lambda: periodic.seen.events("periodic task failed"))
        with pytest.raises(BackgroundTaskDownError, match="task"):
            await periodic.task.check()
        await clock.sleep_over()
        await until(lambda: periodic.seen.events("periodic task done"))
        await periodic.task.check()


async def test_run_has_a_span_and_its_log_lines_have_the_ids() -> None:
    async def work() -> None:
        log.info("inside")

    async with running(Every(10), work) as periodic:
        (done,) = await until(lambda: periodic.seen.events("periodic task done"))
        (inside,) = periodic.seen.events("inside")
        (span,) = periodic.seen.spans
        assert (span.name, span.kind, span.parent) == ("task", SpanKind.INTERNAL, None)
        assert span.context is not None
        for line in (inside, done):
            assert (line["trace_id"], line["span_id"]) == (
                f"{span.context.trace_id:032x}",
                f"{span.context.span_id:016x}",
            )
            assert "request_id" not in line


async def test_spans_of_the_work_are_children_of_the_run() -> None:
    async def work() -> None:
        with periodics[0].seen.telemetry.tracing.provider.get_tracer("test").start_as_current_span("child"):
            await asyncio.sleep(0)

    periodics: list[Periodic] = []
    async with running(Every(10, first_after=1), work) as periodic:
        periodics.append(periodic)
        await periodic.clock.sleep_over()
        spans = await until(lambda: found if len(found := periodic.seen.spans) == 2 else [])
        child, run = spans
        assert child.parent == run.context


async def test_failed_run_has_a_span_of_an_error() -> None:
    clock = ManualClock()
    async with running(Every(10), Work(clock, failures=1).run, clock) as periodic:
        (line,) = await until(lambda: periodic.seen.events("periodic task failed"))
        (span,) = periodic.seen.spans
        assert span.status.status_code is StatusCode.ERROR
        assert span.attributes is not None
        assert span.attributes["error.type"] == "ConnectionRefusedError"
        assert [event.name for event in span.events] == ["exception"]
        assert span.context is not None
        assert line["trace_id"] == f"{span.context.trace_id:032x}"


@pytest.mark.parametrize("sampler", ["always_off", None])
async def test_runs_are_sampled_like_other_roots(monkeypatch: pytest.MonkeyPatch, sampler: str | None) -> None:
    if sampler is None:
        monkeypatch.delenv("OTEL_TRACES_SAMPLER")
    else:
        monkeypatch.setenv("OTEL_TRACES_SAMPLER", sampler)
    is_recording = list[bool]()

    async def work() -> None:
        is_recording.append(trace.get_current_span().is_recording())
        log.info("inside")

    clock = ManualClock()
    async with running(Every(10), work, clock) as periodic:
        for _ in range(500):
            await clock.sleep_over()
        await until(lambda: len(is_recording) > 500)
        lines = periodic.seen.events("inside")
        assert all(len(line["trace_id"]) == 32 for line in lines)
        assert len({line["trace_id"] for line in lines}) == len(lines)
        # One in a hundred: of 500, more than 25 has a probability of one in 10 million.
        assert sum(is_recording) <= (25 if sampler is None else 0)
        assert len(periodic.seen.spans) == sum(is_recording)


async def test_idle_run_has_no_span_and_no_line() -> None:
    clock = ManualClock()
    polls = 0

    async def poll() -> Idle | None:
        nonlocal polls
        polls += 1
        return IDLE if polls < 3 else None

    async with running(Every(10), poll, clock) as periodic:
        for expected in (1, 2):
            await until(lambda: polls == expected)  # noqa: B023 - awaited at once
            await clock.wait_for_sleeper()
            assert (periodic.seen.spans, periodic.seen.lines) == ([], [])
            assert periodic.sample("periodic_task_last_success_timestamp_seconds") == clock.now
            assert periodic.sample("periodic_task_duration_seconds_count") == 0
            await clock.sleep_over()
        await until(lambda: periodic.seen.events("periodic task done"))
        assert len(periodic.seen.spans) == 1


async def test_def_runs_in_a_thread_with_the_ids_of_the_run() -> None:
    def work() -> Idle:
        threads.append(threading.current_thread())
        log.info("inside")
        return IDLE

    threads: list[threading.Thread] = []
    async with running(Every(10), work) as periodic:
        (line,) = await until(lambda: periodic.seen.events("inside"))
        assert len(line["trace_id"]) == 32
        await until(lambda: periodic.sample("periodic_task_last_success_timestamp_seconds"))
        assert periodic.seen.spans == []
    assert threads[0] is not threading.main_thread()


async def test_def_that_returns_a_coroutine_is_awaited() -> None:
    done = asyncio.Event()

    async def set_done() -> None:
        done.set()

    async with running(Every(10), lambda: set_done()):  # noqa: PLW0108 - the case
        await asyncio.wait_for(done.wait(), 5)


async def test_run_that_takes_too_long_is_cancelled_and_has_failed() -> None:
    cleaned = asyncio.Event()

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cleaned.set()

    async with running(Every(10), work, timeout=0.02) as periodic:
        (line,) = await until(lambda: periodic.seen.events("periodic task failed"))
        assert "the run took longer than its timeout of 0.02 seconds" in line["exception"]
        assert cleaned.is_set()


async def test_def_that_takes_too_long_has_failed_and_does_not_overlap_with_the_next_run() -> None:
    gate, began = threading.Event(), list[int]()

    def work() -> None:
        began.append(1)
        if len(began) == 1:
            gate.wait(10)

    async with running(Every(10), work, timeout=0.02) as periodic:
        await until(lambda: periodic.seen.events("periodic task failed"))
        periodic.clock.advance(1000)
        await asyncio.sleep(0.05)  # in which it must not begin
        assert len(began) == 1
        gate.set()
        await until(lambda: len(began) == 2)


async def test_timeout_error_of_the_work_is_its_own() -> None:
    async def work() -> None:
        raise TimeoutError("of the database")

    async with running(Every(10), work) as periodic:
        (line,) = await until(lambda: periodic.seen.events("periodic task failed"))
        assert "of the database" in line["exception"]


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), asyncio.CancelledError()])
async def test_any_exception_of_the_work_is_its_failure(error: BaseException) -> None:
    async def work() -> None:
        raise error

    async with running(Every(10), work) as periodic:
        (line,) = await until(lambda: periodic.seen.events("periodic task failed"))
        assert type(error).__name__ in line["exception"]


async def test_names_come_from_the_function() -> None:
    with observed() as seen:
        work = Work(ManualClock())
        task = PeriodicTask(Every(1), work.run, seen.telemetry, asyncio.Event(), {})
        assert task.name == "Work.run"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "", "jitter": 0}, "name="),
        ({"name": "task", "jitter": 11}, "jitter is 11; pass a number of seconds, from 0 to 10"),
        ({"name": "task", "timeout": -1}, "timeout is -1"),
        ({"name": "task", "timeout": 0}, "above 0"),
    ],
)
async def test_invalid_options_are_an_error(options: PeriodicOptions, message: str) -> None:
    with observed() as seen, pytest.raises(ValueError, match=message):
        PeriodicTask(Every(10), lambda: None, seen.telemetry, asyncio.Event(), options)


# In a service.


@asynccontextmanager
async def with_periodic(add: Callable[[App], None], **settings: Any) -> AsyncIterator[Service]:
    """A service with periodic work."""
    with observed() as seen:
        app = make_app(seen.telemetry, **{"shutdown_seconds": 5.0} | settings)
        add(app)
        async with Server(app) as server, connect(server.port) as client:
            yield Service(app, server, client, seen)


async def test_service_runs_it_and_shows_it_in_its_metrics() -> None:
    calls = list[int]()

    async def count() -> None:
        calls.append(1)

    def add(app: App) -> None:
        app.every(0.05, count, name="count", jitter=0.0)
        app.daily("03:30", count, name="count daily", timezone="Europe/Berlin")

    async with with_periodic(add) as service:
        await until(lambda: len(calls) >= 3)
        assert await service.sample("periodic_task_duration_seconds_count", task="count") >= 3
        assert await service.sample("periodic_task_last_success_timestamp_seconds", task="count") > 1e9
        assert await service.sample("periodic_task_failures_total", task="count daily") == 0
        assert await service.sample("background_tasks", task="count") == 1


async def test_required_work_that_fails_makes_the_service_unready() -> None:
    gate = asyncio.Event()

    async def work() -> None:
        if not gate.is_set():
            raise ConnectionRefusedError

    async with with_periodic(lambda app: app.every(0.1, work, name="work", required=True)) as service:
        await until(lambda: service.seen.events("periodic task failed"))
        response = await service.client.get("/readyz")
        assert response.status_code == 503
        assert response.json()["checks"]["periodic task work"]["status"] == "fail"
        gate.set()
        await until(lambda: service.seen.events("periodic task done"))
        assert (await service.client.get("/readyz")).status_code == 200


async def test_run_in_progress_is_completed_at_the_shutdown_and_none_begins() -> None:
    began, gate, ended = asyncio.Event(), asyncio.Event(), list[int]()

    async def work() -> None:
        began.set()
        await gate.wait()
        ended.append(1)

    async with with_periodic(lambda app: app.every(0.01, work, name="work")) as service:
        await began.wait()
        service.server.stop()
        await service.app.draining.wait()
        gate.set()
    assert ended == [1]


async def test_run_that_does_not_end_is_cancelled_at_the_end_of_the_shutdown() -> None:
    began, cleaned = asyncio.Event(), asyncio.Event()

    async def work() -> None:
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            cleaned.set()

    async with with_periodic(lambda app: app.every(1, work, name="work"), shutdown_seconds=0.2) as service:
        await began.wait()
        service.server.stop()
        (line,) = await until(lambda: service.seen.events("background tasks cancelled at shutdown"))
        assert line["tasks"] == ["work"]
    assert cleaned.is_set()


async def test_work_that_waits_does_not_delay_the_shutdown() -> None:
    async with asyncio.timeout(4):
        async with with_periodic(lambda app: app.daily("03:30", lambda: None, name="work"), shutdown_seconds=60.0):
            pass


async def test_two_tasks_of_one_name_are_an_error() -> None:
    with observed() as seen:
        app = make_app(seen.telemetry)
        app.every(1, lambda: None, name="work")
        with pytest.raises(ValueError, match="'work'"):
            app.daily("03:30", lambda: None, name="work")


async def test_processors_of_the_sdk_get_the_spans_of_runs() -> None:
    exporter = InMemorySpanExporter()

    def add(app: App) -> None:
        app.telemetry.tracing.add_processor(SimpleSpanProcessor(exporter))
        app.every(60, asyncio.Event().is_set, name="look", jitter=0.0)

    async with with_periodic(add):
        await until(exporter.get_finished_spans)
    assert [span.name for span in exporter.get_finished_spans()] == ["look"]
