"""Debian's HAProxy in front of services, held by a test."""

import csv
import io
import os
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from running import PATIENCE_SECONDS, needs

# HAProxy hides no failure. With `retries 0` and no redispatch, each request goes to one server once. A rejected
# connection, a reset, or a close without a response is a failure of the client. Load balancers in production connect
# again when a connection is rejected. That is safe, and a service with a graceful shutdown does not even need it. There
# is no `retry-on`, which would send a request twice. One retry of HAProxy cannot be switched off: when a server closes
# a used connection without a response, HAProxy closes the client's silently. The client counts a failure then.
#
# Bodies are streamed (no `http-buffer-request`), so the service sees an upload while it is sent. HAProxy gives each
# request its id, so that its line here can be compared with the access line. A line here has the id, the server, the
# status, the way it ended (`--` is a success) and the bytes of the response. One thread, because HAProxy drops one of
# two lines that are written at the same time.
CONFIGURATION = """
global
    nbthread 1
    log stdout format raw local0
    stats socket fd@{figures}

defaults
    mode http
    log global
    log-format "%ID %s %ST %ts %B"
    option dontlognull
    option http-keep-alive
    http-reuse safe
    retries 0
    timeout connect 5s
    timeout client 60s
    timeout server 60s
    timeout http-request 60s
    timeout check 10s

frontend clients
    bind fd@{clients}
    unique-id-format %[uuid()]
    unique-id-header x-request-id
    default_backend services

backend services
    balance roundrobin
    option httpchk GET /readyz
    http-check expect status 200
    default-server check inter {check_milliseconds}ms downinter 100ms fall 1 rise 1
"""


@dataclass(frozen=True)
class Handed:
    """A request that HAProxy has handed on, as its log says."""

    request_id: str
    server: str
    status: int
    end: str


class Balancer:
    """HAProxy, keeping connections to services on these ports alive and asking for their readiness.

    It checks each that is up every `check_seconds`, so it may notice a change so much later. A response may take
    longer: on a busy machine, a slow response must not remove a healthy service.
    """

    def __init__(self, folder: Path, ports: Sequence[int], *, check_seconds: float) -> None:
        needs("haproxy")
        self._log = folder / "haproxy.log"
        # HAProxy inherits its sockets, so nobody else can get their ports.
        self._clients, self._figures = (socket.create_server(("127.0.0.1", 0), backlog=1024) for _ in range(2))
        self.url = f"http://127.0.0.1:{self._clients.getsockname()[1]}"
        self._figures_address = self._figures.getsockname()
        sockets = {"clients": self._clients.fileno(), "figures": self._figures.fileno()}
        servers = "".join(f"    server {server_name(port)} 127.0.0.1:{port}\n" for port in ports)
        config = folder / "haproxy.cfg"
        config.write_text(CONFIGURATION.format(**sockets, check_milliseconds=round(check_seconds * 1000)) + servers)
        self._command = ["haproxy", "-db", "-f", str(config)]

    def __enter__(self) -> Self:
        # To a file, not a pipe: HAProxy would drop lines rather than wait for a reader.
        with self._log.open("wb") as log, self._clients, self._figures:
            self._process = subprocess.Popen(
                self._command,
                env={"PATH": os.environ["PATH"]},
                pass_fds=[self._clients.fileno(), self._figures.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        remarks = [line for line in self._log.read_text().splitlines() if not is_request(line)]
        print("HAProxy:", *remarks[-100:], sep="\n")

    def stop(self) -> None:
        """End at once."""
        self._process.kill()
        self._process.wait()

    def wait_for(self, port: int, status: str) -> None:
        """Wait until the service on this port is `UP` or `DOWN`."""
        self.wait_until(server_name(port), "status", lambda value: value == status)

    def wait_for_answers(self, count: int) -> None:
        """Wait until so many requests have had a successful response."""
        self.wait_until("BACKEND", "hrsp_2xx", lambda value: int(value) >= count)

    def wait_until(self, name: str, field: str, wanted: Callable[[str], bool]) -> None:
        """Wait until a figure of a server, or of all (`BACKEND`), is as wanted."""
        until = time.monotonic() + PATIENCE_SECONDS
        while not wanted(value := self.figures().get(name, {}).get(field, "0")):
            assert self._process.poll() is None, "HAProxy has ended"
            assert time.monotonic() < until, f"{field} of {name} stays {value}"
            time.sleep(0.02)

    def figures(self) -> dict[str, dict[str, str]]:
        """HAProxy's counters, for each server and for `BACKEND`."""
        try:
            with socket.create_connection(self._figures_address, PATIENCE_SECONDS) as connection:
                connection.sendall(b"show stat\n")
                with connection.makefile() as answer:
                    rows = csv.DictReader(io.StringIO(answer.read().removeprefix("# ")))
        except ConnectionError:  # it has ended
            return {}
        return {row["svname"]: row for row in rows if row["pxname"] == "services"}

    def handed(self) -> list[Handed]:
        """Every request until now."""
        parts = (line.split() for line in self._log.read_text().splitlines() if is_request(line))
        return [Handed(request_id, server, int(status), end) for request_id, server, status, end, _ in parts]


def server_name(port: int) -> str:
    return f"service-{port}"


def is_request(line: str) -> bool:
    parts = line.split()
    return len(parts) == 5 and len(parts[0]) == 36
