"""A system of generated services: a gateway, and two backends with three replicas each, as processes."""

import os
import random
import signal
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import httpx

from bakery import add_handler, package_of, render, run
from gateway_fronts import Front, Ports, front
from running import Service, fixed_port

PARTS = Path(__file__).parent / "gateway_services"
LEFT_OUT = {"example": "none", "deploy": "none", "monitoring": "none", "ci": "none"}
BACKENDS = ("catalogue", "stock")
REPLICAS = 3
VARIABLES = {"APP_DRAIN_SECONDS": "1"}
MAX_REQUESTS = {"APP_MAX_REQUESTS": "10"}  # of a replica, so that a slow one is overloaded
NICENESS = 10  # of a process that starts beside the load; in a cluster, it has processors of its own
# What each kind of gateway imports in settings.py, and its settings.
SETTINGS = {
    "naive": ("", '    catalogue: str = "http://catalogue"\n    stock: str = "http://stock"\n'),
    "client": (
        "from chassis.client import ClientSettings\n",
        (
            '    catalogue: ClientSettings = ClientSettings(base_url="http://catalogue")\n'
            '    stock: ClientSettings = ClientSettings(base_url="http://stock")\n'
        ),
    ),
}


@dataclass(frozen=True)
class Projects:
    """The generated services, and a Python that has what they need."""

    python: Path
    folders: Mapping[str, Path]
    kind: str


def generate(folder: Path, kind: str) -> Projects:
    """Generate the three services, and write their handlers; `kind` of gateway is `naive` or `client`."""
    folders = {name: render(folder, {"project_name": name.title(), **LEFT_OUT}) for name in ("gateway", *BACKENDS)}
    add_part(folders["catalogue"], "products", "add_products(app)")
    add_part(folders["stock"], "levels", "add_levels(app)")
    for name in BACKENDS:
        add_part(folders[name], "switches", "add_switches(app)")
    write_gateway(folders["gateway"], kind)
    metadata = folders["gateway"] / "pyproject.toml"
    metadata.write_text(metadata.read_text().replace('"asgi-chassis==', '"asgi-chassis[client]=='))
    made = run("make", "install", cwd=folders["gateway"])
    assert made.returncode == 0, made.stdout
    return Projects(folders["gateway"] / ".venv/bin/python", folders, kind)


def add_part(project: Path, module: str, line: str) -> None:
    """Add a module, and call its function in app.py."""
    source = (PARTS / f"{module}.py").read_text()
    add_handler(project, module, source, f"from .{module} import {line.partition('(')[0]}", line)


def write_gateway(project: Path, kind: str) -> None:
    """Write the handlers of the gateway, and its settings."""
    path = project / "src" / package_of(project) / "settings.py"
    imported, lines = SETTINGS[kind]
    chassis = "from chassis import ChassisSettings\n"
    text = path.read_text()
    assert chassis in text
    path.write_text(text.replace(chassis, chassis + imported) + "\n" + lines)
    add_part(project, f"{kind}_offers", "add_offers(app, settings.catalogue, settings.stock)")


class Replica:
    """One place of a backend: the process there can be another one later, on the same port."""

    def __init__(self, system: "System", name: str, ports: Ports) -> None:
        self._system = system
        self.name = name
        self.ports = ports
        self.start()

    def start(self) -> None:
        """Start a process; `service.ready()` waits until it can be asked."""
        self.service = self._system.run(self.name, self.ports, **MAX_REQUESTS)

    def replace(self) -> None:
        """Start a process in place of one that has ended, without taking the processors from the others."""
        self.start()
        os.setpriority(os.PRIO_PROCESS, self.service.process.pid, NICENESS)
        self.service.ready()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.ports.service}"

    def inject(self, **faults: float) -> None:
        """Switch faults on: `latency_seconds`, `error_share`, `reset_share`. Without any, switch them off."""
        httpx.put(f"http://{self.address}/switches", json=faults, trust_env=False).raise_for_status()


class System:
    """All processes, which end with the context. `way` to the backends is `direct`, `haproxy` or `envoy`."""

    def __init__(self, projects: Projects, folder: Path, way: str, **variables: str) -> None:
        self._projects = projects
        self._folder = folder
        self._way = way
        self._variables = variables
        self._stack = ExitStack()
        self._random = random.Random()  # noqa: S311 - no secret
        (folder / "home").mkdir()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._stack = stack
            self.replicas = {
                name: [Replica(self, name, self._free_ports()) for _ in range(REPLICAS)] for name in BACKENDS
            }
            for replica in self.all_replicas():
                replica.service.ready()
            self.front: Front | None = None
            if self._way != "direct":
                ports = {name: [replica.ports for replica in replicas] for name, replicas in self.replicas.items()}
                self.front = stack.enter_context(front(self._way, self._folder, ports))
            self.gateway_ports = self._free_ports()
            self.gateway = self.run("gateway", self.gateway_ports, **self._addresses()).ready()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def all_replicas(self) -> Iterator[Replica]:
        for replicas in self.replicas.values():
            yield from replicas

    def _free_ports(self) -> Ports:
        return Ports(fixed_port(self._random), fixed_port(self._random))

    def run(self, name: str, ports: Ports, **variables: str) -> Service:
        """Start a process of a service."""
        common = {"APP_PORT": str(ports.service), "APP_ADMIN_PORT": str(ports.admin), **VARIABLES, **self._variables}
        service = Service(
            self._projects.python, self._projects.folders[name], self._folder / "home", {**common, **variables}
        )
        self._stack.callback(service.close)
        return service

    def _addresses(self) -> dict[str, str]:
        """The variables of the gateway that say where its backends are."""
        found: dict[str, str] = {}
        for name, replicas in self.replicas.items():
            variable = f"APP_{name.upper()}"
            url = f"http://127.0.0.1:{self.front.ports[name]}" if self.front else f"http://{replicas[0].address}"
            if self._projects.kind == "naive":
                found[variable] = url
            else:
                found[f"{variable}__BASE_URL"] = url
                if self.front is None:
                    found[f"{variable}__REPLICAS"] = ",".join(replica.address for replica in replicas)
        return found

    def restart_everything(self) -> None:
        """End all processes but the front, and start them again."""
        services = [self.gateway, *(replica.service for replica in self.all_replicas())]
        for service in services:
            service.process.send_signal(signal.SIGTERM)
        for service in services:
            service.process.wait()
        for replica in self.all_replicas():
            replica.start()
        self.gateway = self.run("gateway", self.gateway_ports, **self._addresses())
        for service in [self.gateway, *(replica.service for replica in self.all_replicas())]:
            service.ready()
