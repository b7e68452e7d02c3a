"""Child processes on fixed cores, their CPU time and memory, and the facts of the machine."""

import ctypes
import os
import platform
import re
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PR_SET_PDEATHSIG = 1
LIBC = ctypes.CDLL(None)
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
STOP_SECONDS = 30.0
SHOWN_CHARACTERS = 1500
EMPTY: Mapping[str, str] = {}
# Variables of the caller that would change how a candidate behaves.
NOT_INHERITED = ("APP_", "OTEL_", "PYTHON", "PROMETHEUS_", "VIRTUAL_ENV", "UV_PYTHON", "UV_PROJECT")

_ALLOWED = sorted(os.sched_getaffinity(0))
ALL_CORES = frozenset(_ALLOWED)
SERVER_CORES = frozenset(_ALLOWED[:1])
LOAD_CORES = frozenset(_ALLOWED[1:2] or _ALLOWED)
OTHER_CORES = frozenset(_ALLOWED[2:]) or LOAD_CORES


class BenchError(Exception):
    """A section cannot be measured; the message says why."""


class Child:
    """A process that ends with its context, and with this process even after SIGKILL."""

    def __init__(
        self, command: Sequence[str | Path], *, cores: frozenset[int], env: Mapping[str, str] = EMPTY, **options: Any
    ) -> None:
        def prepare() -> None:
            LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            os.sched_setaffinity(0, cores)

        self.process = subprocess.Popen(
            [str(word) for word in command],
            env={name: value for name, value in os.environ.items() if not name.startswith(NOT_INHERITED)} | {**env},
            preexec_fn=prepare,  # noqa: PLW1509 - this process has one thread
            **{"cwd": ROOT, "stdin": subprocess.DEVNULL, **options},
        )

    def __enter__(self) -> "Child":
        return self

    def __exit__(self, *_: object) -> None:
        with self.process:  # which closes its streams and waits
            self.process.kill()

    def output(self) -> str:
        """Wait for the end and return standard output; BenchError if the exit status is not 0."""
        out, err = self.process.communicate()
        if self.process.returncode:
            message = (err or out or b"").decode(errors="replace").strip()[-SHOWN_CHARACTERS:]
            raise BenchError(f"{self.process.args!r} ended with {self.process.returncode}: {message}")
        return str((out or b"").decode())

    def interrupt_when(self, condition: Callable[[], bool]) -> None:
        """Press Ctrl-C on this condition, but not before the process has a handler for it."""
        while self.process.poll() is None:
            if condition() and _catches(self.process.pid, signal.SIGINT):
                self.process.send_signal(signal.SIGINT)
                return
            time.sleep(0.01)

    def stop(self, number: int) -> int:
        """Send a signal and return the exit status."""
        self.process.send_signal(number)
        return int(self.process.wait(STOP_SECONDS))

    def cpu_seconds(self) -> float:
        """CPU time of all threads and of all processes that it has started, user and system, since the start."""
        return sum(map(_cpu_seconds, self.processes()))

    def memory_mb(self) -> dict[str, float]:
        """Resident (rss) and proportional (pss) memory in MB of 1,000,000 bytes, of all its processes together."""
        memory = {"rss_mb": 0.0, "pss_mb": 0.0}
        for process in self.processes():
            rollup = Path(f"/proc/{process}/smaps_rollup").read_text()
            for name, value in re.findall(r"^(Rss|Pss):\s+(\d+) kB", rollup, re.MULTILINE):
                memory[f"{name.lower()}_mb"] += int(value) * 1024 / 1e6
        return {name: round(value, 1) for name, value in memory.items()}

    def processes(self) -> list[int]:
        """The process, and those that it has started."""
        found = [self.process.pid]
        for process in found:  # which grows meanwhile
            children = Path(f"/proc/{process}/task/{process}/children")
            found += map(int, children.read_text().split())
        return found


def _catches(process: int, number: int) -> bool:
    """Whether the process has a handler for this signal."""
    caught = re.search(r"^SigCgt:\s+(\w+)$", Path(f"/proc/{process}/status").read_text(), re.MULTILINE)
    return caught is not None and bool(int(caught[1], 16) >> (number - 1) & 1)


def _cpu_seconds(process: int) -> float:
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_SECOND


class CoreWatch:
    """CPU time of a server, and the share of its core that other processes take, from now on.

    If it is not `alone` on one core, the shares are unknown, and 0.
    """

    def __init__(self, server: Child, *, alone: bool = True) -> None:
        self._server = server
        self._alone = alone
        self._cpu, self._core, self._began = server.cpu_seconds(), _core_seconds(), time.perf_counter()

    def used(self) -> tuple[float, float, float]:
        """CPU seconds of the server, share of others, idle share."""
        seconds = time.perf_counter() - self._began
        cpu = self._server.cpu_seconds() - self._cpu
        if not self._alone:
            return cpu, 0.0, 0.0
        # The kernel counts in ticks, so each of the two differences can be off by one.
        others = max(0.0, _core_seconds() - self._core - cpu - 2 / TICKS_PER_SECOND) / seconds
        return cpu, round(others, 4), round(max(0.0, 1 - cpu / seconds - others), 4)


def _core_seconds() -> float:
    """Time in which any process ran on the server's core, and time that the hypervisor took."""
    line = re.search(rf"^cpu{min(SERVER_CORES)} (.*)$", Path("/proc/stat").read_text(), re.MULTILINE)
    if line is None:
        return 0.0
    user, nice, system, _idle, _wait, _irq, _softirq, steal, *_ = (int(ticks) for ticks in line[1].split())
    return (user + nice + system + steal) / TICKS_PER_SECOND


def run(command: Sequence[str | Path], *, cwd: Path = ROOT, **env: str) -> str:
    """Run a command to its end and return its output; BenchError if it fails."""
    with Child(command, cores=ALL_CORES, env=env, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        return child.output()


def machine_facts() -> dict[str, str]:
    """Kind and size of the machine, without its name."""
    memory = re.search(r"MemTotal:\s+(\d+)", Path("/proc/meminfo").read_text())
    model = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    kernel = ".".join(platform.release().split(".")[:2])
    alone = "The server has a core of its own" if SERVER_CORES != LOAD_CORES else "**One core for everything**"
    return {
        "processor": f"{model[1].strip() if model else platform.machine()}, {len(ALL_CORES)} cores",
        "memory": f"{int(memory[1]) / 1_048_576:.0f} GiB" if memory else "unknown",
        "system": f"Linux {kernel}, {platform.freedesktop_os_release().get('PRETTY_NAME', '')}",
        "placement": f"{alone}; load, log reader and collector share {len(LOAD_CORES | OTHER_CORES)}",
    }
