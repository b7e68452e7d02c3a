"""Sends a service ten times the load that it can serve, and prints as JSON how it responds.

    python -m benchmarks.overload <port> <admin port> <path> <seconds of each phase> [--short]

*Peak*: a few connections find the rate that the service can serve. *At peak*: that rate, however slow the responses
are. *Below peak*: four fifths of it. *Burst*: ten times that rate for 0.1 s. *Overload*: ten times that rate. *Closed
loop*: each connection asks again as soon as it has its response. *After*: half of the rate, and the time until no
request is shed. A request that is due while no connection is free is counted as not sent. Latencies of the overload
are for its first second, in which the service has to detect it, and for the rest. During both overloads, `/healthz`
and `/metrics` are requested ten times a second. `--short` leaves out *At peak* and *Below peak*, and what is compared
with them, finds the peak with one number of connections, and ends *After* early.
"""

import json
import os
import sys
import threading
import time
from typing import Any
from urllib.request import urlopen

from .openloop import TIMEOUT_SECONDS, Client, Responses

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


def main() -> None:
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, cores[1:] or cores)  # the first core is the service's
    port, admin_port, path, seconds = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], float(sys.argv[4])
    short = "--short" in sys.argv[5:]
    peak = 0.0
    for few in FEW_CONNECTIONS[1:2] if short else FEW_CONNECTIONS:
        peak = max(peak, Client(port, path, few).run(seconds, None).rate)
        time.sleep(PAUSE_SECONDS)
    many = Client(port, path, CONNECTIONS)  # now: a connection that sends nothing for ten seconds gets 408
    at_peak, below = Responses(), Responses()
    if not short:
        at_peak = many.run(seconds, peak)
        time.sleep(PAUSE_SECONDS)
        below = many.run(seconds, BELOW * peak)
    burst = many.run(BURST_SECONDS, TIMES * peak)
    probes = Probes(admin_port)
    probes.start()
    overload = many.run(seconds, TIMES * peak)
    time.sleep(PAUSE_SECONDS)
    closed = many.run(seconds, None)
    probes.stop()
    after = many.run(1.5 if short else max(seconds, 3.0), peak / 2)
    found: dict[str, Any] = {
        "peak_rate": round(peak, 1),
        "overload": {
            "asked_rate": round((overload.sent + overload.not_sent) / overload.seconds, 1),
            "goodput": round(overload.rate_within(seconds) / peak, 3),
            "first_second_p99_ms": overload.percentile(99, before=1),
            "p99_ms": overload.percentile(99, since=1),
            "shed": len(overload.shed_at),
            "not_sent": overload.not_sent,
            "without_retry_after": overload.without_retry_after,
        },
        "burst": {"sent": burst.sent, "shed": len(burst.shed_at)},
        "closed_loop": {
            "goodput": round(closed.rate_within(seconds) / peak, 3),
            "p99_ms": closed.percentile(99, since=1),
            "shed": len(closed.shed_at),
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
