"""Workers that replace others: those that hang in their start."""

import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from .support.workers import is_alive, run_pod

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="services with several workers run on Linux")

QUICK: Any = {"PROGRAM_POLL_SECONDS": "0.1", "APP_WORKER_START_SECONDS": "1"}


async def test_worker_that_hangs_in_its_start_is_killed_and_started_again(tmp_path: Path) -> None:
    hangs = tmp_path / "hangs"
    async with run_pod(PROGRAM_HANGS_WITH=str(hangs), **QUICK) as pod:
        await pod.ready()
        process = await pod.worker(0)
        hangs.touch()
        os.kill(process, signal.SIGKILL)
        line = await pod.line("worker hangs; killing it", worker=0)
        assert line["state"] == "starting"
        hangs.unlink()
        assert is_alive(await pod.another_worker(0, process))
        assert await pod.sample("worker_restarts_total", reason="hung") == 1


async def test_worker_serves_on_while_the_one_that_is_to_replace_it_hangs(tmp_path: Path) -> None:
    hangs = tmp_path / "hangs"
    async with run_pod(PROGRAM_HANGS_WITH=str(hangs), **QUICK) as pod:
        await pod.ready()
        process = await pod.worker(0)
        hangs.touch()
        pod.send(signal.SIGHUP)
        await pod.line("worker not replaced, because the new one has failed to start", worker=0)
        assert await pod.worker(0) == process
        assert await pod.sample("worker_restarts_total") == 0
