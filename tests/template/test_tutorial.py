"""The commands of the tutorial run as they stand, one after the other, and print what it shows.

Only two things differ: the template comes from the working tree, by git's `insteadOf`, and the port is a free one.
docker, kind and kubectl are programs that record their arguments, since there is no cluster here.
"""

import os
import re
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from bakery import TEMPLATE, clean_environment, copy_repository
from deploy_programs import DOCKER, KIND, KUBECTL, install, recorded
from references import Document
from repositories import IDENTITY
from running import Lines, needs

pytestmark = pytest.mark.long

PAGE = Document(TEMPLATE / "docs/tutorial.md")
ADDRESS = "https://github.com/OWNER/cookiecutter-chassis.git"
SERVES = re.compile(r"(?:\w+=\S+ )*make run")


class Reader:
    """A person with two terminals who types the commands and writes the files of the page."""

    def __init__(self, folder: Path, template: Path, port: int) -> None:
        self.folder = folder
        self.port = port
        self.server: subprocess.Popen[str] | None = None
        self.output: Lines | None = None
        home, programs = folder / "home", folder / "programs"
        home.mkdir()
        programs.mkdir()
        self.log = folder / "recorded"
        for name, program in (("docker", DOCKER), ("kind", KIND), ("kubectl", KUBECTL)):
            install(programs, name, program, self.log, (port, port))
        (home / ".gitconfig").write_text(f'[url "{template.as_uri()}"]\n\tinsteadOf = {ADDRESS}\n')
        environment = clean_environment(home, APP_PORT=str(port), APP_LOG_FORMAT="console", **IDENTITY)
        self.environment = environment | {"PATH": f"{programs}{os.pathsep}{environment['PATH']}"}

    def follow(self, language: str, content: str) -> None:
        """Do what a block says."""
        if language == "python":
            name, _, text = content.removeprefix("# ").partition("\n")
            (self.folder / name).write_text(text)
        elif language == "text":
            self.read(content.strip())
        elif language == "console":
            for command, shown in re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", content, re.MULTILINE):
                self.type(command.replace("8000", str(self.port)), shown.strip())

    def type(self, command: str, shown: str) -> None:
        """Run a command to its end; a server is left running, in the place of the one before."""
        if SERVES.fullmatch(command):
            self.stop()
            self.server = subprocess.Popen(
                ["bash", "-c", f"exec {'env ' if '=' in command else ''}{command}"],
                cwd=self.folder,
                env=self.environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )
            assert self.server.stdout
            self.output = Lines(self.server.stdout)
            self.output.wait_for(lambda line: re.search(r"\bready\b", without_colors(line)) is not None)
            return
        done = self._run(command)
        assert done.returncode == 0, f"{command}\n{done.stdout}"
        assert not shown or matches(shown, done.stdout.strip()), f"{command}\n{done.stdout}\nis not\n{shown}"

    def _run(self, command: str) -> subprocess.CompletedProcess[str]:
        where = self.folder.parent / "where"
        script = f"{command}\nstatus=$?; pwd >'{where}'; exit $status"
        done = subprocess.run(
            ["bash", "-o", "pipefail", "-c", script],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        self.folder = Path(where.read_text().strip())
        return done

    def read(self, shown: str) -> None:
        """Wait until the first terminal shows this line."""
        assert self.output
        self.output.wait_for(lambda line: matches(shown, without_colors(line)))

    def stop(self) -> None:
        """Press Ctrl-C in the first terminal."""
        if self.server is not None:
            os.killpg(self.server.pid, signal.SIGINT)
            self.server.wait(20)
            self.server = None


def without_colors(line: str) -> str:
    """A line as a terminal shows it, without escape sequences."""
    return re.sub(r"\x1b\[[\d;]*m", "", line)


def matches(shown: str, output: str) -> bool:
    """Whether the output is what the page shows; `…` stands for anything."""
    pattern = ".*".join(re.escape(part.strip("\n")) for part in shown.split("…"))
    return re.fullmatch(pattern, output, re.DOTALL) is not None


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Reader]:
    needs("kubectl")
    assert shutil.which("curl")
    folder = tmp_path / "reader"
    folder.mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    reader = Reader(folder, copy_repository(tmp_path / "template"), port)
    yield reader
    reader.stop()


@pytest.mark.timeout(400)
def test_tutorial_works_as_it_stands(reader: Reader) -> None:
    for language, content in PAGE.code_blocks():
        reader.follow(language, content)

    calls = [arguments[:3] for arguments, _ in recorded(reader.log)]
    for program, command in (("docker", "compose"), ("docker", "build"), ("kind", "create")):
        assert [program, command] in [arguments[:2] for arguments in calls]
    assert any("apply" in arguments for arguments in calls)


def test_reader_stops_each_service_before_the_next_takes_its_port() -> None:
    text = (TEMPLATE / "docs/tutorial.md").read_text()
    _, *between, _ = re.split(r"^\$ .*make (?:run|observe)$", text, flags=re.MULTILINE)
    assert between
    assert [part for part in between if "Ctrl-C" not in part] == []
