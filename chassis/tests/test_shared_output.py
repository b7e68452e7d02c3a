"""Log lines of several processes on one pipe."""

import os
import signal
import sys
from contextlib import suppress

import pytest

from chassis.telemetry.log_writer import LineWriter

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="this system has no fork")
if sys.platform != "win32":
    from chassis.telemetry.shared_output import SharedOutput

PROCESSES = 4
LINES = 150
LONG = 100_000


class SharedWriter(LineWriter):
    """A writer that takes turns with those of other processes."""

    def __init__(self, fd: int) -> None:
        super().__init__(fd)
        self.shared_output = SharedOutput()


def write(writer: LineWriter, number: int) -> None:
    """Lines of all lengths: short ones, and some that do not fit into the pipe."""
    for line in range(LINES):
        length = LONG if line % 30 == 0 else 100
        writer.write(f"{number}:{line}:".encode().ljust(length, str(number).encode()))
    writer.flush(20)


def test_lines_of_several_processes_are_whole() -> None:
    reader, fd = os.pipe()
    writer = SharedWriter(fd)
    children = []
    for number in range(PROCESSES):
        if not (child := os.fork()):
            try:
                write(writer, number)
            finally:
                os._exit(0)
        children.append(child)
    os.close(fd)
    with open(reader, "rb") as file:
        lines = file.read().splitlines()
    for child in children:
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert len(lines) == PROCESSES * LINES
    found = {(int(line[:1]), int(line.split(b":")[1])) for line in lines}
    assert found == {(number, line) for number in range(PROCESSES) for line in range(LINES)}
    assert all(len(line) in (100, LONG) and set(line.rpartition(b":")[2]) == {line[0]} for line in lines)


def test_turn_of_a_process_that_was_killed_ends() -> None:
    shared = SharedOutput()
    began, has_turn = os.pipe()
    if not (child := os.fork()):
        with suppress(BaseException):
            shared.begin(0)
            os.write(has_turn, b"x")
            signal.pause()
        os._exit(0)
    os.read(began, 1)
    assert shared.begin(0) is False
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert shared.begin(0) is True
    shared.end()
    os.close(began)
    os.close(has_turn)


def test_line_of_a_process_that_ends_in_the_middle_of_it_is_not_mixed_with_the_next_one() -> None:
    reader, fd = os.pipe()
    writer = SharedWriter(fd)
    if not (child := os.fork()):
        writer.write(b"x" * LONG)  # as much as fits; a killed process writes no more
        os._exit(0)
    os.waitpid(child, 0)
    part = os.read(reader, LONG)
    writer.write(b"whole")
    os.close(fd)
    with open(reader, "rb") as file:
        lines = (part + file.read()).splitlines()
    assert 0 < len(lines[0]) < LONG
    assert lines[1:] == [b"whole"]
