"""What puts load on a server: wrk for as much as it takes, our open-loop client for a constant rate."""

import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .processes import BenchError, Child

HERE = Path(__file__).parent
ERRORS = ("connect", "read", "write", "status", "timeout")
VALID_ITEM = '{"name":"item 1","quantity":2,"tags":["a","b"]}'


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked: a GET, or a POST of a JSON text or of so many bytes."""

    path: str = "/items/1"
    post: str | int | None = None

    def arguments(self) -> list[str]:
        if self.post is None:
            return ["GET"]
        kind = "application/json" if isinstance(self.post, str) else "application/octet-stream"
        return ["POST", kind, str(self.post)]


ITEM = Request()
NEW_ITEM = Request("/items", VALID_ITEM)


@dataclass(frozen=True, slots=True)
class Answered:
    """What wrk saw; latencies in microseconds, as a client that asks again at once sees them."""

    requests: int
    seconds: float
    p50_us: float
    p99_us: float

    @property
    def rate(self) -> float:
        """Requests a second."""
        return self.requests / self.seconds


def find_wrk() -> str:
    """Where wrk is, or an error that says how to get it."""
    found = shutil.which("wrk")
    if found is None:
        raise BenchError("wrk is not installed; on Debian and Ubuntu: apt-get install wrk; on macOS: brew install wrk")
    return found


def wrk_version() -> str:
    """As the tool names itself."""
    said = subprocess.run([find_wrk(), "--version"], capture_output=True, text=True, check=False).stdout
    return " ".join(said.split()[:2])


def run_wrk(port: int, request: Request, *, connections: int, seconds: float, cores: frozenset[int]) -> Answered:
    """Ask as fast as answers come; any status but 2xx and any socket error is an error of the run."""
    arguments = ["--threads", "1", "--connections", str(connections), "--duration", f"{max(1, round(seconds))}s"]
    arguments += ["--timeout", "30s", "--script", str(HERE / "wrk.lua"), f"http://127.0.0.1:{port}{request.path}"]
    said = _output([find_wrk(), *arguments, "--", *request.arguments()], cores)
    report: dict[str, int] = json.loads(said.strip().rpartition("\n")[2])
    if not report["requests"]:
        raise BenchError("wrk got no answer")
    wrong = {name: report[name] for name in ERRORS if report[name]}
    if wrong:
        raise BenchError(f"wrk saw errors: {wrong}")
    return Answered(report["requests"], report["microseconds"] / 1e6, float(report["p50"]), float(report["p99"]))


def run_open_loop(
    python: Path, port: int, *, rate: float, seconds: float, connections: int, cores: frozenset[int]
) -> dict[str, Any]:
    """Ask at a constant rate; see `openloop.py`."""
    arguments = [str(port), ITEM.path, f"{rate:.1f}", str(seconds), str(connections)]
    said: dict[str, Any] = json.loads(_output([python, HERE / "openloop.py", *arguments], cores))
    return said


def _output(arguments: list[Any], cores: frozenset[int]) -> str:
    with Child(arguments, cores=cores, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        out, err = child.process.communicate()
        if child.process.returncode:
            raise BenchError(f"{Path(arguments[0]).name}: {err.decode().strip()[-500:]}")
        return out.decode()
