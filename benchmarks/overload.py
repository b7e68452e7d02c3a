"""Sends a service ten times the load that it can serve, and prints as JSON how it responds.

    python -m benchmarks.overload <port> <admin port> <path> <seconds of each phase>

*Peak*: a few connections find the rate that the service can serve. *At peak*: that rate, however slow the responses
are. *Overload*: ten times that rate. *After*: half of it, and the time until no request is shed. A request that is
due while no connection is free is counted as not sent. Latencies of the overload are for its first second, in which
the service has to detect it, and for the rest. Meanwhile `/healthz` and `/metrics` are requested ten times a second.
"""

import json
import os
import sys
import threading
import time
from urllib.request import urlopen

from .openloop import TIMEOUT_SECONDS, Client

TIMES = 10
FEW_CONNECTIONS = 8
CONNECTIONS = 400
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
    peak = Client(port, path, FEW_CONNECTIONS).run(seconds, None).rate
    many = Client(port, path, CONNECTIONS)  # now: a connection that sends nothing for ten seconds gets 408
    at_peak = many.run(seconds, peak)
    probes = Probes(admin_port)
    probes.start()
    overload = many.run(seconds, TIMES * peak)
    probes.stop()
    after = many.run(max(seconds, 3.0), peak / 2)
    found = {
        "peak_rate": round(peak, 1),
        "at_peak": {"rate": round(at_peak.rate, 1), "p99_ms": at_peak.percentile(99), "shed": len(at_peak.shed_at)},
        "overload": {
            "asked_rate": round((overload.sent + overload.not_sent) / overload.seconds, 1),
            "goodput": round(overload.rate / peak, 3),
            "first_second_p99_ms": overload.percentile(99, before=1),
            "p99_ms": overload.percentile(99, since=1),
            "p99_ratio": round(overload.percentile(99, since=1) / at_peak.percentile(99), 2),
            "shed": len(overload.shed_at),
            "not_sent": overload.not_sent,
            "without_retry_after": overload.without_retry_after,
        },
        "probes": {
            "most_ms": {path: round(longest * 1e3, 1) for path, longest in probes.longest_seconds.items()},
            "failed": probes.failed,
        },
        "after": {"normal_after_seconds": round(max(after.shed_at, default=0.0), 2), "p99_ms": after.percentile(99)},
    }
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
