"""Asks a service for ten times as much as it can do, and tells how it bore it; a process of its own.

    python overload.py <port> <admin port> <path> <seconds of each phase>

Four phases. *Peak*: a few connections that ask again at once find the rate that the service can serve.
*At peak*: that rate, whatever the answers do. *Overload*: ten times that rate. *After*: half of it, and how
long until nobody is turned away. In all but the first each request is due at a fixed time and counts from
then; one that finds no free connection is not sent, and counted as such. Latencies of the overload are told for
its first second, in which the service must notice, and for the rest. Beside the overload `/healthz` and
`/metrics` are asked ten times a second. Prints JSON; latencies in milliseconds.
"""

import http.client
import json
import os
import select
import socket
import sys
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from math import inf

TIMES = 10
FEW_CONNECTIONS = 8
CONNECTIONS = 400
PROBE_SECONDS = 0.1
TIMEOUT_SECONDS = 10.0


@dataclass
class Answers:
    """What came back: latencies of those that were served, when others were turned away."""

    seconds: float = 0.0
    sent: int = 0
    not_sent: int = 0
    served: list[tuple[float, float]] = field(default_factory=list)  # latency, and when it was due
    shed_at: list[float] = field(default_factory=list)
    without_retry_after: int = 0

    @property
    def rate(self) -> float:
        """Answers of success a second."""
        return len(self.served) / self.seconds

    def percentile(self, share: float, *, since: float = 0.0, before: float = inf) -> float:
        """Of the latencies of what was due in that time, in milliseconds."""
        ordered = sorted(latency for latency, due in self.served if since <= due < before)
        return round(ordered[min(len(ordered) - 1, int(len(ordered) * share))] * 1e3, 1) if ordered else 0.0


class Client:
    """Connections that each have at most one request under way; any answer but 200 and 503 is an error."""

    def __init__(self, port: int, path: str, connections: int) -> None:
        self._request = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode()
        self._poll = select.epoll()
        self._sockets: dict[int, socket.socket] = {}
        self._free: deque[int] = deque()
        self._due: dict[int, float] = {}
        for _ in range(connections):
            sock = socket.create_connection(("127.0.0.1", port))
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setblocking(False)
            self._sockets[sock.fileno()] = sock
            self._poll.register(sock.fileno(), select.EPOLLIN)
            self._free.append(sock.fileno())

    def run(self, seconds: float, rate: float | None) -> Answers:
        """Ask at this rate, or as fast as answers come."""
        answers = Answers()
        began = due = time.perf_counter()
        until = began + seconds
        while True:
            now = time.perf_counter()
            if now < until:
                if rate is None:
                    while self._free:
                        self._ask(now, answers)
                else:
                    while due <= now:
                        if self._free:
                            self._ask(due, answers)
                        else:
                            answers.not_sent += 1
                        due += 1 / rate
            elif not self._due:
                break
            elif now > until + TIMEOUT_SECONDS:
                sys.exit(f"{len(self._due)} requests have no answer")
            wait = 0.01 if rate is None else max(0.0, min(due - now, 0.01))
            for number, _ in self._poll.poll(wait):
                self._take(number, answers, began)
        answers.seconds = time.perf_counter() - began
        return answers

    def close(self) -> None:
        """Leave."""
        for sock in self._sockets.values():
            sock.close()
        self._poll.close()

    def _ask(self, due: float, answers: Answers) -> None:
        number = self._free.popleft()
        self._due[number] = due
        self._sockets[number].send(self._request)
        answers.sent += 1

    def _take(self, number: int, answers: Answers, began: float) -> None:
        data = self._sockets[number].recv(65536)
        if not data:
            sys.exit("the service closed a connection")
        now = time.perf_counter()
        due = self._due.pop(number)
        self._free.append(number)
        status = data[9:12]
        if status == b"200":
            answers.served.append((now - due, due - began))
        elif status == b"503":
            answers.shed_at.append(now - began)
            answers.without_retry_after += b"\r\nretry-after: " not in data
        else:
            sys.exit(f"neither 200 nor 503: {data[:200]!r}")


class Probes(threading.Thread):
    """Asks the admin port ten times a second, each time anew, as a kubelet and a scraper do."""

    def __init__(self, port: int) -> None:
        super().__init__(daemon=True)
        self._port = port
        self._stopped = threading.Event()
        self.most_seconds = {"/healthz": 0.0, "/metrics": 0.0}
        self.failed = 0

    def run(self) -> None:
        """Until `stop`."""
        while not self._stopped.wait(PROBE_SECONDS):
            for path in self.most_seconds:
                began = time.perf_counter()
                try:
                    connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=TIMEOUT_SECONDS)
                    connection.request("GET", path)
                    self.failed += connection.getresponse().status != http.client.OK
                    connection.close()
                except OSError:
                    self.failed += 1
                self.most_seconds[path] = max(self.most_seconds[path], time.perf_counter() - began)

    def stop(self) -> None:
        """End, when what is under way is answered."""
        self._stopped.set()
        self.join()


def leave_a_core() -> None:
    """The first core is the service's, where there are two."""
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, cores[1:] or cores)


def main() -> None:
    leave_a_core()
    port, admin_port, path, seconds = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], float(sys.argv[4])
    few, many = Client(port, path, FEW_CONNECTIONS), Client(port, path, CONNECTIONS)
    peak = few.run(seconds, None).rate
    few.close()
    at_peak = many.run(seconds, peak)
    probes = Probes(admin_port)
    probes.start()
    overload = many.run(seconds, TIMES * peak)
    probes.stop()
    after = many.run(max(seconds, 3.0), peak / 2)
    print(
        json.dumps(
            {
                "peak_rate": round(peak, 1),
                "at_peak": {
                    "rate": round(at_peak.rate, 1),
                    "p99_ms": at_peak.percentile(0.99),
                    "shed": len(at_peak.shed_at),
                },
                "overload": {
                    "asked_rate": round((overload.sent + overload.not_sent) / overload.seconds, 1),
                    "goodput": round(overload.rate / peak, 3),
                    "first_second_p99_ms": overload.percentile(0.99, before=1),
                    "p50_ms": overload.percentile(0.5, since=1),
                    "p99_ms": overload.percentile(0.99, since=1),
                    "p99_ratio": round(overload.percentile(0.99, since=1) / at_peak.percentile(0.99), 2),
                    "shed": len(overload.shed_at),
                    "not_sent": overload.not_sent,
                    "without_retry_after": overload.without_retry_after,
                },
                "probes": {
                    "most_ms": {path: round(most * 1e3, 1) for path, most in probes.most_seconds.items()},
                    "failed": probes.failed,
                },
                "after": {
                    "normal_after_seconds": round(max(after.shed_at, default=0.0), 2),
                    "p99_ms": after.percentile(0.99),
                },
            },
            indent=2,
        )
    )


if __name__ == "__main__":
    main()
