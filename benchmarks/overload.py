"""Sends a service ten times the load that it can serve, and prints as JSON how it responds.

    python -m benchmarks.overload <port> <admin port> <process> <path> <seconds of each phase> [--short]

*Peak*: a few connections find the rate that the service can serve. *At peak*: that rate, however slow the responses
are. *Below peak*: four fifths of it. *Burst*: ten times that rate for 0.1 s. *Overload*: ten times that rate. *Closed
loop*: each connection asks again as soon as it has its response. *After*: half of the rate, and the time until no
request is shed. A request that is due while no connection is free is counted as not sent. Latencies of the overload
are for its first second, in which the service has to detect it, and for the rest. During both overloads, `/healthz`
and `/metrics` are requested ten times a second. `--short` leaves out *At peak* and *Below peak*, and what is compared
with them, finds the peak with one number of connections, and ends *After* early.

The process of the service must run on the first core. Rates and latencies leave out the share of the time in which it
waited for others to leave that core.
"""

import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from .openloop import TIMEOUT_SECONDS, Client, Responses, waited_seconds

TIMES = 10
BELOW = 0.8
FEW_CONNECTIONS = (8, 16, 32)
CONNECTIONS = 400
BURST_SECONDS = 0.1
PAUSE_SECONDS = 1.5  # until the service has forgotten the overload before
PROBE_SECONDS = 0.1


class Probes(threading.Thread):
    """Requests the admin port on a new connection each time, as a kubelet and a scraper do."""

    def __init__(self, port: int) -> None:
        super().__init__(daemon=True)
        self._port = port
        self._stopped = threading.Event()
        self.longest_seconds = {"/healthz": 0.0, "/metrics": 0.0}
        self.failed = 0

    def run(self) -> None:
        """Until `stop`."""
        while not self._stopped.wait(PROBE_SECONDS):
            for path in self.longest_seconds:
                began = time.perf_counter()
                try:
                    urlopen(f"http://127.0.0.1:{self._port}{path}", timeout=TIMEOUT_SECONDS).close()
                except OSError:  # an error status as well
                    self.failed += 1
                self.longest_seconds[path] = max(self.longest_seconds[path], time.perf_counter() - began)

    def stop(self) -> None:
        """Wait for the response of the last probe."""
        self._stopped.set()
        self.join()


class Server:
    """The service, which has a core of its own."""

    def __init__(self, process: int, core: int) -> None:
        self._process = Path(f"/proc/{process}")
        self._core = core

    def load(self, client: Client, seconds: float, rate: float | None, *, is_closed_loop: bool = False) -> Responses:
        """The responses under a load. In a closed loop, requests are missing while the client waits for a core."""
        taken, waited, client_waited = self._taken_seconds(), self._waited_seconds(), waited_seconds(os.getpid())
        responses = client.run(seconds, rate)
        lost = min(self._taken_seconds() - taken, self._waited_seconds() - waited)
        if is_closed_loop:
            lost = max(lost, waited_seconds(os.getpid()) - client_waited)
        responses.taken_share = min(max(lost / responses.seconds, 0.0), 0.95)
        return responses

    def _taken_seconds(self) -> float:
        """Time in which others had the core: the hypervisor, and all processes but this one (proc(5))."""
        lines = Path("/proc/stat").read_text().splitlines()
        (line,) = (line for line in lines if line.startswith(f"cpu{self._core} "))
        user, nice, system, _idle, _iowait, *others = map(int, line.split()[1:9])
        own = (self._process / "stat").read_text().rpartition(")")[2].split()
        return (user + nice + system + sum(others) - int(own[11]) - int(own[12])) / os.sysconf("SC_CLK_TCK")

    def _waited_seconds(self) -> float:
        """Time in which threads of the process waited for the core, also for each other."""
        return sum(int(file.read_text().split()[1]) for file in self._process.glob("task/*/schedstat")) / 1e9


def main() -> None:
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, cores[1:] or cores)  # the first core is the service's
    port, admin_port, process, path, seconds = *map(int, sys.argv[1:4]), sys.argv[4], float(sys.argv[5])
    short = "--short" in sys.argv[6:]
    server = Server(process, cores[0])
    peak = 0.0
    for few in FEW_CONNECTIONS[1:2] if short else FEW_CONNECTIONS:
        peak = max(peak, server.load(Client(port, path, few), seconds, None).rate)
        time.sleep(PAUSE_SECONDS)
    many = Client(port, path, CONNECTIONS)  # now: a connection that sends nothing for ten seconds gets 408
    at_peak, below = Responses(), Responses()
    if not short:
        at_peak = server.load(many, seconds, peak)
        time.sleep(PAUSE_SECONDS)
        below = server.load(many, seconds, BELOW * peak)
    burst = server.load(many, BURST_SECONDS, TIMES * peak)
    probes = Probes(admin_port)
    probes.start()
    overload = server.load(many, seconds, TIMES * peak)
    time.sleep(PAUSE_SECONDS)
    closed = server.load(many, seconds, None, is_closed_loop=True)
    probes.stop()
    after = server.load(many, 1.0 if short else max(seconds, 3.0), peak / 2)
    found: dict[str, Any] = {
        "peak_rate": round(peak, 1),
        "overload": {
            "asked_rate": round((overload.sent + overload.not_sent) / overload.seconds, 1),
            "goodput": round(overload.rate_within(seconds) / peak, 3),
            "first_second_p99_ms": overload.percentile(99, before=1),
            "p99_ms": overload.percentile(99, since=1),
            "shed": len(overload.shed_at),
            "taken_share": round(overload.taken_share, 2),
            "not_sent": overload.not_sent,
            "without_retry_after": overload.without_retry_after,
        },
        "burst": {"sent": burst.sent, "shed": len(burst.shed_at)},
        "closed_loop": {
            "goodput": round(closed.rate_within(seconds) / peak, 3),
            "p99_ms": closed.percentile(99, since=1),
            "shed": len(closed.shed_at),
            "taken_share": round(closed.taken_share, 2),
        },
        "probes": {
            "most_ms": {path: round(longest * 1e3, 1) for path, longest in probes.longest_seconds.items()},
            "failed": probes.failed,
        },
        "after": {
            "goodput": round(after.rate / peak, 3),  # at best 0.5
            "normal_after_seconds": round(max(after.shed_at, default=0.0), 2),
            "p99_ms": after.percentile(99),
        },
    }
    if not short:
        usual_ms = at_peak.percentile(99)
        found["at_peak"] = {"rate": round(at_peak.rate, 1), "p99_ms": usual_ms, "shed": len(at_peak.shed_at)}
        found["below_peak_shed"] = len(below.shed_at)
        for load in ("overload", "closed_loop"):
            found[load]["p99_ratio"] = round(found[load]["p99_ms"] / usual_ms, 2)
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
