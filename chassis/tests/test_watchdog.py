"""The shutdown is bounded even if something hangs: the process ends with status 0, and no telemetry is lost."""

import asyncio
import os
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from .support.process import Process, run
from .support.service import SAMPLED, TRACE_ID, serve, until

PROGRAM = f"{__package__}.support.hanging"
SECONDS: dict[str, Any] = {"APP_DRAIN_SECONDS": "0", "APP_SHUTDOWN_SECONDS": "0.2"}


class Collector:
    """The names of the spans that arrive."""

    def __init__(self) -> None:
        self.names: list[str] = []

    async def take(self, request: Request) -> Response:
        exported = ExportTraceServiceRequest.FromString(await request.body())
        for resource in exported.resource_spans:
            for scope in resource.scope_spans:
                self.names += [span.name for span in scope.spans if span.trace_id.hex() == TRACE_ID]
        return Response(media_type="application/x-protobuf")


@pytest.fixture
async def collector(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Collector]:
    """A collector, to which processes export."""
    collector = Collector()
    async with serve(Route("/v1/traces", collector.take, methods=["POST"])) as service:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{service.server.port}")
        yield collector


async def hang(process: Process, what: str) -> None:
    """Let something hang, and send SIGTERM."""
    client = await process.client()
    assert (await client.post("/hang", params={"what": what}, headers=SAMPLED)).status_code == 204
    process.send(signal.SIGTERM)


def warnings_of(process: Process) -> list[str]:
    return [line["event"] for line in process.lines if line["level"] in ("warning", "error", "critical")]


async def test_shutdown_without_anything_that_hangs_ends_by_itself(collector: Collector) -> None:
    async with run("-m", PROGRAM, **SECONDS) as process:
        await hang(process, "nothing")
        assert await process.end() == (0, "")
    assert process.events[-3:] == ["leaving", "left", "stopped"]
    assert collector.names == ["POST /hang"]


@pytest.mark.parametrize(
    ("what", "named"),
    [
        ("task", "stubborn"),
        ("loose task", "loose"),
        ("executor", "ThreadPoolExecutor"),
        ("thread", "owner's"),
        ("daemon child", "stubborn"),
        ("child", "stubborn"),
        ("atexit", "MainThread"),
    ],
)
async def test_cause_of_a_hang_after_the_shutdown_is_named_and_abandoned(
    what: str, named: str, collector: Collector
) -> None:
    # Python 3.12 warns of forks in a process that has threads.
    async with run("-m", PROGRAM, warnings="ignore", **SECONDS) as process:
        await hang(process, what)
        assert await process.end() == (0, "")
    assert process.events[-2:] == ["stopped", "shutdown hangs; ending the process"]
    line = process.lines[-1]
    assert any(named in one for one in line["threads"] + line["tasks"] + line["processes"])
    assert collector.names == ["POST /hang"]


async def test_daemon_child_that_ignores_signals_is_killed() -> None:
    async with run("-m", PROGRAM, warnings="ignore", **SECONDS) as process:
        client = await process.client()
        await client.post("/hang", params={"what": "daemon child"})
        child = (await process.line("child"))["child"]
        process.send(signal.SIGTERM)
        assert (await process.end())[0] == 0
    await until(lambda: not is_running(child))


def is_running(process: int) -> bool:
    try:
        with open(f"/proc/{process}/stat", encoding="ascii") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def test_resource_that_hangs_is_named_and_the_others_are_closed(collector: Collector) -> None:
    async with run("-m", PROGRAM, HANGS="resource", **SECONDS) as process:
        await hang(process, "resource")
        assert await process.end() == (0, "")
    assert process.events[-4:] == ["leaving", "resource did not close in time", "left", "stopped"]
    (line,) = [line for line in process.lines if line["level"] == "warning"]
    assert line["resource"] == "resource"
    assert collector.names == ["POST /hang"]


async def test_hang_during_the_shutdown_ends_with_the_process(collector: Collector) -> None:
    """All at once, because each takes as long as a process may take for its end."""

    async def end(what: str) -> tuple[str, int, str, list[str]]:
        async with run("-m", PROGRAM, HANGS=what, **SECONDS | {"APP_DRAIN_SECONDS": "0.6"}) as process:
            await hang(process, what)
            status, errors = await process.end()
        return what, status, errors, process.events

    for what, *end_of, events in await asyncio.gather(
        *map(end, ("stubborn resource", "blocking resource", "event loop"))
    ):
        assert end_of == [0, ""], what
        assert events[-1] == "shutdown hangs; ending the process", what
        assert "stopped" not in events, what
    assert collector.names == ["POST /hang"] * 3


@pytest.mark.parametrize("method", ["GET", "PUT"])
async def test_handler_that_ignores_its_cancellation_or_blocks_its_thread_is_abandoned(
    method: str, collector: Collector
) -> None:
    async with run("-m", PROGRAM, **SECONDS) as process:
        client = await process.client()
        await client.post("/hang", params={"what": "nothing"}, headers=SAMPLED)
        asked = asyncio.create_task(client.request(method, "/endless"))
        await process.line("entered")
        process.send(signal.SIGTERM)
        assert await process.end() == (0, "")
        with suppress(httpx.RemoteProtocolError):
            assert (await asked).status_code == 503
    assert "stopped" in process.events
    assert "POST /hang" in collector.names


async def test_native_code_that_holds_the_interpreter_ends_with_its_stack() -> None:
    async with run("-m", PROGRAM, HANGS="native code", **SECONDS | {"END_SECONDS": "2"}) as process:
        await hang(process, "native code")
        status, errors = await process.end()
    assert status == 1
    assert "hanging.py" in errors


async def test_collector_that_does_not_respond_does_not_delay_the_end() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        async with run("-m", PROGRAM, OTEL_EXPORTER_OTLP_ENDPOINT=endpoint, **SECONDS) as process:
            await hang(process, "nothing")
            assert (await process.end())[0] == 0
    assert process.events[-2:] == ["stopped", "spans could not be exported in time"]


def test_helper_knows_that_this_process_runs() -> None:
    assert is_running(os.getpid())
