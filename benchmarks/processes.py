"""Child processes: started on their cores, ended with the benchmark however it ends, and asked what they use."""

import ctypes
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from .machine import Cores

PR_SET_PDEATHSIG = 1
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
LIBC = ctypes.CDLL(None)

# Nothing of the caller's may steer a candidate, nor keep its bytecode from being kept.
NOT_INHERITED = ("APP_", "OTEL_", "PYTHON", "PROMETHEUS_", "VIRTUAL_ENV", "UV_")


class BenchError(Exception):
    """The benchmark can't say anything true; it ends here."""


def clean_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The caller's environment without what would steer a candidate, and with `extra`."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(NOT_INHERITED)}
    return kept | dict(extra or {})


class Child:
    """A process of ours; leaving the context ends it, and so does the end of this process, even by SIGKILL."""

    def __init__(
        self,
        arguments: Sequence[str | Path],
        *,
        cores: frozenset[int],
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        stdin: int | IO[bytes] | None = subprocess.DEVNULL,
        stdout: int | IO[bytes] | None = None,
        stderr: int | IO[bytes] | None = None,
    ) -> None:
        parent = os.getpid()

        def prepare() -> None:
            LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != parent:
                os._exit(1)
            os.sched_setaffinity(0, cores)

        self.process: subprocess.Popen[bytes] = subprocess.Popen(
            [str(one) for one in arguments],
            env=clean_environment(env),
            cwd=cwd,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            preexec_fn=prepare,  # noqa: PLW1509 - this process has one thread
        )
        self.pid = self.process.pid

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                stream.close()

    def read_line(self) -> bytes:
        """The next line of its standard output, which must be a pipe."""
        if self.process.stdout is None:
            raise ValueError("standard output is not a pipe")
        return self.process.stdout.readline()

    def stop(self, number: int, seconds: float = 30.0) -> int:
        """Send a signal and wait for the end; the exit status."""
        self.process.send_signal(number)
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise BenchError(f"a process didn't end within {seconds} s of signal {number}") from None

    def cpu_seconds(self) -> float:
        """Processor time of all its threads, user and system, since it began."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(") ")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS_PER_SECOND

    def memory_mb(self) -> dict[str, float]:
        """Resident and proportional set size, in MB of 1,000,000 bytes."""
        rollup = Path(f"/proc/{self.pid}/smaps_rollup").read_text()
        return {
            name.lower(): round(int(value) * 1024 / 1e6, 1)
            for name, value in re.findall(r"^(Rss|Pss):\s+(\d+) kB", rollup, re.MULTILINE)
        }


class CoreWatch:
    """What a server, and whoever else, takes of the server's core from now on."""

    def __init__(self, server: Child, cores: Cores) -> None:
        self._server = server
        self._core = min(cores.server)
        self._cpu = server.cpu_seconds()
        self._all = core_seconds(self._core)
        self._began = time.perf_counter()

    def used(self) -> tuple[float, float]:
        """CPU seconds of the server, and the share of the time that others had the core."""
        seconds = time.perf_counter() - self._began
        cpu = self._server.cpu_seconds() - self._cpu
        # The kernel counts in ticks: two of them, one for each count, may be nobody's.
        foreign = core_seconds(self._core) - self._all - cpu - 2 / TICKS_PER_SECOND
        return cpu, max(0.0, foreign) / seconds


def core_seconds(core: int) -> float:
    """Time for which anybody's program ran on a core, without interrupts, and what the hypervisor stole."""
    found = re.search(rf"^cpu{core} (.*)$", Path("/proc/stat").read_text(), re.MULTILINE)
    if found is None:
        return 0.0
    user, nice, system, _idle, _wait, _irq, _softirq, steal, *_ = (int(one) for one in found[1].split())
    return (user + nice + system + steal) / TICKS_PER_SECOND


def run_quietly(
    arguments: Sequence[str | Path], *, env: Mapping[str, str] | None = None, cwd: Path | None = None
) -> str:
    """Run to the end and give its standard output, or raise with the end of what it said."""
    done = subprocess.run(
        [str(one) for one in arguments], env=env, capture_output=True, text=True, check=False, cwd=cwd
    )
    if done.returncode:
        said = (done.stderr or done.stdout).strip()[-1500:]
        raise BenchError(f"{Path(arguments[0]).name} {arguments[1]} ended with {done.returncode}:\n{said}")
    return done.stdout


def stop_on_signals() -> None:
    """Let SIGTERM end this process as Ctrl-C does, so that contexts are left and children are ended."""

    def leave(number: int, _frame: object) -> None:
        sys.exit(128 + number)

    signal.signal(signal.SIGTERM, leave)
    signal.signal(signal.SIGHUP, leave)
