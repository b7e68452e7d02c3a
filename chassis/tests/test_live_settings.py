"""Limits, the log level and clients that change while the service runs."""

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import structlog
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route as StarletteRoute

from chassis import App, ChassisSettings, Handler, Live, RateLimit, Route, Server, load_settings
from chassis.client import ClientSettings
from chassis.client.testing import FakeService
from chassis.configuration import changed_files, reloading
from chassis.middleware.load_shedder import LoadShedder
from chassis.testing import record
from chassis.threads import Threads

from .support.secret_volume import SecretVolume
from .support.service import Service, connect, exchange, observed, until

log = structlog.get_logger()
DEFAULTS = {"APP_HOST": "127.0.0.1", "APP_PORT": "0", "APP_DRAIN_SECONDS": "0"}


class Settings(ChassisSettings):
    """Settings of a service."""

    greeting: Live[str] = "Hello"
    supplier: ClientSettings = ClientSettings(base_url="http://supplier")


class Echo(Handler):
    """Waits, and responds with the size of the body."""

    async def get(self, seconds: float = 0.0) -> str:
        await asyncio.sleep(seconds)
        log.debug("echo")
        return "done"

    async def post(self, request: Request) -> int:
        return len(await request.body())


class Blocking(Handler):
    """Blocks its thread until it is released."""

    def __init__(self) -> None:
        self.released = threading.Event()

    def get(self) -> str:
        self.released.wait(10)
        return "done"


async def _plain(_: Request) -> PlainTextResponse:
    return PlainTextResponse("plain")


class Reloaded:
    """A service, and the files of its settings."""

    def __init__(self, service: Service, volume: SecretVolume, blocking: Blocking) -> None:
        self.service = service
        self.app = service.app
        self.client = service.client
        self.blocking = blocking
        self._volume = volume

    async def write(self, **files: object) -> None:
        """Replace all files, and let the service read them."""
        self._volume.write(**{f"app_{name}": str(value) for name, value in files.items()})
        await self.app.refresh_settings()

    async def status(self, path: str = "/echo", **options: Any) -> int:
        return (await self.client.get(path, **options)).status_code


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(changed_files, "SETTLE_SECONDS", 0.0)


@pytest.fixture
def volume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SecretVolume:
    """The files of settings, none at first."""
    monkeypatch.setenv("APP_SECRETS_DIR", str(tmp_path / "secrets"))
    for name, text in DEFAULTS.items():
        monkeypatch.setenv(name, text)
    return SecretVolume(tmp_path / "secrets")


@asynccontextmanager
async def serve(volume: SecretVolume, **files: object) -> AsyncIterator[Reloaded]:
    """A service whose settings begin with `files`."""
    volume.write(**{f"app_{name}": str(value) for name, value in files.items()})
    settings = load_settings(Settings)
    blocking = Blocking()
    with observed(level=settings.log_level) as seen:
        app = App(settings, name="test-service", version="1.2.3", telemetry=seen.telemetry)
        app.add_routes(Route("/echo", Echo()), Route("/blocking", blocking), StarletteRoute("/plain", _plain))
        app.add_route("/limited", Echo(), rate_limit=RateLimit(100, 1.0, name="own"))
        async with Server(app) as server, connect(server.port) as client:
            try:
                yield Reloaded(Service(app, server, client, seen), volume, blocking)
            finally:
                blocking.released.set()


async def test_log_level_changes(volume: SecretVolume) -> None:
    async with serve(volume) as reloaded:
        await reloaded.status()
        await reloaded.write(log_level="debug")
        await reloaded.status()
        assert len(reloaded.service.seen.events("echo")) == 1
        await reloaded.write(log_level="ERROR", greeting="Hi")
        count = len(reloaded.service.seen.lines)
        await reloaded.status()
        assert len(reloaded.service.seen.lines) == count


async def test_level_that_someone_has_set_stays_while_the_setting_does(volume: SecretVolume) -> None:
    async with serve(volume) as reloaded:
        reloaded.app.telemetry.logs.set_level("debug")
        await reloaded.write(greeting="Hi")
        await reloaded.status()
        assert reloaded.service.seen.events("echo")


async def test_size_of_bodies_changes(volume: SecretVolume) -> None:
    async with serve(volume, max_body_bytes=10) as reloaded:
        assert (await reloaded.client.post("/echo", content=b"x" * 20)).status_code == 413
        await reloaded.write(max_body_bytes=20)
        assert (await reloaded.client.post("/echo", content=b"x" * 20)).status_code == 200


async def test_deadline_changes_for_requests_that_begin_later(volume: SecretVolume) -> None:
    async with serve(volume) as reloaded:
        early = asyncio.create_task(reloaded.status(params={"seconds": 0.5}))
        await reloaded.service.under_way(1)
        await reloaded.write(deadline_seconds=0.05)
        assert await reloaded.status(params={"seconds": 5}) == 504
        assert await early == 200


async def test_number_of_requests_in_flight_changes_and_is_removed(volume: SecretVolume) -> None:
    async with serve(volume, max_requests=1) as reloaded:
        first = asyncio.create_task(reloaded.status(params={"seconds": 0.5}))
        await reloaded.service.under_way(1)
        assert await reloaded.status() == 503
        await reloaded.write(max_requests=2)
        assert await reloaded.status() == 200
        await reloaded.write(max_requests=1)
        assert await reloaded.status() == 503
        await reloaded.write()
        assert await reloaded.status() == 200
        assert await reloaded.service.sample("http_server_max_requests") == 0
        assert await first == 200


async def test_load_shedder_of_the_owner_keeps_its_limits(volume: SecretVolume) -> None:
    with observed() as seen:
        app = App(
            load_settings(Settings), telemetry=seen.telemetry, load_shedder=LoadShedder(7, seen.telemetry.metrics)
        )
        await app.open()
        volume.write(app_max_requests="3")
        await app.refresh_settings()
        assert app.settings.max_requests == 3
        assert app.registry.get_sample_value("http_server_max_requests") == 7
        await app.tasks.stop(1.0)
        await app.close()


async def test_rate_limit_changes_on_all_routes(volume: SecretVolume) -> None:
    async with serve(volume, rate_limit_requests=1, rate_limit_seconds=3600) as reloaded:
        assert await reloaded.status() == 200
        for path in ("/echo", "/plain", "/limited"):
            assert await reloaded.status(path) == 429
        await reloaded.write(rate_limit_requests=1_000_000, rate_limit_seconds=1, rate_limit_burst=1000)
        for path in ("/echo", "/plain", "/limited"):
            response = await reloaded.client.get(path)
            assert response.status_code == 200
            assert '"default";q=1000;w=1' in response.headers["ratelimit-policy"]
        await reloaded.write(rate_limit_requests=1, rate_limit_seconds=3600)
        await reloaded.status()
        assert await reloaded.status() == 429


async def test_first_rate_limit_needs_a_restart(volume: SecretVolume) -> None:
    async with serve(volume) as reloaded:
        await reloaded.write(rate_limit_requests=1, rate_limit_seconds=3600)
        (line,) = reloaded.service.seen.events("setting changed; restart the service to apply it")
        assert line["variable"] == "APP_RATE_LIMIT_REQUESTS"
        assert [await reloaded.status() for _ in range(2)] == [200, 200]


async def test_limits_of_connections_change_for_new_ones(volume: SecretVolume) -> None:
    request = b"GET /" + b"x" * 100 + b" HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
    async with serve(volume) as reloaded:
        port = reloaded.service.server.port
        assert (await exchange(port, request)).startswith(b"HTTP/1.1 404")
        await reloaded.write(max_target_bytes=50, keep_alive_seconds=1)
        assert (await exchange(port, request)).startswith(b"HTTP/1.1 414")


async def test_more_threads_begin_what_waits(volume: SecretVolume) -> None:
    async with serve(volume, threads=1) as reloaded:
        requests = [asyncio.create_task(reloaded.status("/blocking")) for _ in range(2)]
        threads = reloaded.app.threads
        await until(lambda: threads.in_use == 1)
        await reloaded.service.under_way(2)
        await reloaded.write(threads=2)
        await until(lambda: threads.in_use == 2)
        reloaded.blocking.released.set()
        assert await asyncio.gather(*requests) == [200, 200]
        assert await reloaded.service.sample("handler_threads_max") == 2


class Jobs:
    """Functions that run until they are released, each by its number."""

    def __init__(self, threads: Threads) -> None:
        self.running = set[int]()
        self._threads = threads
        self._released = [threading.Event() for _ in range(9)]

    def start(self, number: int) -> asyncio.Task[None]:
        return asyncio.create_task(self._threads.run(lambda: self._run(number)))

    def release(self, number: int) -> None:
        self._released[number].set()

    def _run(self, number: int) -> None:
        self.running.add(number)
        self._released[number].wait(10)
        self.running.remove(number)


async def test_fewer_threads_begin_what_waits_when_enough_have_ended() -> None:
    threads = Threads(3, wait_seconds=10.0)
    jobs = Jobs(threads)
    tasks = [jobs.start(number) for number in range(4)]
    await until(lambda: jobs.running == {0, 1, 2})
    threads.resize(1)
    for number, in_use in ((0, 2), (1, 1)):
        jobs.release(number)
        await tasks[number]
        await until(lambda in_use=in_use: threads.in_use == in_use)  # type: ignore[misc]
        assert jobs.running == {2} | {1} - {number}
    jobs.release(2)
    await until(lambda: jobs.running == {3})
    jobs.release(3)
    await asyncio.gather(*tasks)


async def test_idle_threads_beyond_the_size_are_not_used() -> None:
    threads = Threads(2, wait_seconds=10.0)
    jobs = Jobs(threads)
    tasks = [jobs.start(number) for number in range(2)]
    await until(lambda: jobs.running == {0, 1})
    for number in range(2):
        jobs.release(number)
    await asyncio.gather(*tasks)
    await until(lambda: threads.in_use == 0)
    threads.resize(1)
    tasks = [jobs.start(number) for number in (2, 3)]
    await until(lambda: jobs.running)
    assert (jobs.running, threads.in_use) == ({2}, 1)
    for number in (2, 3):
        jobs.release(number)
    await asyncio.gather(*tasks)


# Clients of other services.


async def test_client_uses_changed_settings(volume: SecretVolume) -> None:
    settings = load_settings(Settings)
    app = App(settings)
    supplier = app.client("supplier", settings.supplier)
    fake = FakeService()
    supplier.use(fake)
    await app.open()
    volume.write(
        app_supplier__timeout_seconds="0.5", app_supplier__max_in_progress="3", app_supplier__base_url="http://x"
    )
    with record(app) as records:
        await app.refresh_settings()
        (changed,) = records.events("settings changed")
        assert changed["variables"] == ["APP_SUPPLIER__TIMEOUT_SECONDS", "APP_SUPPLIER__MAX_IN_PROGRESS"]
        (restart,) = records.events("setting changed; restart the service to apply it")
        assert restart["variable"] == "APP_SUPPLIER__BASE_URL"
        assert records.metric("dependency_max_calls") == 3
    assert supplier.settings.timeout_seconds == 0.5
    await app.tasks.stop(1.0)
    await app.close()


# Owners.


async def test_callbacks_get_the_settings_before_and_after(volume: SecretVolume) -> None:
    seen: list[tuple[str, str]] = []
    app = App(load_settings(Settings))

    def fail(_before: Settings, _after: Settings) -> None:
        raise RuntimeError("no")

    async def note(before: Settings, after: Settings) -> None:
        await asyncio.sleep(0)
        seen.append((before.greeting, after.greeting))

    app.on_settings_change(fail)
    app.on_settings_change(note)
    with record(app) as records:
        await app.open()
        for greeting in ("Hi", "Hey"):
            volume.write(app_greeting=greeting)
            await app.refresh_settings()
        await app.tasks.stop(1.0)
        await app.close()
        lines = records.events("changed settings were not applied by a callback; restart the service")
    assert seen == [("Hello", "Hi"), ("Hi", "Hey")]
    assert len(lines) == 2
    assert lines[0]["callback"].endswith("fail")
    assert isinstance(app.settings, Settings)
    assert app.settings.greeting == "Hey"


async def test_callback_is_added_before_the_start(volume: SecretVolume) -> None:
    app = App(load_settings(Settings))
    await app.open()
    with pytest.raises(RuntimeError, match="the application has started"):
        app.on_settings_change(print)
    await app.tasks.stop(1.0)
    await app.close()


async def test_service_looks_by_itself(volume: SecretVolume, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reloading, "POLL_SECONDS", 0.01)
    app = App(load_settings(Settings))
    changed = asyncio.Event()
    app.on_settings_change(lambda _before, _after: changed.set())
    await app.open()
    volume.write(app_greeting="Hi")
    async with asyncio.timeout(5.0):
        await changed.wait()
    await app.tasks.stop(1.0)
    await app.close()


@pytest.mark.parametrize("from_values", [False, True])
async def test_nothing_runs_without_a_directory_of_secrets(
    from_values: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chassis.configuration.sources.DEFAULT_SECRETS_DIR", str(tmp_path / "nowhere"))
    app = App(Settings.from_values() if from_values else load_settings(Settings))
    await app.open()
    assert "settings watch" not in [task.get_name() for task in asyncio.all_tasks()]
    await app.tasks.stop(1.0)
    await app.close()
