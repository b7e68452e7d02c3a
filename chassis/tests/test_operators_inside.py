"""The inside of a service, as operators see it: settings, routes, tasks, threads, memory and profiles."""

import asyncio
import subprocess
import sys
import time
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from chassis import Handler, Route
from chassis.operations.cpu_profile import MAX_SAMPLES, MIN_INTERVAL_SECONDS
from chassis.operations.profiling import MAX_SECONDS

from .support.service import SAMPLED, TRACE_ID, Service, connect, serve, until

TOKEN = "a-token-of-many-characters"  # noqa: S105 - of these tests


class Held(Handler):
    """Waits until it may respond."""

    def __init__(self) -> None:
        self.may_end = asyncio.Event()

    async def get(self) -> str:
        await self._wait()
        return "done"

    async def _wait(self) -> None:
        await self.may_end.wait()


class Busy(Handler):
    """Computes, and keeps memory."""

    def __init__(self) -> None:
        self.kept: list[bytes] = []

    async def get(self) -> int:
        return burn()

    async def put(self) -> None:
        self.kept.append(bytes(3_000_000))


def burn() -> int:
    until_then = time.perf_counter() + 0.02
    count = 0
    while time.perf_counter() < until_then:
        count += step(count)
    return count


def step(count: int) -> int:
    return 1 if count >= 0 else 0


@asynccontextmanager
async def inside(**app: Any) -> AsyncIterator[tuple[Service, httpx.AsyncClient, Held]]:
    """A service, a client of its admin port, and a handler that waits."""
    held = Held()
    routes = [Route("/held", held), Route("/busy", Busy())]
    async with serve(*routes, **{"admin_port": 0} | app) as service, connect(service.server.admin_port or 0) as admin:
        yield service, admin, held


@pytest.fixture(scope="module")
async def admin() -> AsyncIterator[httpx.AsyncClient]:
    async with inside() as (_, client, _held):
        yield client


async def get(client: httpx.AsyncClient, path: str, **options: Any) -> Any:
    response = await client.get(path, **options)
    assert response.status_code == 200, response.text
    return response.json()


@pytest.mark.parametrize("path", ["/settings", "/routes", "/tasks", "/threads", "/gc"])
async def test_each_is_an_array_of_objects(admin: httpx.AsyncClient, path: str) -> None:
    document = await get(admin, path)
    assert isinstance(document, list)
    assert document
    assert all(isinstance(item, dict) for item in document)
    assert (await admin.post(path)).status_code == 405


async def test_settings_have_their_sources_and_no_secrets() -> None:
    async with inside(admin_token=TOKEN) as (_, admin, _held):
        response = await admin.get("/settings", headers={"authorization": f"Bearer {TOKEN}"})
        settings = {setting["variable"]: setting for setting in response.json()}
        assert TOKEN not in response.text
        assert (settings["APP_ADMIN_TOKEN"]["value"], settings["APP_ADMIN_TOKEN"]["is_secret"]) == ("[secret]", True)
        assert (settings["APP_KEEP_ALIVE_SECONDS"]["value"], settings["APP_KEEP_ALIVE_SECONDS"]["source"]) == (
            "75",
            "default",
        )
        assert (settings["APP_MAX_BODY_BYTES"]["value"], settings["APP_MAX_BODY_BYTES"]["is_live"]) == ("100000", True)


async def test_token_that_changes_counts_from_then_on() -> None:
    async with inside(admin_token=TOKEN) as (service, admin, _held):
        before = service.app.settings
        after = before.model_copy(update={"admin_token": SecretStr("another-token-of-characters")})
        service.app.operations.use_settings(before, after)
        old, new = {"authorization": f"Bearer {TOKEN}"}, {"authorization": "Bearer another-token-of-characters"}
        assert (await admin.get("/gc", headers=old)).status_code == 401
        assert (await admin.get("/gc", headers=new)).status_code == 200


async def test_routes_are_those_of_the_public_port(admin: httpx.AsyncClient) -> None:
    routes = {(route["method"], route["path"]) for route in await get(admin, "/routes")}
    assert {("GET", "/held"), ("GET", "/busy"), ("PUT", "/busy"), ("GET", "/docs")} <= routes


async def test_task_of_a_request_shows_where_it_waits_and_its_trace() -> None:
    async with inside() as (service, admin, held):
        request = asyncio.create_task(service.client.get("/held", headers=SAMPLED))
        await service.under_way(1)
        (task,) = [task for task in await get(admin, "/tasks") if task["route"] == "/held"]
        assert (task["method"], task["trace_id"]) == ("GET", TRACE_ID)
        stands = next(index for index, call in enumerate(task["at"]) if call.endswith(" Held._wait"))
        assert task["at"][stands + 1].endswith(" Held.get")
        assert "test_operators_inside.py:" in task["at"][stands]
        assert len(await get(admin, "/tasks?limit=1")) == 1
        held.may_end.set()
        await request


async def test_tasks_with_names_come_first_and_then_the_oldest(admin: httpx.AsyncClient) -> None:
    end = asyncio.Event()
    tasks = [asyncio.create_task(end.wait()) for _ in range(210)]
    tasks.append(asyncio.create_task(end.wait(), name="reindex"))
    names = [task["name"] for task in await get(admin, "/tasks")]
    numbers = [int(name.removeprefix("Task-")) for name in names if name.startswith("Task-")]
    end.set()
    await asyncio.gather(*tasks)
    assert "reindex" in names
    assert numbers == sorted(numbers)
    assert max(numbers) < int(tasks[-2].get_name().removeprefix("Task-"))


async def test_threads_show_their_calls_with_the_main_one_first(admin: httpx.AsyncClient) -> None:
    main, *others = await get(admin, "/threads")
    assert (main["is_main"], main["name"]) == (True, "MainThread")
    assert any("Threads.get" in call for call in main["at"])
    assert any(thread["name"] == "event loop watch" and thread["is_daemon"] for thread in others)


async def test_garbage_collector_has_three_generations(admin: httpx.AsyncClient) -> None:
    (statistics,) = await get(admin, "/gc")
    assert len(statistics["generations"]) == 3
    assert {"count", "threshold", "collections", "collected", "uncollectable"} == set(statistics["generations"][0])
    assert statistics["resident_bytes"] > 10_000_000


async def load(service: Service, ends: asyncio.Event, method: str = "GET") -> None:
    while not ends.is_set():
        await service.client.request(method, "/busy")


@pytest.mark.parametrize(
    ("format", "media_type", "words"),
    [
        ("text", "text/plain", ["burn", "Busy.get"]),
        ("html", "text/html", ["<html", "burn"]),
        ("speedscope", "application/json", ["speedscope.app/file-format-schema.json", "burn"]),
    ],
)
async def test_cpu_profile_names_the_function_that_computes(format: str, media_type: str, words: list[str]) -> None:  # noqa: A002
    async with inside() as (service, admin, _held):
        ends = asyncio.Event()
        busy = asyncio.create_task(load(service, ends))
        response = await admin.post(f"/profile/cpu?seconds=0.5&format={format}")
        ends.set()
        await busy
        assert (response.status_code, response.headers["content-type"].partition(";")[0]) == (200, media_type)
        assert all(word in response.text for word in words)
        assert sys.getprofile() is None
        (line,) = service.seen.events("operator changed the CPU profiler")
        assert (line["by"], line["seconds"]) == ("127.0.0.1", 0.5)


async def test_heap_profile_names_the_line_that_keeps_memory() -> None:
    async with inside() as (service, admin, _held):
        profile = asyncio.create_task(admin.post("/profile/heap?seconds=1&limit=3"))
        await until(lambda: service.seen.events("operator changed the heap profiler"))
        await service.client.put("/busy")
        response = await profile
        largest = response.json()[0]
        assert largest["size_bytes"] >= 3_000_000
        assert "test_operators_inside.py:" in largest["at"][0]
        assert len(response.json()) == 3
        assert not tracemalloc.is_tracing()


@pytest.mark.parametrize("second", ["/profile/cpu?seconds=1", "/profile/heap?seconds=1"])
async def test_second_profile_is_409(second: str) -> None:
    async with inside() as (service, admin, _held):
        first = asyncio.create_task(admin.post("/profile/cpu?seconds=1"))
        await until(lambda: service.seen.events("operator changed the CPU profiler"))
        response = await admin.post(second)
        assert response.status_code == 409
        assert "runs already" in response.json()["detail"]
        assert (await first).status_code == 200


@pytest.mark.parametrize("path", ["/profile/cpu", "/profile/heap"])
@pytest.mark.parametrize("seconds", ["0", "-1", str(MAX_SECONDS + 1), "nan", "inf", "many"])
async def test_seconds_of_a_profile_are_bounded(admin: httpx.AsyncClient, path: str, seconds: str) -> None:
    assert (await admin.post(f"{path}?seconds={seconds}")).status_code == 422


def test_samples_of_the_longest_profile_are_bounded() -> None:
    assert max(MIN_INTERVAL_SECONDS, MAX_SECONDS / MAX_SAMPLES) * MAX_SAMPLES >= MAX_SECONDS


async def test_profile_ends_when_its_client_leaves() -> None:
    async with inside() as (service, admin, _held):
        with pytest.raises(httpx.ReadTimeout):
            await admin.post("/profile/heap?seconds=60", timeout=0.2)
        await until(lambda: not tracemalloc.is_tracing())
        assert (await admin.post("/profile/heap?seconds=0.1")).status_code == 200
        assert service.seen.events("unhandled exception") == []


async def test_profile_ends_early_when_the_service_stops() -> None:
    async with inside() as (service, admin, _held):
        began = time.monotonic()
        profile = asyncio.create_task(admin.post("/profile/cpu?seconds=60"))
        await until(lambda: service.seen.events("operator changed the CPU profiler"))
        service.app.begin_draining()
        assert (await profile).status_code == 200
        assert time.monotonic() - began < 30
        assert (await admin.post("/profile/cpu?seconds=60")).status_code == 503


async def test_profile_may_last_longer_than_other_requests_of_the_admin_port() -> None:
    async with inside() as (service, _admin, _held):
        router = service.app.admin_router
        for path, seconds in (("/profile/cpu", 115), ("/profile/heap", 115), ("/loggers", None), ("/healthz", None)):
            limits = router.limits_of({"type": "http", "path": path, "method": "POST", "root_path": "", "headers": []})
            assert (limits.deadline_seconds if limits else None) == seconds


def test_message_without_pyinstrument_says_how_to_install_it() -> None:
    code = """
import asyncio, sys
sys.modules["pyinstrument"] = None
from chassis import App, ChassisSettings
import httpx
app = App(ChassisSettings.from_values(admin_port=9000))
async def main():
    await app.open()
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app.admin), base_url="http://127.0.0.1") as client:
        response = await client.post("/profile/cpu")
    print(response.status_code, response.json()["detail"])
asyncio.run(main())
"""
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60).stdout
    assert "501 CPU profiles need pyinstrument" in output
    assert "asgi-chassis[profiling]" in output


def test_start_does_not_import_what_operators_seldom_use() -> None:
    code = """
import sys
from chassis import App, ChassisSettings
app = App(ChassisSettings.from_values(admin_port=9000))
app.admin
print(*(name for name in ("tracemalloc", "pyinstrument", "chassis.operations.operator_routes") if name in sys.modules))
"""
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60).stdout
    assert output.split() == []
