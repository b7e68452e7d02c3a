"""Workers that replace others: those that hang in their start, and the work that moves to them."""

import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from .support.workers import Pod, is_alive, run_pod

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="services with several workers run on Linux")

QUICK: Any = {"PROGRAM_POLL_SECONDS": "0.1", "APP_WORKER_START_SECONDS": "1"}


@asynccontextmanager
async def run_pod_that_will_hang(folder: Path) -> AsyncIterator[tuple[Pod, int]]:
    """A pod whose next workers hang in their start as long as `hangs` is there, and the process of its worker 0."""
    hangs = folder / "hangs"
    async with run_pod(PROGRAM_HANGS_WITH=str(hangs), **QUICK) as pod:
        await pod.ready()
        process = await pod.worker(0)
        hangs.touch()
        yield pod, process


async def test_worker_that_hangs_in_its_start_is_killed_and_started_again(tmp_path: Path) -> None:
    async with run_pod_that_will_hang(tmp_path) as (pod, process):
        os.kill(process, signal.SIGKILL)
        line = await pod.line("worker hangs; killing it", worker=0)
        assert line["state"] == "starting"
        (tmp_path / "hangs").unlink()
        assert is_alive(await pod.another_worker(0, process))
        assert await pod.sample("worker_restarts_total", reason="hung") == 1


async def test_worker_serves_on_while_the_one_that_is_to_replace_it_hangs(tmp_path: Path) -> None:
    async with run_pod_that_will_hang(tmp_path) as (pod, process):
        pod.send(signal.SIGHUP)
        await pod.line("worker not replaced, because the new one has failed to start", worker=0)
        assert await pod.worker(0) == process
        assert await pod.sample("worker_restarts_total") == 0


async def test_work_of_the_pod_moves_to_another_worker_while_its_worker_cannot_start(tmp_path: Path) -> None:
    hangs = tmp_path / "hangs"
    async with run_pod(PROGRAM_HANGS_WITH=str(hangs)) as pod:
        await pod.ready()
        assert (await pod.line("doing the work of the pod"))["worker"] == 0
        hangs.touch()
        os.kill(await pod.worker(0), signal.SIGKILL)
        line = await pod.line("doing the work of the pod", count=2)
        assert (line["worker"], line["tasks"]) == (1, ["in the pod"])
        await pod.line("periodic task done", task="in the pod", worker=1)


async def test_two_workers_never_do_the_work_of_the_pod() -> None:
    async with run_pod() as pod:
        await pod.ready()
        process = await pod.worker(0)
        pod.send(signal.SIGHUP)
        await pod.another_worker(0, process)
        second = await pod.line("doing the work of the pod", count=2)
        ended = await pod.line("left", worker=0)
        assert pod.lines.index(ended) < pod.lines.index(second)
        assert not is_alive(process)
