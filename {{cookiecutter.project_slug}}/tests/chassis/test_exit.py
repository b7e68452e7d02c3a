"""What reaches standard output when a process ends, however it ends."""

import sys

import pytest

from .process import PACKAGE, run
from .service import observed

SETUP = f"import structlog, asyncio, sys; from {PACKAGE}.chassis.logs import Logs; Logs(format='json').install(); "


async def test_last_lines_are_written_at_the_exit() -> None:
    work = "async def work(): structlog.get_logger().info('last')\nasyncio.run(work())"
    async with run("-c", f"{SETUP}\n{work}") as process:
        assert await process.end() == (0, "")
    assert process.events == ["last"]


async def test_uncaught_exception_is_a_line() -> None:
    async with run("-c", f"{SETUP} raise RuntimeError('broken')") as process:
        assert await process.end() == (1, "")
    (line,) = process.lines
    assert (line["event"], line["level"]) == ("uncaught exception", "critical")
    assert line["exception"].endswith("RuntimeError: broken")


async def test_uncaught_exception_of_a_thread_is_a_line() -> None:
    code = "import threading; thread = threading.Thread(target=lambda: 1 / 0); thread.start(); thread.join()"
    async with run("-c", SETUP + code) as process:
        assert await process.end() == (0, "")
    (line,) = process.lines
    assert "ZeroDivisionError" in line["exception"]


def test_interrupt_is_no_line(capsys: pytest.CaptureFixture[str]) -> None:
    with observed() as seen:
        sys.excepthook(KeyboardInterrupt, KeyboardInterrupt(), None)
        assert seen.lines == []
    assert capsys.readouterr().err == "KeyboardInterrupt\n"
