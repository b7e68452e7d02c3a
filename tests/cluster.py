"""What a cluster does with a Deployment, done with plain processes: pods, a kubelet, endpoints, a rolling update.

Each pod has an address of its own (127.x.y.z), so that its ports are those of the manifests. What isn't done: nobody
isolates the processes, which is the business of the container tests, and no scheduler chooses a node.
"""

import math
import os
import random
import re
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from balancer import Balancer
from manifests import Manifests, megabytes
from running import PATIENCE_SECONDS, Event, Service

SLOTS = 12
# From a changed readiness to the last balancer that has heard of it: kubelet, API server, endpoints, controller.
DELAYS_SECONDS = (0.1, 3.0)


def wait_until(condition: Callable[[], object], what: str, seconds: float = 60.0) -> None:
    """Wait for something that the cluster does."""
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, f"{what}: not within {seconds} s"
        time.sleep(0.05)


class Addresses:
    """Addresses for pods; two tests that run at the same time have different ones."""

    def __init__(self, ports: Sequence[int]) -> None:
        self._ports = ports
        self._network = f"127.{random.randrange(16, 250)}.{random.randrange(250)}"  # noqa: S311 - no secret
        self._last = 0

    def __iter__(self) -> Iterator[str]:
        while True:
            self._last += 1
            address = f"{self._network}.{self._last}"
            if all(free(address, port) for port in self._ports):
                yield address


def free(address: str, port: int) -> bool:
    with socket.socket() as one:
        try:
            one.bind((address, port))
        except OSError:
            return False
    return True


class Ingress(Balancer):
    """HAProxy whose servers are the ready pods, told late, as an ingress controller tells it."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, [], check_seconds=1)
        config = folder / "haproxy.cfg"
        text = re.sub(r"    (option httpchk|http-check|default-server).*\n", "", config.read_text())
        text = re.sub(r"(stats socket \S+)", r"\1 level admin", text)
        config.write_text(f"{text}    server-template pod 1-{SLOTS} 127.0.0.1:1 disabled\n")
        self._free = [f"pod{number}" for number in range(1, SLOTS + 1)]
        self._slots: dict[str, str] = {}
        self._lock = threading.Lock()
        self._told: dict[str, threading.Thread] = {}

    def change(self, address: str, port: int, *, ready: bool) -> None:
        """Take a pod in or out, after a while; changes of one pod stay in order."""
        before = self._told.get(address)

        def tell() -> None:
            if before is not None:
                before.join()
            time.sleep(random.uniform(*DELAYS_SECONDS))  # noqa: S311 - no secret
            self._set(address, port, ready=ready)

        self._told[address] = threading.Thread(target=tell, daemon=True)
        self._told[address].start()

    def __exit__(self, *_: object) -> None:
        for thread in [*self._told.values()]:
            thread.join()
        super().__exit__()

    def ready(self) -> set[str]:
        """The addresses that requests are handed to."""
        figures = self.figures()
        assert figures, "HAProxy doesn't answer"
        states = {name: one["status"] for name, one in figures.items()}
        return {address for address, slot in self._slots.items() if states.get(slot, "").startswith(("UP", "no check"))}

    def answered(self, address: str) -> int:
        """How many requests a pod has answered."""
        return int(self.figures()[self._slots[address]]["hrsp_2xx"] or 0)

    def _set(self, address: str, port: int, *, ready: bool) -> None:
        with self._lock:
            slot = self._slots.setdefault(address, self._free[len(self._slots)])
        if ready:
            self._say(f"set server services/{slot} addr {address} port {port}")
        self._say(f"set server services/{slot} state {'ready' if ready else 'maint'}")

    def _say(self, command: str) -> None:
        with socket.create_connection(self._figures_address, PATIENCE_SECONDS) as connection:
            connection.sendall(f"{command}\n".encode())
            answer = connection.makefile().read().strip()
        assert not answer or "changed" in answer or "no need" in answer, answer


class Probe:
    """Asks a container as a kubelet does, which believes an answer after some of its kind in a row."""

    def __init__(self, spec: dict[str, Any], address: str, ports: dict[str, int]) -> None:
        self._url = f"http://{address}:{ports[spec['httpGet']['port']]}{spec['httpGet']['path']}"
        self.period_seconds = float(spec["periodSeconds"])
        self._timeout_seconds = float(spec["timeoutSeconds"])
        self._needed = {True: spec.get("successThreshold", 1), False: spec["failureThreshold"]}
        self._seen = (True, 0)
        self.asked: list[bool] = []

    def ask(self) -> bool | None:
        """Success or failure once there were enough of it in a row; None before."""
        try:
            answer = httpx.get(self._url, timeout=self._timeout_seconds, trust_env=False)
            passed = 200 <= answer.status_code < 400
        except httpx.HTTPError:
            passed = False
        self.asked.append(passed)
        count = self._seen[1] + 1 if self._seen[0] == passed else 1
        self._seen = (passed, count)
        return passed if count >= self._needed[passed] else None


class Pod:
    """A pod of the Deployment and the kubelet that looks after it."""

    def __init__(
        self, manifests: Manifests, name: str, address: str, start: Callable[[dict[str, str]], Service], home: Path
    ) -> None:
        self.name = name
        self.address = address
        self.restarts = 0
        self.ready = False
        self.on_ready: Callable[[Pod], None] = lambda _: None
        self.peak_megabytes = 0.0
        self.statuses: list[int] = []
        self.services: list[Service] = []
        self.probes: dict[str, Probe] = {}
        self._manifests = manifests
        self._start = start
        self._environment = environment(manifests, name, address, home)
        self._leaving = threading.Event()
        self._thread = threading.Thread(target=self._look_after, daemon=True)

    def begin(self) -> None:
        """Start its container, and look after it from now on."""
        self._thread.start()

    def kill(self) -> None:
        """End it at once, and leave nothing behind."""
        self._leaving.set()
        for service in self.services:
            service.process.kill()
        self._thread.join()
        for service in self.services:
            service.close()

    def delete(self) -> None:
        """What `kubectl delete pod` does: it leaves the endpoints while it ends, both at the same time."""
        self._set_ready(value=False)
        self._leaving.set()

    def wait(self) -> int:
        """Its exit status, when it has ended."""
        self._thread.join()
        return self.statuses[-1]

    def events(self) -> list[Event]:
        """What its containers have logged."""
        return [event for service in self.services for event in service.events()]

    def _look_after(self) -> None:
        while True:
            service = self._start(self._environment)
            self.services.append(service)
            ended = threading.Event()
            stuck = threading.Event()
            workers = [
                threading.Thread(target=work, args=(ended, stuck), daemon=True)
                for work in (self._probe, self._limit_memory)
            ]
            for worker in workers:
                worker.start()
            while service.process.poll() is None and not stuck.is_set() and not self._leaving.wait(0.05):
                pass
            if service.process.poll() is None:
                self._stop(service, by_probe=stuck.is_set())
            self.statuses.append(service.process.wait())
            ended.set()
            for worker in workers:
                worker.join()
            self._set_ready(value=False)
            if self._leaving.is_set():
                return
            self.restarts += 1

    def _stop(self, service: Service, *, by_probe: bool) -> None:
        pod, liveness = self._manifests.pod, self._manifests.container["livenessProbe"]
        patience = pod["terminationGracePeriodSeconds"]
        if by_probe:
            patience = liveness.get("terminationGracePeriodSeconds", patience)
        service.process.terminate()
        until = time.monotonic() + patience
        while service.process.poll() is None and time.monotonic() < until:
            self._note_memory(service)
            time.sleep(0.05)
        if service.process.poll() is None:
            service.process.send_signal(signal.SIGKILL)

    def _probe(self, ended: threading.Event, stuck: threading.Event) -> None:
        names = ("startup", "liveness", "readiness")
        container, ports = self._manifests.container, self._manifests.ports
        startup, liveness, readiness = (Probe(container[f"{one}Probe"], self.address, ports) for one in names)
        self.probes = {"startup": startup, "liveness": liveness, "readiness": readiness}
        while not ended.wait(startup.period_seconds) and (answer := startup.ask()) is not True:
            if answer is False:
                stuck.set()
                return

        def live() -> None:
            while not ended.is_set():
                if liveness.ask() is False and not self._leaving.is_set():
                    stuck.set()
                ended.wait(liveness.period_seconds)

        other = threading.Thread(target=live, daemon=True)
        other.start()
        while not ended.is_set():
            if (answer := readiness.ask()) is not None and not self._leaving.is_set():
                self._set_ready(value=answer)
            ended.wait(readiness.period_seconds)
        other.join()

    def _limit_memory(self, ended: threading.Event, _: threading.Event) -> None:
        limit = megabytes(self._manifests.container["resources"]["limits"]["memory"])
        service = self.services[-1]
        while not ended.wait(0.1):
            if self._note_memory(service) > limit:
                service.process.kill()

    def _note_memory(self, service: Service) -> float:
        try:
            pages = int(Path(f"/proc/{service.process.pid}/statm").read_text().split()[1])
        except (OSError, IndexError):  # it has ended
            return 0.0
        resident = pages * os.sysconf("SC_PAGE_SIZE") / 1e6
        self.peak_megabytes = max(self.peak_megabytes, resident)
        return resident

    def _set_ready(self, *, value: bool) -> None:
        if self.ready != value:
            self.ready = value
            self.on_ready(self)


def environment(manifests: Manifests, name: str, address: str, home: Path) -> dict[str, str]:
    """The variables of a container and, in `home`, the files of its volumes."""
    facts = {"metadata.name": name, "metadata.namespace": manifests["Namespace"]["metadata"]["name"]}
    variables = dict(manifests.settings)
    for one in manifests.container["env"]:
        value = one["value"] if "value" in one else facts[one["valueFrom"]["fieldRef"]["fieldPath"]]
        variables[one["name"]] = re.sub(r"\$\((\w+)\)", lambda found: variables[found[1]], value)
    # The pod's network, and the place where its secrets are mounted.
    return {**variables, "APP_HOST": address, "APP_SECRETS_DIR": str(mount_secrets(manifests, home / name))}


def mount_secrets(manifests: Manifests, folder: Path) -> Path:
    """The files of the Secret, as a kubelet puts them: links into a folder that it can change at once."""
    (secret,) = (one["secret"] for one in manifests.pod["volumes"] if "secret" in one)
    (folder / "..now").mkdir(parents=True)
    (folder / "..data").symlink_to("..now")
    for name, value in manifests.secrets.items():
        path = folder / "..now" / name
        path.write_text(value)
        path.chmod(secret["defaultMode"])
        (folder / name).symlink_to(f"..data/{name}")
    return folder


class Cluster:
    """The pods of a Deployment behind an ingress."""

    def __init__(self, ingress: Ingress, start: Callable[[dict[str, str]], Service], home: Path) -> None:
        self._ingress = ingress
        self._start = start
        self._home = home
        self._addresses: Iterator[str] | None = None
        self.pods: list[Pod] = []
        self.ended: list[Pod] = []
        self.fewest_ready = 0

    def create(self, manifests: Manifests) -> Pod:
        """A new pod, which comes to the ingress when it is ready."""
        self._addresses = self._addresses or iter(Addresses(list(manifests.ports.values())))
        address = next(self._addresses)
        name = f"{manifests['Deployment']['metadata']['name']}-{address.rpartition('.')[2]}"
        pod = Pod(manifests, name, address, self._start, self._home)
        port = manifests.ports[manifests["Service"]["spec"]["ports"][0]["targetPort"]]
        pod.on_ready = lambda one: self._ingress.change(one.address, port, ready=one.ready)
        self.pods.append(pod)
        pod.begin()
        return pod

    def roll(self, manifests: Manifests) -> None:
        """Replace all pods, as the Deployment's strategy says."""
        strategy = manifests["Deployment"]["spec"]["strategy"]["rollingUpdate"]
        old, new = list(self.pods), list[Pod]()
        replicas = self.fewest_ready = len(old)
        most = replicas + share(strategy["maxSurge"], replicas, math.ceil)
        least = replicas - share(strategy["maxUnavailable"], replicas, math.floor)
        until = time.monotonic() + manifests["Deployment"]["spec"]["progressDeadlineSeconds"]
        while old or not all(one.ready for one in new):
            assert time.monotonic() < until, "the update doesn't get on"
            while len(new) < replicas and len(old) + len(new) < most:
                new.append(self.create(manifests))
            ready = sum(one.ready for one in (*old, *new))
            self.fewest_ready = min(self.fewest_ready, ready)
            if old and ready > least:
                leaving = old.pop(0)
                leaving.delete()
                self.pods.remove(leaving)
                self.ended.append(leaving)
            time.sleep(0.05)

    def close(self) -> None:
        """End all that is left at once."""
        for pod in (*self.ended, *self.pods):
            pod.kill()
            print(pod.name, pod.statuses, *(event for event in pod.events() if event["event"] != "request"), sep="\n")


def share(value: int | str, of: int, rounded: Callable[[float], int]) -> int:
    """A number or a percentage."""
    return value if isinstance(value, int) else rounded(of * int(value.removesuffix("%")) / 100)


@contextmanager
def cluster(folder: Path, start: Callable[[dict[str, str]], Service]) -> Iterator[tuple[Cluster, Ingress]]:
    """A cluster that is empty."""
    with Ingress(folder) as ingress:
        one = Cluster(ingress, start, folder)
        try:
            yield one, ingress
        finally:
            one.close()
