"""An open-loop client: it sends requests at a constant rate, however slow the responses are.

    python -m benchmarks.openloop <path> <seconds> <slices> <connections> <port>:<process>:<requests a second> ...

wrk sends the next request when the last one is done, so a slow server gets fewer requests and hides its slow
moments ("coordinated omission"). Here each request is due at a fixed time, and its latency counts from then. The
client polls without sleeping, because a timer's error would be larger than the latency.

Several servers are measured in turn, in short slices, so that a machine whose speed drifts changes all alike. A slice
in which the hypervisor took time, or in which others had the server's core, is left out.
"""

import gc
import json
import os
import re
import select
import socket
import sys
from collections import deque
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from statistics import median, quantiles
from time import perf_counter, thread_time

# When others have the client's core for longer, it cannot tell when responses came.
PAUSE_SECONDS = 0.0001
TIMEOUT_SECONDS = 10.0
WARM_UP_SHARE = 0.2
SHARES = (50, 95, 99)
DISTURBED_SHARE = 0.02  # of a slice, in which the server waits for its core
LENGTH = re.compile(rb"content-length: (\d+)", re.IGNORECASE)


@dataclass
class Responses:
    """Times in seconds. `served` holds pairs: when the request was due, from the start on, and its latency."""

    seconds: float = 0.0
    taken_share: float = 0.0
    """Of these seconds, in which others had the server's core."""
    sent: int = 0
    not_sent: int = 0
    left_out: int = 0
    served: list[tuple[float, float]] = field(default_factory=list)
    sent_late: list[float] = field(default_factory=list)
    shed_at: list[float] = field(default_factory=list)
    without_retry_after: int = 0

    @property
    def rate(self) -> float:
        """Successful responses a second."""
        return len(self.served) / (self.seconds * (1 - self.taken_share))

    def rate_within(self, seconds: float) -> float:
        """Successful responses a second in the first `seconds`; later ones are those of requests that waited."""
        return sum(due + latency <= seconds for due, latency in self.served) / (seconds * (1 - self.taken_share))

    def percentile(self, percent: int, since: float = 0.0, before: float = inf) -> float:
        """Latency in milliseconds of the requests that were due in this time; 0 if there were none."""
        share = 1 - self.taken_share
        latencies = [share * latency for due, latency in self.served if since <= due < before]
        if len(latencies) < 2:
            return 0.0
        return round(quantiles(latencies, n=100, method="inclusive")[percent - 1] * 1e3, 4)


class Client:
    """Connections that carry one request each at a time. Any status but 200 and 503 ends the process."""

    def __init__(self, port: int, path: str, connections: int) -> None:
        self._request = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode()
        self._poll = select.epoll()
        self._sockets: dict[int, socket.socket] = {}
        self._free: deque[int] = deque()
        self._due: dict[int, float] = {}
        self._received: dict[int, bytes] = {}
        for _ in range(connections):
            sock = socket.create_connection(("127.0.0.1", port))
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setblocking(False)
            self._sockets[sock.fileno()] = sock
            self._poll.register(sock.fileno(), select.EPOLLIN)
            self._free.append(sock.fileno())

    def run(self, seconds: float, rate: float | None, *, precise: bool = False) -> Responses:
        """Send at `rate`, or as fast as responses come.

        A request that is due while no connection is free is not sent. With `precise`, it waits for one, the client
        polls without sleeping, and requests in flight while others had its core are left out.
        """
        responses = Responses()
        began = due = last = perf_counter()
        last_ran = thread_time()
        until = began + seconds
        while True:
            now = perf_counter()
            while due <= now < until:
                if self._free:
                    self._send(due if rate else now, now, responses)
                elif rate and not precise:
                    responses.not_sent += 1
                else:
                    break
                due += 1 / rate if rate else 0.0
            if now >= until and not self._due:
                break
            if now > until + TIMEOUT_SECONDS:
                sys.exit(f"{len(self._due)} requests got no response")
            wait = 0.01 if rate is None else min(max(due - now, 0.0), 0.01)
            events = self._poll.poll(0 if precise else wait)
            served = len(responses.served)
            for number, _ in events:
                self._receive(number, began, responses)
            if precise:
                now, ran = perf_counter(), thread_time()
                if (now - last) - (ran - last_ran) > PAUSE_SECONDS:
                    responses.left_out += len(responses.served) - served + len(self._due)
                    del responses.served[served:]
                    self._due = dict.fromkeys(self._due, -1.0)
                    due = max(due, now)
                last, last_ran = now, ran
                if not events:
                    os.sched_yield()
        responses.seconds = perf_counter() - began
        return responses

    def _send(self, due: float, now: float, responses: Responses) -> None:
        number = self._free.popleft()
        self._due[number] = due
        self._sockets[number].send(self._request)
        responses.sent += 1
        responses.sent_late.append(now - due)

    def _receive(self, number: int, began: float, responses: Responses) -> None:
        part = self._sockets[number].recv(65536)
        if not part:
            sys.exit("the server closed a connection")
        data = self._received.pop(number, b"") + part
        headers, _, body = data.partition(b"\r\n\r\n")
        length = LENGTH.search(headers)
        if length is None or len(body) < int(length[1]):
            self._received[number] = data
            return
        now, due = perf_counter(), self._due.pop(number)
        self._free.append(number)
        status = headers[9:12]
        if status == b"503":
            responses.shed_at.append(now - began)
            responses.without_retry_after += b"\r\nretry-after: " not in headers
        elif status != b"200":
            sys.exit(f"neither 200 nor 503: {data[:200]!r}")
        elif due >= 0:
            responses.served.append((due - began, now - due))


@dataclass
class Target:
    """A server that is measured in slices, in turn with others."""

    process: int
    rate: float
    client: Client
    sent: int = 0
    shed: int = 0
    left_out: int = 0
    sent_late: float = 0.0
    percentiles: list[dict[int, float] | None] = field(default_factory=list)
    """In microseconds, of each slice; None if the slice was disturbed."""

    def run(self, seconds: float) -> None:
        """Measure one slice."""
        stolen, waited = stolen_ticks(), waited_seconds(self.process)
        found = self.client.run(seconds, self.rate, precise=True)
        is_disturbed = stolen_ticks() > stolen or waited_seconds(self.process) - waited > DISTURBED_SHARE * seconds
        self.sent += found.sent
        self.shed += len(found.shed_at)
        self.sent_late += sum(found.sent_late)
        self.left_out += found.sent if is_disturbed else found.left_out
        since = seconds * WARM_UP_SHARE
        values = {share: found.percentile(share, since) * 1e3 for share in SHARES}
        self.percentiles.append(None if is_disturbed or not all(values.values()) else values)

    def report(self) -> dict[str, object]:
        """The median of the slices, 0 without any; and the percentiles of each slice."""
        kept = [values for values in self.percentiles if values]
        medians = {f"p{share}_us": median(values[share] for values in kept) if kept else 0.0 for share in SHARES}
        counts = {"requests": self.sent, "shed": self.shed}
        late = {"sent_late_us": self.sent_late / self.sent * 1e6, "left_out": self.left_out / self.sent}
        return {**counts, **medians, **late, "slices": self.percentiles}


def stolen_ticks() -> int:
    """Time that the hypervisor took from all cores (proc(5), `/proc/stat`)."""
    return int(Path("/proc/stat").read_text().split()[8])


def waited_seconds(process: int) -> float:
    """Time that the main thread of a process has waited for its core."""
    return int(Path(f"/proc/{process}/schedstat").read_text().split()[1]) / 1e9


def main() -> None:
    path, seconds, slices, connections, *servers = sys.argv[1:]
    targets: list[Target] = []
    for server in servers:
        port, process, rate = server.split(":")
        targets.append(Target(int(process), float(rate), Client(int(port), path, int(connections))))
    gc.disable()
    for number in range(int(slices)):
        for target in targets if number % 2 else reversed(targets):
            target.run(float(seconds))
    print(json.dumps([target.report() for target in targets]))


if __name__ == "__main__":
    main()
