"""Liveness and readiness."""

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from chassis import Check, Server
from chassis.delivery import UnavailableError
from chassis.health import Health, State

from .support.application import make_app
from .support.service import connect, observed, serve, until


class Probe:
    """A dependency that responds as configured, and counts its calls."""

    def __init__(self) -> None:
        self.asked = 0
        self.error: BaseException | None = None
        self.gate = asyncio.Event()
        self.gate.set()

    async def __call__(self) -> None:
        self.asked += 1
        await self.gate.wait()
        if self.error is not None:
            raise self.error


async def never() -> None:
    """Hangs until it is cancelled."""
    await asyncio.Event().wait()


def health(*checks: Check, cache_seconds: float = 0.0) -> Health:
    """The health of a service that has started."""
    made = Health(checks, cache_seconds=cache_seconds)
    made.state = State.READY
    return made


async def ask(asked: Health) -> tuple[bool, dict[str, str]]:
    """Whether it is ready, and the status of each check."""
    ready, document = await asked.report()
    return ready, {name: one["status"] for name, one in document["checks"].items()}


async def test_liveness_runs_no_check() -> None:
    probe = Probe()
    probe.error = RuntimeError()
    async with serve(checks=[Check("database", probe)]) as service:
        response = await service.client.get("/healthz")
    assert (response.status_code, response.json(), probe.asked) == (200, {"status": "alive"}, 0)


async def test_ready_without_checks() -> None:
    async with serve() as service:
        response = await service.client.get("/readyz")
    assert (response.status_code, response.json()) == (200, {"status": "ready", "checks": {}})


async def test_report_has_status_duration_and_age() -> None:
    async with serve(checks=[Check("database", Probe())]) as service:
        check = (await service.client.get("/readyz")).json()["checks"]["database"]
    assert set(check) == {"status", "required", "duration_seconds", "age_seconds"}
    assert (check["status"], check["required"]) == ("pass", True)
    assert 0 <= check["duration_seconds"] < 1
    assert 0 <= check["age_seconds"] < 1


async def test_failing_check_is_503_without_the_error_text() -> None:
    probe = Probe()
    probe.error = RuntimeError("postgres://user:password@db")
    async with serve(checks=[Check("database", probe), Check("queue", Probe())]) as service:
        response = await service.client.get("/readyz")
    assert response.status_code == 503
    assert response.json()["status"] == "failing"
    assert response.json()["checks"]["database"]["error"] == "RuntimeError"
    assert "postgres" not in response.text


async def test_metric_of_readiness_has_the_last_results_and_runs_no_check() -> None:
    database, mail = Probe(), Probe()
    database.error = mail.error = RuntimeError()
    checks = [Check("database", database), Check("mail", mail, required=False)]
    async with serve(checks=checks, readiness_cache_seconds=0) as service:
        assert await service.sample("service_ready") == 1
        assert database.asked == 0
        await service.client.get("/readyz")
        assert await service.sample("service_ready") == 0
        database.error = None
        await service.client.get("/readyz")
        assert await service.sample("service_ready") == 1
        assert await service.sample("readiness_check_passed", check="database") == 1
        assert await service.sample("readiness_check_passed", check="mail") == 0
        assert database.asked == 2


async def test_metric_of_readiness_is_0_while_the_service_drains() -> None:
    async with serve() as service:
        service.app.begin_draining()
        assert await service.sample("service_ready") == 0


async def test_check_that_is_not_required_is_only_shown() -> None:
    probe = Probe()
    probe.error = RuntimeError()
    assert await ask(health(Check("mail", probe, required=False))) == (True, {"mail": "fail"})


async def test_check_is_timed_out() -> None:
    asked = health(Check("database", never, timeout=0.02), Check("queue", Probe()))
    assert await ask(asked) == (False, {"database": "timeout", "queue": "pass"})


async def test_checks_run_at_the_same_time() -> None:
    meeting = asyncio.Barrier(3)

    async def meet() -> None:
        await meeting.wait()

    assert (await ask(health(*(Check(name, meet, timeout=5) for name in "abc"))))[0]


@pytest.mark.parametrize(("cache_seconds", "times"), [(60, 1), (0, 5)])
async def test_result_is_cached(cache_seconds: float, times: int) -> None:
    probe = Probe()
    asked = health(Check("database", probe), cache_seconds=cache_seconds)
    for _ in range(5):
        await ask(asked)
    assert probe.asked == times


async def test_storm_of_probes_runs_a_check_once() -> None:
    probe = Probe()
    probe.gate.clear()
    async with serve(checks=[Check("database", probe, timeout=5)], readiness_cache_seconds=60) as service:
        storm = [asyncio.create_task(service.client.get("/readyz")) for _ in range(20)]
        await service.under_way(20)
        probe.gate.set()
        assert [response.status_code for response in await asyncio.gather(*storm)] == [200] * 20
    assert probe.asked == 1


async def test_probe_that_disconnects_does_not_stop_the_check_for_others() -> None:
    probe = Probe()
    probe.gate.clear()
    asked = health(Check("database", probe, timeout=5))
    impatient, patient = (asyncio.create_task(ask(asked)) for _ in range(2))
    await until(lambda: probe.asked)
    impatient.cancel()
    probe.gate.set()
    assert (await patient)[0]


async def test_check_that_ignores_its_cancellation_is_not_started_twice() -> None:
    release = asyncio.Event()
    begun = 0

    async def stubborn() -> None:
        nonlocal begun
        begun += 1
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                continue

    asked = health(Check("database", stubborn, timeout=0.02))
    for _ in range(3):
        assert await ask(asked) == (False, {"database": "timeout"})
    assert begun == 1
    release.set()
    assert await ask(asked) == (True, {"database": "pass"})


async def test_check_that_blocks_runs_in_a_thread_once() -> None:
    release = threading.Event()
    begun = 0

    def blocking() -> None:
        nonlocal begun
        begun += 1
        assert threading.current_thread() is not threading.main_thread()
        release.wait(30)

    asked = health(Check("database", blocking, timeout=0.02))
    for _ in range(3):
        assert await ask(asked) == (False, {"database": "timeout"})
    assert begun == 1
    release.set()
    await until(lambda: not threads_of_checks())
    assert await ask(asked) == (True, {"database": "pass"})
    assert begun <= 2


def threads_of_checks() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "check"]


async def test_check_in_a_thread_fails_by_raising() -> None:
    def failing() -> None:
        raise OSError("no route")

    assert await ask(health(Check("database", failing))) == (False, {"database": "fail"})


RAISED = [StopIteration, SystemExit, KeyboardInterrupt, GeneratorExit, asyncio.CancelledError, BaseException]


@pytest.mark.parametrize("error", RAISED)
async def test_check_in_a_thread_may_raise_anything_again_and_again(error: type[BaseException]) -> None:
    def failing() -> None:
        raise error("the reason")

    asked = health(Check("database", failing))
    with observed() as seen:
        for _ in range(2):
            assert await ask(asked) == (False, {"database": "fail"})
        (line,) = await until(lambda: seen.events("check changed"))
    assert f"{error.__name__}: the reason" in line["exception"]


async def test_function_that_returns_an_awaitable_is_awaited() -> None:
    probe = Probe()

    def ask_later() -> Awaitable[None]:
        return probe()

    asked = health(Check("database", ask_later))
    assert await ask(asked) == (True, {"database": "pass"})
    probe.error = OSError("no route")
    assert await ask(asked) == (False, {"database": "fail"})
    assert probe.asked == 2


@pytest.mark.parametrize(
    "error",
    [RuntimeError("x"), ExceptionGroup("x", [OSError()]), asyncio.CancelledError(), SystemExit(), KeyboardInterrupt()],
)
async def test_check_may_raise_any_exception(error: BaseException) -> None:
    probe = Probe()
    probe.error = error  # a pool that is closed cancels whoever waits for it
    asked = health(Check("database", probe))
    for _ in range(2):
        assert await ask(asked) == (False, {"database": "fail"})


async def test_change_is_logged_once_with_its_error() -> None:
    probe = Probe()
    asked = health(Check("database", probe))
    with observed() as seen:
        for error in (None, RuntimeError("no route"), RuntimeError("no route"), None, None):
            probe.error = error
            await ask(asked)
        await until(lambda: seen.lines)
        lines = seen.events("check changed")
    assert [(line["level"], line["check"], line["status"]) for line in lines] == [
        ("warning", "database", "fail"),
        ("info", "database", "pass"),
    ]
    assert "no route" in lines[0]["exception"]


class StrangeError(Exception):
    """An error of a library."""


@pytest.mark.parametrize(
    "cause", [ConnectionRefusedError("no route"), TimeoutError("too slow"), UnavailableError("down")]
)
async def test_unavailable_dependency_is_logged_in_one_line(cause: Exception) -> None:
    async def failing() -> None:
        raise StrangeError("it failed") from cause

    async def failing_itself() -> None:
        raise cause

    asked = health(Check("first", failing), Check("second", failing_itself))
    with observed() as seen:
        await ask(asked)
        lines = await until(lambda: seen.events("check changed"))
    assert [line["reason"] for line in lines] == ["StrangeError: it failed", f"{type(cause).__name__}: {cause}"]
    assert not any("exception" in line for line in lines)


async def test_draining_is_503_while_the_checks_pass() -> None:
    async with serve(checks=[Check("database", Probe())], drain_seconds=0.3) as service:
        service.server.stop()
        await until(lambda: service.seen.events("draining"))
        response = await service.client.get("/readyz")
        assert (response.status_code, response.json()["status"]) == (503, "draining")
        assert (await service.client.get("/healthz")).status_code == 200


async def test_check_runs_for_the_first_time_when_the_service_has_started() -> None:
    """Before, what it asks is not open yet: it would fail, and the failure would be cached for a while."""
    gate = asyncio.Event()
    opened: list[str] = []

    @asynccontextmanager
    async def slow() -> AsyncIterator[None]:
        await gate.wait()
        opened.append("database")
        yield

    with observed() as seen:
        app = make_app(seen.telemetry, resources=[slow()], checks=[Check("database", lambda: opened[0])])
        server = Server(app)
        serving = asyncio.create_task(server.serve())
        await until(lambda: seen.events("listening"))
        async with connect(server.port) as client:
            response = await client.get("/readyz")
            assert (response.status_code, response.json()) == (503, {"status": "starting", "checks": {}})
            gate.set()
            await until(lambda: seen.events("ready"))
            assert (await client.get("/readyz")).status_code == 200
        server.stop(drain=False)
        await serving
        assert not seen.events("check changed")


async def test_starting_is_503_while_the_process_is_alive() -> None:
    gate = asyncio.Event()

    @asynccontextmanager
    async def slow() -> AsyncIterator[None]:
        await gate.wait()
        yield

    with observed() as seen:
        server = Server(make_app(seen.telemetry, resources=[slow()]))
        serving = asyncio.create_task(server.serve())
        await until(lambda: seen.events("listening"))
        async with connect(server.port) as client:
            assert (await client.get("/healthz")).status_code == 200
            response = await client.get("/readyz")
            assert (response.status_code, response.json()["status"]) == (503, "starting")
            response = await client.get("/docs")
            assert (response.status_code, response.headers["retry-after"]) == (503, "1")
            assert response.headers["content-type"] == "application/problem+json"
            gate.set()
            await until(lambda: seen.events("ready"))
            assert (await client.get("/readyz")).status_code == 200
            assert (await client.get("/docs")).status_code == 200
        server.stop(drain=False)
        await serving


def test_two_checks_of_one_name_are_rejected() -> None:
    probe: Callable[[], Awaitable[object]] = never
    with pytest.raises(ValueError, match="two checks have the name 'database'"):
        Health([Check("database", probe), Check("database", probe)])
