"""The log lines when a process or a thread ends by an exception."""

import atexit
import sys
import threading

import pytest

from .support.process import run
from .support.service import observed

CODE = """if True:
    import asyncio, structlog
    from chassis.telemetry.logs import Logs

    async def work():
        structlog.get_logger().info("last words")

    Logs(format="json").install()
    asyncio.run(work())
    raise RuntimeError("broken")
"""


async def test_last_line_of_a_process_is_its_uncaught_exception() -> None:
    async with run("-c", CODE) as process:
        assert await process.end() == (1, "")
    words, line = process.lines
    assert (words["event"], line["event"], line["level"]) == ("last words", "uncaught exception", "critical")
    assert line["exception"].endswith("RuntimeError: broken")


def test_functions_at_exit_are_as_many_however_often_telemetry_is_installed() -> None:
    with observed() as seen:
        before = atexit._ncallbacks()
        for _ in range(3):
            seen.telemetry.install()
        assert atexit._ncallbacks() == before


def test_uncaught_exception_of_a_thread_is_a_line() -> None:
    thread = threading.Thread(target=lambda: 1 / 0)
    with observed() as seen:
        thread.start()
        thread.join()
        (line,) = seen.lines
    assert line["level"] == "error"
    assert "ZeroDivisionError" in line["exception"]


def test_interrupt_is_no_line(capsys: pytest.CaptureFixture[str]) -> None:
    with observed() as seen:
        sys.excepthook(KeyboardInterrupt, KeyboardInterrupt(), None)
        assert seen.lines == []
    assert capsys.readouterr().err == "KeyboardInterrupt\n"
