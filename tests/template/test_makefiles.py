"""The targets of both Makefiles, started as people start them: at a terminal, with nothing but Python."""

import os
import pty
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from bakery import HOME, TEMPLATE, clean_environment, copy_repository, run
from conftest import Bake

pytestmark = pytest.mark.long

CTRL_C = b"\x03"


class Terminal:
    """A command at a terminal of its own."""

    def __init__(self, command: list[str], cwd: Path, environment: dict[str, str]) -> None:
        self.pid, self._terminal = pty.fork()
        if self.pid == 0:
            os.chdir(cwd)
            os.execvpe(command[0], command, environment)  # noqa: S606 - the child of a fork has no other way
        self.shown = ""

    def wait_for(self, text: str) -> None:
        while text not in self.shown and self._read():
            pass
        assert text in self.shown, self.shown

    def press(self, keys: bytes) -> None:
        os.write(self._terminal, keys)

    def end(self) -> int:
        """Read to the end; returns the exit status, negative for a signal."""
        while self._read():
            pass
        os.close(self._terminal)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def _read(self) -> bool:
        try:
            content = os.read(self._terminal, 65536)
        except OSError:  # Linux reports this when no process writes any more
            return False
        self.shown += content.decode(errors="replace")
        return bool(content)


@pytest.fixture(scope="module")
def with_pip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `python3 -m venv` makes. That takes 6 seconds of CPU, most of them to compile pip."""
    made = tmp_path_factory.mktemp("with_pip") / "environment"
    done = run(Path(sys.base_prefix, "bin/python3"), "-m", "venv", made, cwd=made.parent, PYTHONPYCACHEPREFIX="")
    assert done.returncode == 0, done.stdout
    return made


@pytest.fixture
def bare(tmp_path: Path, with_pip: Path) -> dict[str, str]:
    """The environment of a machine with Python, git and make, and an empty home.

    Its `python3` is that of pyenv: it fails in a folder whose .python-version names a version that pyenv lacks.
    """
    programs, home = tmp_path / "programs", tmp_path / "home"
    programs.mkdir()
    home.mkdir()
    shim = programs / "python3"
    shim.write_text(
        "#!/bin/sh\n[ ! -e .python-version ] || exit 127\n"
        f"""[ "$1 $2" != "-m venv" ] || exec cp -R -p '{with_pip}' "$3"\n"""
        f"""exec '{sys.base_prefix}/bin/python3' "$@"\n"""
    )
    shim.chmod(0o755)
    for program in ("git", "make"):
        (programs / program).symlink_to(str(shutil.which(program)))
    variables = clean_environment(home, PATH=f"{programs}:/usr/bin:/bin", PYTHONPYCACHEPREFIX="")
    return {**variables, "PIP_CACHE_DIR": str(HOME / ".cache/pip"), "TERM": "dumb"}


@contextmanager
def at_terminal(command: list[str], cwd: Path, environment: dict[str, str]) -> Iterator[Terminal]:
    terminal = Terminal(command, cwd, environment)
    try:
        yield terminal
    finally:
        print(terminal.shown)


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh clone; the first of two tests installs what the second one finds."""
    return copy_repository(tmp_path_factory.mktemp("clone") / "cookiecutter-chassis")


def test_make_run_of_a_fresh_clone_serves_and_ends_by_ctrl_c(clone: Path, bare: dict[str, str]) -> None:
    port = free_port()
    with at_terminal(["make", "run", f"APP_PORT={port}"], clone, bare) as terminal:
        terminal.wait_for("Press Ctrl-C to stop.")
        for address in re.findall(r"http://127\.0\.0\.1:\d+/\w*", terminal.shown):
            assert httpx.get(address, trust_env=False).status_code == 200
        terminal.press(CTRL_C)
        status = terminal.end()

    assert status == 0
    for path in ("orders", "docs", "healthz", "readyz", "metrics", "info"):
        assert f"http://127.0.0.1:{port}/{path}" in terminal.shown
    assert f"http://127.0.0.1:{port + 1000}/" in terminal.shown
    assert "stopped" in terminal.shown
    assert "Traceback" not in terminal.shown
    assert "make:" not in terminal.shown
    assert run("git", "status", "--short", "--untracked-files", cwd=clone).stdout == ""


def test_make_dev_renders_and_starts_again_when_the_core_or_the_skeleton_changes(
    clone: Path, bare: dict[str, str]
) -> None:
    address = f"http://127.0.0.1:{(port := free_port())}/info"
    version = clone / "chassis/src/chassis/version.py"
    app = clone / "{{cookiecutter.project_slug}}/src/{{cookiecutter.__package}}/app.py"
    with at_terminal(["make", "dev", f"APP_PORT={port}"], clone, bare) as terminal:
        terminal.wait_for("Press Ctrl-C to stop.")
        terminal.shown = ""
        version.write_text(re.sub(r'"[\d.]+"', '"99.0.0"', version.read_text()))
        terminal.wait_for("ready")
        assert httpx.get(address, trust_env=False).json()["chassis"] == "99.0.0"
        terminal.shown = ""
        app.write_text(app.read_text().replace("App(settings)", 'App(settings, name="another")'))
        terminal.wait_for("ready")
        assert httpx.get(address, trust_env=False).json()["name"] == "another"
        terminal.press(CTRL_C)
        status = terminal.end()

    assert status == 0
    assert "Traceback" not in terminal.shown
    assert "make:" not in terminal.shown


def test_make_run_says_that_a_port_is_in_use() -> None:
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        port = busy.getsockname()[1]
        command = [sys.executable, "scripts/run.py", "true"]
        refused = run(*command, cwd=TEMPLATE, APP_PORT=str(port))

    assert refused.returncode == 1
    assert refused.stdout == f"error: port {port} is in use; choose another, such as: make run APP_PORT={port + 1}\n"


def test_signal_to_make_run_reaches_the_service_once(installed: Path, tmp_path: Path) -> None:
    """Without a terminal, as from a script or a supervisor."""
    command = [sys.executable, str(TEMPLATE / "scripts/run.py"), ".venv/bin/python", "-m", "order_service"]
    variables = {"APP_PORT": str(free_port()), "APP_DRAIN_SECONDS": "0"}
    for number in (signal.SIGINT, signal.SIGTERM):
        process = subprocess.Popen(
            command, cwd=installed, env=clean_environment(tmp_path, **variables), stdout=subprocess.PIPE, text=True
        )
        with process:
            assert process.stdout is not None
            for line in process.stdout:
                if "Ctrl-C" in line:
                    break
            process.send_signal(number)
            assert process.wait(20) == 0
            assert '"stopped"' in process.stdout.read()


def test_make_run_of_the_service_starts_it_with_what_is_there(bake: Bake, bare: dict[str, str]) -> None:
    project = bake()
    with at_terminal(["make", "run"], project, {**bare, "APP_PORT": "0"}) as terminal:
        terminal.wait_for("ready")
        terminal.wait_for("console")
        terminal.press(CTRL_C)
        terminal.end()

    assert (project / ".uv/bin/uv").exists()
    assert "stopped" in terminal.shown
    assert "Traceback" not in terminal.shown
    assert "make:" not in terminal.shown


def test_make_dev_of_the_service_starts_again_on_a_change(bake: Bake, tmp_path: Path) -> None:
    project = bake()
    settings = next(project.glob("src/*/settings.py"))
    with at_terminal(["make", "dev"], project, clean_environment(tmp_path, APP_PORT="0", TERM="dumb")) as terminal:
        terminal.wait_for("ready")
        terminal.shown = ""
        settings.write_text(settings.read_text().replace("1_000", "2_000"))
        terminal.wait_for("ready")
        assert "stopped" in terminal.shown
        terminal.press(CTRL_C)
        terminal.end()

    assert "Traceback" not in terminal.shown


@pytest.mark.parametrize("folder", ["template", "service"])
def test_make_alone_explains_the_targets(folder: str, bake: Bake) -> None:
    shown = run("make", cwd=TEMPLATE if folder == "template" else bake())

    assert shown.returncode == 0
    targets = {
        "template": {"help", "run", "dev", "check", "test", "bake", "clean"},
        "service": {"help", "run", "dev", "check", "test", "fix", "image"},
    }
    assert targets[folder] <= set(re.findall(r"^  make (\w+) ", shown.stdout, re.MULTILINE))
