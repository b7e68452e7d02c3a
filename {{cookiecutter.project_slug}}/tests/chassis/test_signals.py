"""How the process ends when it is told to, and that nothing is lost."""

import asyncio
import signal
import socket

import httpx
import pytest

from .process import PACKAGE, PROGRAM, run


async def test_sigterm_answers_what_is_under_way_and_what_still_comes() -> None:
    async with run("-m", PROGRAM, APP_DRAIN_SECONDS="0.5") as process:
        client = await process.client()
        waiting = asyncio.create_task(client.get("/waiting"))
        await process.line("waiting")
        process.send(signal.SIGTERM)
        await process.line("draining")
        readiness, other = await client.get("/readyz"), await client.get("/docs")
        assert (readiness.status_code, readiness.json()["status"]) == (503, "draining")
        assert (other.status_code, other.headers["connection"]) == (200, "close")
        answer = await waiting
        assert (answer.json(), answer.headers["connection"]) == ("at last", "close")
        assert await process.end() == (0, "")
        assert process.events[-2:] == ["left", "stopped"]


async def test_connection_that_is_idle_at_sigterm_still_gets_an_answer() -> None:
    async with run("-m", PROGRAM, APP_DRAIN_SECONDS="0.5") as process:
        client = await process.client()
        assert "connection" not in (await client.get("/healthz")).headers
        process.send(signal.SIGTERM)
        await process.line("draining")
        assert (await client.get("/healthz")).headers["connection"] == "close"
        assert (await process.end())[0] == 0


async def test_sigint_skips_the_drain() -> None:
    async with run("-m", PROGRAM, APP_DRAIN_SECONDS="3600") as process:
        client = await process.client()
        waiting = asyncio.create_task(client.get("/waiting"))
        await process.line("waiting")
        process.send(signal.SIGINT)
        assert (await process.line("draining"))["seconds"] == 0
        assert (await waiting).json() == "at last"
        assert await process.end() == (0, "")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_second_signal_ends_at_once(number: signal.Signals) -> None:
    async with run("-m", PROGRAM, APP_DRAIN_SECONDS="3600") as process:
        await process.client()
        process.send(signal.SIGTERM)
        await process.line("draining")
        process.send(number)
        assert await process.end() == (128 + number, "")


async def test_background_task_gets_the_rest_of_the_time() -> None:
    async with run("-m", PROGRAM, APP_DRAIN_SECONDS="0") as process:
        client = await process.client()
        assert (await client.post("/work")).status_code == 204
        process.send(signal.SIGTERM)
        assert await process.end() == (0, "")
        assert process.events[-3:] == ["worked", "left", "stopped"]


async def test_request_that_takes_too_long_is_told_so() -> None:
    async with run("-m", PROGRAM, APP_DRAIN_SECONDS="0", APP_SHUTDOWN_SECONDS="1") as process:
        client = await process.client()
        waiting = asyncio.create_task(client.post("/waiting"))
        await process.line("waiting for ever")
        process.send(signal.SIGTERM)
        answer = await waiting
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        assert "close" in answer.headers["connection"]
        assert await process.end() == (0, "")
        (line,) = [line for line in process.lines if line["event"] == "request"]
        assert line["status"] == 503


async def test_sigterm_during_the_start_ends_in_order() -> None:
    async with run("-m", PROGRAM, PROGRAM_RESOURCE="hanging") as process:
        await process.line("entering")
        process.send(signal.SIGTERM)
        assert await process.end() == (0, "")
        assert process.events[-2:] == ["stopped while starting", "left"]


async def test_resource_that_fails_is_status_1_and_logged() -> None:
    async with run("-m", PROGRAM, PROGRAM_RESOURCE="refused") as process:
        assert await process.end() == (1, "")
    (line,) = [line for line in process.lines if line["level"] == "error"]
    assert line["event"] == "the service failed to start or to end"
    assert "ConnectionRefusedError: no database at 192.0.2.1" in line["exception"]


@pytest.mark.parametrize("variable", ["APP_PORT", "APP_ADMIN_PORT"])
async def test_port_in_use_is_status_1_and_one_line(variable: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        async with run("-m", PROGRAM, **{variable: str(port)}) as process:
            assert await process.end() == (1, "")
    (line,) = process.lines
    assert (line["event"], line["level"]) == ("cannot listen", "error")
    assert "in use" in line["error"]


async def test_admin_port_has_the_endpoints_of_operators() -> None:
    async with run("-m", PROGRAM, APP_ADMIN_PORT="0", APP_DRAIN_SECONDS="0") as process:
        listening = await process.line("listening")
        async with httpx.AsyncClient() as client:
            for path in ("/healthz", "/metrics", "/info"):
                assert (await client.get(f"http://127.0.0.1:{listening['admin_port']}{path}")).status_code == 200
        process.send(signal.SIGTERM)
        assert await process.end() == (0, "")


async def test_service_itself_runs_as_a_module() -> None:
    async with run("-m", PACKAGE, APP_DRAIN_SECONDS="0", APP_COMMIT="c0ffee") as process:
        client = await process.client()
        info = (await client.get("/info")).json()
        assert (info["name"], info["commit"]) == (PACKAGE.replace("_", "-"), "c0ffee")
        process.send(signal.SIGTERM)
        assert await process.end() == (0, "")


async def test_wrong_setting_is_status_2_and_one_line() -> None:
    async with run("-m", PACKAGE, APP_PORT="http") as process:
        status, error = await process.end()
    assert (status, process.lines) == (2, [])
    assert error.startswith("error: APP_PORT='http': ")
    assert error.count("\n") == 1


async def test_wrong_exporter_is_status_2_and_one_line() -> None:
    async with run("-m", PACKAGE, OTEL_TRACES_EXPORTER="carrier-pigeon") as process:
        status, error = await process.end()
    assert (status, process.lines) == (2, [])
    assert error.startswith("error: OTEL_TRACES_EXPORTER='carrier-pigeon': ")
    assert error.count("\n") == 1
