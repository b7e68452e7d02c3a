"""What reaches standard output when a process ends, however it ends."""

import pytest

from .process import PACKAGE, run

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


@pytest.mark.parametrize("code", ["sys.exit(3)", "raise SystemExit(3)"])
async def test_exit_is_no_exception(code: str) -> None:
    async with run("-c", SETUP + code) as process:
        assert await process.end() == (3, "")
    assert process.lines == []


async def test_interrupt_is_no_line() -> None:
    async with run("-c", SETUP + "raise KeyboardInterrupt") as process:
        _, error = await process.end()
    assert process.lines == []
    assert error.endswith("KeyboardInterrupt\n")


async def test_uncaught_exception_of_a_thread_is_a_line() -> None:
    code = "import threading; thread = threading.Thread(target=lambda: 1 / 0); thread.start(); thread.join()"
    async with run("-c", SETUP + code) as process:
        assert await process.end() == (0, "")
    (line,) = process.lines
    assert "ZeroDivisionError" in line["exception"]
