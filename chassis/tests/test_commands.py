"""Commands as processes: their results, exit status and signals."""

import asyncio
import json
import os
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from .support.forked import ForkedProcess, start_forked
from .support.process import PATIENCE_SECONDS, ROOT, inherited_environment

PROGRAM = f"{__package__}.support.commands"


class Done(NamedTuple):
    """A process that has ended."""

    status: int
    out: str
    err: str

    @property
    def lines(self) -> list[dict[str, Any]]:
        """Its log lines. The one before the logs were installed is text."""
        return [json.loads(line) for line in self.err.splitlines() if line.startswith("{")]

    @property
    def events(self) -> list[str]:
        """The events of its log lines."""
        return [line["event"] for line in self.lines]


@asynccontextmanager
async def started(*words: str, stdout: int | None = None, **environment: str) -> AsyncIterator[ForkedProcess]:
    """A command in a process, killed at the end of the block if it still runs; warnings are errors."""
    variables = {**inherited_environment(), "APP_LOG_FORMAT": "json", **environment}
    process = await start_forked(PROGRAM, *words, environment=variables, stdout=PIPE if stdout is None else stdout)
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


async def end_of(process: ForkedProcess) -> Done:
    """Wait for the end of a process."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        out, err = await process.communicate()
    assert process.returncode is not None
    return Done(process.returncode, (out or b"").decode(), err.decode())


async def ran(*words: str, **environment: str) -> Done:
    """A command that has run to its end."""
    async with started(*words, stdout=None, **environment) as process:
        return await end_of(process)


async def wait_for(process: ForkedProcess, event: str) -> None:
    """Wait until a log line has this event."""
    assert process.stderr is not None
    async with asyncio.timeout(PATIENCE_SECONDS):
        while line := await process.stderr.readline():
            if f'"event":"{event}"'.encode() in line:
                return
    raise AssertionError(f"ended without {event!r}")


async def test_command_runs_with_settings_and_open_resources() -> None:
    done = await ran("greet", "Ann", "--times=2", APP_GREETING="Good day")
    assert (done.status, done.out) == (0, "Good day, Ann! I am glad.\n" * 2)
    assert done.events == ["ledger opened", "greeting", "command done", "ledger closed"]
    assert done.lines[1]["is_open"] is True


@pytest.mark.parametrize(("command", "status"), [("fail", 1), ("reject", 3), ("leave", 1)])
async def test_failure_is_logged_once_and_resources_are_closed(command: str, status: int) -> None:
    done = await ran(command)
    assert (done.status, done.out) == (status, "")
    assert done.events == ["ledger opened", "command failed", "ledger closed"]


async def test_output_of_openapi_and_routes_is_json_alone_and_opens_nothing() -> None:
    openapi, routes = await asyncio.gather(ran("openapi"), ran("routes", "--json"))
    assert [*json.loads(openapi.out)["paths"]] == ["/greetings/{name}"]
    assert [route["path"] for route in json.loads(routes.out)] == ["/greetings/{name}", "/openapi.json", "/docs"]
    assert (openapi.events, routes.events) == ([], [])


async def test_reader_that_closes_the_pipe_is_no_error() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    async with started("openapi", stdout=writer) as process:
        os.close(writer)
        done = await end_of(process)
    assert done.status == 141
    assert "Error" not in done.err


async def test_check_passes() -> None:
    done = await ran("check")
    assert done.status == 0
    assert [line.split("  ")[0] for line in done.out.splitlines()] == ["ok"] * 4
    assert [line.split()[1:3] for line in done.out.splitlines()][2:] == [["check", "ledger"], ["check", "cache"]]
    assert done.events == ["ledger opened", "ledger closed"]


@pytest.mark.parametrize(
    ("ledger", "statuses"),
    [
        ("refused", ["pass", "fail"]),
        ("hanging", ["pass", "timeout"]),
        ("unready", ["pass", "pass", "fail", "fail"]),
    ],
)
async def test_check_fails_with_status_1_and_the_reason(ledger: str, statuses: list[str]) -> None:
    done = await ran("check", "--json", "--timeout=2", LEDGER=ledger)
    document = json.loads(done.out)
    assert (done.status, document["status"]) == (1, "failing")
    assert [step["status"] for step in document["steps"]] == statuses
    reasons = {
        "refused": "ConnectionRefusedError: no ledger at 192.0.2.1",
        "hanging": "not complete in time; see --timeout",
        "unready": "RuntimeError",
    }
    assert next(step["error"] for step in document["steps"] if step["status"] != "pass") == reasons[ledger]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_signal_cancels_a_command_and_resources_are_closed(number: signal.Signals) -> None:
    async with started("wait") as process:
        await wait_for(process, "waiting")
        process.send_signal(number)
        done = await end_of(process)
    assert done.status == 128 + number
    assert done.events == ["cleaned up", "command interrupted", "ledger closed"]


async def test_signal_lets_a_thread_end() -> None:
    async with started("work") as process:
        await wait_for(process, "waiting")
        process.send_signal(signal.SIGTERM)
        done = await end_of(process)
    assert (done.status, done.events) == (143, ["cleaned up", "command interrupted", "ledger closed"])


async def test_signal_stops_the_opening_of_resources() -> None:
    async with started("wait", LEDGER="hanging") as process:
        assert process.stderr is not None
        await process.stderr.readline()  # the app is created
        await asyncio.sleep(0.5)
        process.send_signal(signal.SIGTERM)
        done = await end_of(process)
    assert done.status == 143


async def test_command_that_ignores_a_signal_ends_in_time() -> None:
    async with started("stubborn", APP_SHUTDOWN_SECONDS="0.2") as process:
        await wait_for(process, "waiting")
        process.send_signal(signal.SIGTERM)
        await wait_for(process, "command ignores its cancellation")
        done = await end_of(process)
    assert done.status == 143


async def test_second_signal_ends_a_command_at_once() -> None:
    async with started("spin") as process:
        await wait_for(process, "waiting")
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGINT)
        done = await end_of(process)
    assert done.status in (128 + signal.SIGTERM, 128 + signal.SIGINT)


async def python(code: str, **environment: str) -> int:
    """The exit status of this code."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", code), cwd=ROOT, env={**os.environ, **environment}, stdout=DEVNULL
    )
    async with asyncio.timeout(PATIENCE_SECONDS):
        return await process.wait()


@pytest.mark.parametrize("words", [[], ["serve"]])
async def test_serve_is_the_default_and_does_not_load_the_command_line(words: list[str]) -> None:
    code = (
        f"import sys; from chassis import run, server; sys.argv = ['x', *{words}]\n"
        "server.Server.run = lambda self, watchdog: 9 + ('chassis.commands' in sys.modules)\n"
        f"run('{PROGRAM}:create_app')"
    )
    assert await python(code) == 9


async def test_arguments_of_run_replace_those_of_the_process() -> None:
    code = f"import sys; from chassis import run; sys.argv = ['x', 'nothing']; run('{PROGRAM}:create_app', ['openapi'])"
    assert await python(code) == 0


@pytest.mark.parametrize(("words", "status"), [([], 0), (["check"], 143)])
async def test_sigterm_during_the_imports_is_a_failure_of_a_command_only(
    words: list[str], status: int, tmp_path: Path
) -> None:
    (tmp_path / "stopped.py").write_text("import os, signal, time\nos.kill(os.getpid(), signal.SIGTERM)\ntime.sleep(9)")
    code = f"from chassis import run; run('stopped:create_app', {words})"
    assert await python(code, PYTHONPATH=str(tmp_path)) == status
