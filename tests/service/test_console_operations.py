"""The console's log lines, dependencies and profiles, in a real browser."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.async_api import Browser, Route, expect

from chassis import App, ChassisSettings, Handler, Server
from chassis.client import Client, ClientSettings, DependencyError
from console_page import answer, console, ready, rows, show
from running import running

PROGRAM = """
from chassis import App, ChassisSettings


def create_app(settings: ChassisSettings) -> App:
    return App(settings, name="order-service")
"""


class Prices(Handler):
    """Asks another service."""

    def __init__(self, prices: Client) -> None:
        self._prices = prices

    async def get(self) -> str:
        try:
            await self._prices.get("/prices")
        except DependencyError as error:
            return type(error).__name__
        return "prices"


def settings(**values: Any) -> ChassisSettings:
    """Those of a service with a console."""
    return ChassisSettings.from_values(
        **{"port": 0, "admin_port": 0, "log_level": "CRITICAL", "drain_seconds": 0, **values}
    )


@asynccontextmanager
async def failing() -> AsyncIterator[int]:
    """The port of a service whose responses are all 500."""

    async def respond(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                await reader.readuntil(b"\r\n\r\n")
                writer.write(b"HTTP/1.1 500 No\r\ncontent-length: 0\r\n\r\n")
        except asyncio.IncompleteReadError:
            writer.close()

    async with await asyncio.start_server(respond, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]


async def test_breaker_and_replicas_of_a_client_are_shown(browser: Browser) -> None:
    async with failing() as port:
        app = App(settings(), name="order-service")
        client = app.client("prices", ClientSettings(base_url=f"http://127.0.0.1:{port}", timeout_seconds=5))
        app.add_route("/prices", Prices(client))
        async with Server(app) as server, console(browser, server.admin_port) as page:
            await ready(page)
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.port}", trust_env=False) as own:
                while client.state()["breaker"] != "open":
                    await own.get("/prices")
            await show(page, "Dependencies")
            row = rows(page, "Clients").nth(1)
            await expect(row).to_contain_text("prices")
            await expect(row).to_contain_text("open, ")
            await expect(row).to_contain_text("100 %")
            await expect(rows(page, "Replicas").nth(1)).to_contain_text(f"127.0.0.1:{port}")
            await expect(rows(page, "Requests sent").nth(1)).to_contain_text("100 %")


async def test_periodic_work_is_shown_with_its_last_run_and_its_next_one(browser: Browser) -> None:
    def fail() -> None:
        raise ConnectionRefusedError("no broker")

    app = App(settings(), name="order-service")
    app.every(3600, lambda: None, name="count letters", once_per="pod", jitter=0)
    app.every(3600, fail, name="send letters", jitter=0)
    async with Server(app) as server, console(browser, server.admin_port) as page:
        await show(page, "Process")
        work = rows(page, "Periodic work")
        await expect(work.nth(1)).to_contain_text("count letters")
        await expect(work.nth(1)).to_contain_text("one worker")
        await expect(work.nth(1)).to_contain_text("success")
        await expect(work.nth(1)).to_contain_text("in 59 min")
        await expect(work.nth(2)).to_contain_text("ConnectionRefusedError: no broker")


def state(worker: int, breaker: str, *, is_ejected: bool) -> dict[str, Any]:
    """A client as one worker sees it."""
    replica = {"address": "10.0.0.7:80", "in_progress": 1, "latency_ms": 12.5, "is_near": False}
    calls = {"recent_successes": 3.0, "recent_failures": 1.0}
    ejection = {"is_ejected": is_ejected, "ejected_for": "connections_lost" if is_ejected else None}
    own = {"breaker": breaker, "seconds_until_probe": 2.2, "in_progress": 1, "max_in_progress": 100, "waiting": 0}
    return {
        "worker": worker,
        "name": "prices",
        "base_url": "http://prices",
        **own,
        "replicas": [replica | calls | ejection],
    }


async def test_state_that_only_some_workers_have_says_so(browser: Browser) -> None:
    states = [state(0, "open", is_ejected=True), state(1, "closed", is_ejected=False)]
    async with Server(App(settings(), name="order-service")) as server, console(browser, server.admin_port) as page:
        await answer(page, "dependencies", lambda _: {"json": states})
        await page.reload()
        await show(page, "Dependencies")
        await expect(rows(page, "Clients")).to_have_count(2)
        await expect(rows(page, "Clients").nth(1)).to_contain_text("open in 1 of 2 workers, next try in 3 s")
        await expect(rows(page, "Clients").nth(1)).to_contain_text("2 of 200")
        await expect(rows(page, "Replicas").nth(1)).to_contain_text("ejected in 1 of 2 workers: connections lost")
        await expect(rows(page, "Replicas").nth(1)).to_contain_text("25 %")


SAMPLES = [
    'db_client_operation_duration_seconds_bucket{db_query_summary="SELECT orders",error_type="",le="+Inf"} COUNT',
    'db_client_connection_count{db_client_connection_state="used"} 3.0',
    'db_client_connection_count{db_client_connection_state="idle"} 1.0',
    "db_client_connection_max 10.0",
    'messaging_process_duration_seconds_bucket{messaging_destination_name="created",error_type="E",le="+Inf"} COUNT',
    'rpc_server_call_duration_seconds_bucket{rpc_method="Orders/Get",rpc_response_status_code="OK",le="+Inf"} COUNT',
]


async def test_database_messages_and_grpc_calls_are_rows_of_the_metrics(browser: Browser) -> None:
    counts = map(str, range(10, 10_000, 10))

    def respond(_: Route) -> dict[str, Any]:
        return {"body": "\n".join(SAMPLES).replace("COUNT", next(counts)) + "\n", "content_type": "text/plain"}

    async with Server(App(settings(), name="order-service")) as server, console(browser, server.admin_port) as page:
        await answer(page, "metrics", respond)
        await page.reload()
        await expect(rows(page, "Routes").filter(has_text="Orders/Get")).to_contain_text("gRPC")
        await show(page, "Dependencies")
        await expect(page.get_by_text("connections: 3 used, 1 idle, at most 10")).to_be_visible()
        await expect(rows(page, "Database").nth(1)).to_contain_text("SELECT orders")
        await expect(rows(page, "Messages").nth(1)).to_contain_text("process created")
        await expect(rows(page, "Messages").nth(1)).to_contain_text("100 %")


async def test_cpu_profile_is_shown_and_can_be_downloaded(browser: Browser) -> None:
    async with Server(App(settings(), name="order-service")) as server, console(browser, server.admin_port) as page:
        await show(page, "Process")
        form = page.get_by_role("form", name="Profile")
        await expect(form.get_by_label("Worker")).to_be_hidden()
        await form.get_by_label("For seconds").fill("0.3")
        await page.keyboard.press("Enter")
        await expect(form.get_by_role("status")).to_have_text("Observed for 0.3 s.")
        await expect(page.get_by_role("region", name="CPU profile")).to_contain_text("Duration")
        async with page.expect_download() as download:
            await page.get_by_role("link", name="Download cpu-profile").click()
        assert "Duration" in (await (await download.value).path()).read_text()
        await form.get_by_label("Result").select_option("html")
        async with page.expect_download() as download:
            await form.get_by_role("button", name="Start").click()
        assert (await download.value).suggested_filename.endswith(".html")


async def test_heap_profile_is_a_table(browser: Browser) -> None:
    async with Server(App(settings(), name="order-service")) as server, console(browser, server.admin_port) as page:
        await show(page, "Process")
        form = page.get_by_role("form", name="Profile")
        await form.get_by_label("Profile").select_option("heap")
        await form.get_by_label("For seconds").fill("0.3")
        await form.get_by_role("button", name="Start").click()
        await expect(rows(page, "Allocated memory").nth(1)).to_contain_text(".py:")


async def test_profile_without_its_extra_says_how_to_install_it(
    browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyinstrument", None)
    async with Server(App(settings(), name="order-service")) as server, console(browser, server.admin_port) as page:
        await show(page, "Process")
        form = page.get_by_role("form", name="Profile")
        await form.get_by_role("button", name="Start").click()
        await expect(form.get_by_role("status")).to_contain_text("asgi-chassis[profiling]")
        await expect(form.get_by_role("button", name="Start")).to_be_enabled()


@pytest.mark.skipif(sys.platform != "linux", reason="services with several workers run on Linux")
async def test_log_goes_on_when_a_worker_is_replaced(browser: Browser, tmp_path: Path) -> None:
    package = tmp_path / "src/order_service"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(PROGRAM)
    (package / "__main__.py").write_text('from chassis import run\n\nrun("order_service:create_app")\n')
    variables = {"APP_WORKERS": "2", "APP_ADMIN_PORT": "0", "APP_LOG_FORMAT": "json"}
    with running(Path(sys.executable), tmp_path, tmp_path, **variables) as service:
        port = service.ready().admin.base_url.port
        async with console(browser, port) as page:
            await show(page, "Logs")
            await expect(rows(page, "Log lines").filter(has_text="worker=1")).not_to_have_count(0)
            os.kill(service.event("worker ready", worker=1)["pid"], signal.SIGKILL)
            again = service.wait("worker ready", 2, {"worker": 1})[-1]
            await expect(rows(page, "Log lines").filter(has_text=f"pid={again['pid']}")).not_to_have_count(0)
