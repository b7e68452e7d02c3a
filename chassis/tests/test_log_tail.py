"""The last log lines that are kept for operators: their numbers, and the bounds of the memory they take."""

import os
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chassis.telemetry.log_tail import MAX_BYTES, LogTail
from chassis.telemetry.log_writer import LineWriter

# The lengths of the lines of each turn of the event loop.
chunks = st.lists(st.lists(st.integers(min_value=0, max_value=30), min_size=1, max_size=5), max_size=12)


def written_to(tail: LogTail, lengths: list[list[int]]) -> list[tuple[int, bytes]]:
    """Write lines of these lengths; returns all of them with their numbers."""
    lines = [[b"x" * length for length in chunk] for chunk in lengths]
    for chunk in lines:
        tail.add(b"".join(line + b"\n" for line in chunk), len(chunk))
    return list(enumerate((line for chunk in lines for line in chunk), start=1))


@given(chunks)
def test_kept_lines_are_the_last_ones_in_order(lengths: list[list[int]]) -> None:
    tail = LogTail(first=1, max_lines=10, max_bytes=200)
    numbered = written_to(tail, lengths)
    kept = tail.lines()
    assert kept == numbered[len(numbered) - len(kept) :]
    assert len(kept) <= 10
    assert sum(len(line) + 1 for _, line in kept) <= 200


@given(chunks, st.integers(min_value=0, max_value=100))
def test_lines_after_a_number_have_higher_ones(lengths: list[list[int]], after: int) -> None:
    tail = LogTail(first=1, max_lines=50)
    written_to(tail, lengths)
    assert tail.lines(after) == [entry for entry in tail.lines() if entry[0] > after]


def test_last_ten_lines_are_kept_if_they_fit() -> None:
    tail = LogTail(first=1, max_lines=10)
    for number in range(1, 26):
        tail.add(b"%d\n" % number, 1)
    assert tail.lines() == [(number, b"%d" % number) for number in range(16, 26)]


def test_line_that_is_too_large_is_not_kept_and_has_a_number() -> None:
    tail = LogTail(first=1, max_bytes=100)
    tail.add(b"before\n", 1)
    tail.add(b"x" * 200 + b"\n", 1)
    tail.add(b"after\n", 1)
    assert tail.lines() == [(1, b"before"), (3, b"after")]


def test_many_large_chunks_take_bounded_memory() -> None:
    tail = LogTail()
    for _ in range(100):
        tail.add(b"x" * 99_999 + b"\n", 1)
    assert sum(len(line) + 1 for _, line in tail.lines()) <= MAX_BYTES


def test_writer_keeps_lines_that_were_held_while_the_pipe_was_full() -> None:
    reader, end = os.pipe()
    try:
        writer = LineWriter(end)
        lines = [b"%d " % number + b"x" * 1000 for number in range(200)]
        for line in lines:
            writer.write(line)
        while len(os.read(reader, 1_000_000)) and len(writer.tail.lines()) < 200:
            writer.flush()
        assert [line for _, line in writer.tail.lines()] == lines
    finally:
        os.close(reader)
        os.close(end)


def test_numbers_go_on_after_a_restart() -> None:
    before = LogTail()
    before.add(b"".join(b"%d\n" % number for number in range(10)), 10)
    time.sleep(0.001)  # a process that has written so many lines has lived longer
    after = LogTail()
    after.add(b"first\n", 1)
    assert after.lines(before.lines()[-1][0]) == after.lines()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_child_does_not_show_the_lines_of_its_parent(tmp_path: Path) -> None:
    with (tmp_path / "lines").open("wb", buffering=0) as file:
        writer = LineWriter(file.fileno())
        writer.write(b"of the parent")
        child = os.fork()
        if not child:
            os._exit(len(writer.tail.lines()))
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert [line for _, line in writer.tail.lines()] == [b"of the parent"]
