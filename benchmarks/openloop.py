"""An open-loop client: asks at a constant rate, whatever the answers do; a process of its own.

    python openloop.py <port> <path> <requests a second> <seconds> <connections>

wrk asks again as soon as it is answered, so that a slow moment of the server makes it ask less and
hides itself ("coordinated omission"). Here each request is due at a fixed time and its latency counts
from then, also when no connection was free. One thread polls without sleeping, so that its own timers
don't blur microseconds; it yields the core whenever nothing has happened. When the machine has taken
its core from it for longer than `PAUSE_SECONDS`, it can't tell when answers came: what was under way is
left out, and what was due meanwhile isn't asked. The first fifth of the time warms up and isn't counted.
Prints percentiles in microseconds, how late the requests were sent, and how many were left out.
"""

import gc
import json
import os
import select
import socket
import sys
from array import array
from collections import deque
from time import perf_counter, thread_time

WARM_UP_SHARE = 0.2
PAUSE_SECONDS = 0.0001
LEFT_OUT = -1.0  # for a request's due time
PERCENTILES = (50.0, 95.0, 99.0, 99.9)


class Client:
    """Connections that each have at most one request under way."""

    def __init__(self, port: int, path: str, connections: int) -> None:
        self.request = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAccept: */*\r\n\r\n".encode()
        self.poll = select.epoll()
        self.sockets: dict[int, socket.socket] = {}
        self.free: deque[int] = deque()
        self.due: dict[int, float] = {}
        self.parts: dict[int, bytes] = {}
        self.latencies = array("d")
        self.delays = array("d")
        self.end = b""
        self.asked = self.left_out = 0
        self._now = self._ran = 0.0
        for _ in range(connections):
            sock = socket.create_connection(("127.0.0.1", port))
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.end = self.end or self._learn(sock)
            sock.setblocking(False)
            self.sockets[sock.fileno()] = sock
            self.poll.register(sock.fileno(), select.EPOLLIN)
            self.free.append(sock.fileno())

    def _learn(self, sock: socket.socket) -> bytes:
        """The body of the first answer; each answer is complete when it ends so."""
        sock.sendall(self.request)
        self.asked += 1
        data = b""
        while b"\r\n\r\n" not in data or not data.endswith(b"}"):
            data += sock.recv(65536)
        return data.partition(b"\r\n\r\n")[2]

    def run(self, rate: float, seconds: float) -> None:
        """Ask for `seconds`; what is still under way a second later is an error."""
        interval = 1.0 / rate
        began = due = self._now = perf_counter()
        self._ran = thread_time()
        counted_from = began + seconds * WARM_UP_SHARE
        until = began + seconds
        while True:
            now = perf_counter()
            while due <= now and due < until and self.free:
                self._ask(due, now if due >= counted_from else None)
                due += interval
            if now > until + 1.0:
                sys.exit("the server can't keep up with this rate")
            events = self.poll.poll(0)
            answered = [self._take(number) for number, _ in events]
            if self._paused():
                self.left_out += len(answered) + len(self.due)
                self.due = dict.fromkeys(self.due, LEFT_OUT)
                due = max(due, self._now)
            else:
                self.latencies.extend(latency for due_then, latency in answered if due_then >= counted_from)
            if not events:
                if due >= until and not self.due:
                    return
                os.sched_yield()

    def _paused(self) -> bool:
        """Whether somebody else has had the core since this was last asked."""
        now, ran = perf_counter(), thread_time()
        paused = (now - self._now) - (ran - self._ran)
        self._now, self._ran = now, ran
        return paused > PAUSE_SECONDS

    def _ask(self, due: float, now: float | None) -> None:
        number = self.free.popleft()
        self.due[number] = due
        if now is not None:
            self.delays.append(now - due)
        self.sockets[number].send(self.request)
        self.asked += 1

    def _take(self, number: int) -> tuple[float, float]:
        """When the request was due that is answered now, and its latency."""
        data = self.parts.pop(number, b"") + self.sockets[number].recv(65536)
        if not data.endswith(self.end):
            if not data:
                sys.exit("the server closed a connection")
            self.parts[number] = data
            return LEFT_OUT, 0.0  # there is more to come
        due = self.due.pop(number)
        if not data.startswith(b"HTTP/1.1 200"):
            sys.exit(f"not 200: {data[:60]!r}")
        self.free.append(number)
        return due, perf_counter() - due


def percentiles(values: array[float]) -> dict[str, float]:
    ordered = sorted(values)
    last = len(ordered) - 1
    return {f"p{share:g}": round(ordered[round(last * share / 100)] * 1e6, 1) for share in PERCENTILES}


def main() -> None:
    port, path, rate, seconds, connections = sys.argv[1:]
    client = Client(int(port), path, int(connections))
    gc.disable()
    client.run(float(rate), float(seconds))
    counted = float(seconds) * (1 - WARM_UP_SHARE)
    print(
        json.dumps(
            {
                "requests": client.asked,
                "rate": round(len(client.latencies) / counted, 1),
                "latency_us": percentiles(client.latencies),
                "sent_late_us": percentiles(client.delays),
                "left_out": round(client.left_out / client.asked, 4),
            }
        )
    )


if __name__ == "__main__":
    main()
