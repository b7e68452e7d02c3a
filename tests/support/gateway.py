"""A system of generated services: gateways, and two backends with three replicas each, as processes under load."""

import os
import random
import signal
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Self

from gateway_fronts import Front, Ports, front
from gateway_projects import BACKENDS, Projects
from open_load import OpenLoad
from running import Service, fixed_port

REPLICAS = 3
SHOWN_LINES = 10
VARIABLES = {"APP_DRAIN_SECONDS": "1", "APP_FAULT_INJECTION": "true", "APP_FAULT_INJECTION_NAMESPACE": "local"}
MAX_REQUESTS = 10  # of a replica, so that a slow one is overloaded
# A gateway that leaves all to what is between it and its backends.
NO_POLICY = {"MAX_ATTEMPTS": "1", "HEDGE": "false", "BREAKER_RATIO": "1", "ATTEMPT_TIMEOUT_SECONDS": "2"}
NICENESS = 10  # of a process that starts beside the load; in a cluster, it has processors of its own


class Replica:
    """One place of a backend: the process there can be another one later, on the same port."""

    def __init__(self, system: "System", name: str, ports: Ports) -> None:
        self._system = system
        self.name = name
        self.ports = ports
        self.start()

    def start(self) -> None:
        """Start a process; `service.ready()` waits until it can be asked."""
        self.service = self._system.run(self.name, self.ports, APP_MAX_REQUESTS=str(self._system.max_requests))

    def replace(self) -> None:
        """Start a process in place of one that has ended, without taking the processors from the others."""
        self.start()
        os.setpriority(os.PRIO_PROCESS, self.service.process.pid, NICENESS)
        self.service.ready()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.ports.service}"

    def inject(self, **fault: float) -> None:
        """Inject a fault, a rule of `PUT /faults`, in place of those before. Without values, inject nothing."""
        self.service.admin.put("/faults", json=[fault] if fault else []).raise_for_status()


class Gateway:
    """A gateway that reaches its backends in one way, such as `client/haproxy`.

    Its kind is `naive` (httpx), `client` (`app.client`) or `plain` (the same without a policy).
    """

    def __init__(self, system: "System", way: str, ports: Ports) -> None:
        self.way = way
        self.ports = ports
        self._system = system
        self._kind, _, self._between = way.partition("/")
        self.start()

    def start(self) -> None:
        """Start a process."""
        project = "naive" if self._kind == "naive" else "client"
        self.service = self._system.run(project, self.ports, **self._variables())

    def _variables(self) -> dict[str, str]:
        """Where the backends are."""
        found: dict[str, str] = {}
        between = self._system.front(self._between) if self._between != "direct" else None
        for name, replicas in self._system.replicas.items():
            variable = f"APP_{name.upper()}"
            url = f"http://127.0.0.1:{between.ports[name]}" if between else f"http://{name}"
            found[variable if self._kind == "naive" else f"{variable}__BASE_URL"] = url
            if self._kind == "plain":
                found |= {f"{variable}__{setting}": value for setting, value in NO_POLICY.items()}
            if between is None:
                found[f"{variable}__REPLICAS"] = ",".join(replica.address for replica in replicas)
        return found


class System:
    """All processes, which end with the context. A way is `naive` or `client`, and `direct`, `haproxy` or `envoy`."""

    def __init__(
        self,
        projects: Projects,
        folder: Path,
        ways: Sequence[str],
        rate: float,
        *,
        max_requests: int = MAX_REQUESTS,
        **variables: str,
    ) -> None:
        """`rate` is that of each gateway, in requests a second."""
        self.max_requests = max_requests
        self._projects = projects
        self._folder = folder
        self._ways = ways
        self._rate = rate
        self._variables = variables
        self._stack = ExitStack()
        self._fronts: dict[str, Front] = {}
        self._random = random.Random()  # noqa: S311 - no secret
        self.replicas: dict[str, list[Replica]] = {}
        self._healthy: list[Replica] = []
        (folder / "home").mkdir()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._stack = stack
            for name in BACKENDS:
                self.replicas[name] = [Replica(self, name, self._free_ports()) for _ in range(REPLICAS)]
            self._healthy = [replica for column in zip(*self.replicas.values(), strict=True) for replica in column]
            self.gateways = [Gateway(self, way, self._free_ports()) for way in self._ways]
            for service in self._services():
                service.ready()
            self.loads = {
                gateway.way: stack.enter_context(
                    OpenLoad(self._folder / gateway.way.replace("/", "-"), gateway.ports.service, self._rate)
                )
                for gateway in self.gateways
            }
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _free_ports(self) -> Ports:
        return Ports(fixed_port(self._random), fixed_port(self._random))

    def _services(self) -> list[Service]:
        backends = [replica.service for replicas in self.replicas.values() for replica in replicas]
        return [*backends, *(gateway.service for gateway in self.gateways)]

    def run(self, name: str, ports: Ports, **variables: str) -> Service:
        """Start a process of a service."""
        common = {"APP_PORT": str(ports.service), "APP_ADMIN_PORT": str(ports.admin), **VARIABLES, **self._variables}
        project, home = self._projects.folders[name], self._folder / "home"
        service = Service(self._projects.python, project, home, {**common, **variables})
        self._stack.callback(close, service, name)
        return service

    def next_replica(self) -> Replica:
        """The replica that gets the next fault: another one each time, since clients come back to one slowly."""
        replica = self._healthy.pop(0)
        self._healthy.append(replica)
        return replica

    def front(self, name: str) -> Front:
        """The front of this name, which is started once."""
        if name not in self._fronts:
            ports = {backend: [replica.ports for replica in replicas] for backend, replicas in self.replicas.items()}
            self._fronts[name] = self._stack.enter_context(front(name, self._folder, ports))
        return self._fronts[name]

    def restart_everything(self) -> None:
        """End all processes but the fronts, and start them again."""
        ended = self._services()
        for service in ended:
            service.process.send_signal(signal.SIGTERM)
        for service in ended:
            service.process.wait()
        for replicas in self.replicas.values():
            for replica in replicas:
                replica.start()
        for gateway in self.gateways:
            gateway.start()
        for service in self._services():
            service.ready()


def close(service: Service, name: str) -> None:
    """End a process, and show what it has complained about."""
    service.close()
    remarks = [line for line in service.output if '"level":"info"' not in line][-SHOWN_LINES:]
    print(*(f"{name}: {line}" for line in [*remarks, *service.errors]), sep="\n", file=sys.stderr)
