"""A cluster of plain processes that runs a Deployment: pods, a kubelet, endpoints, a rolling update.

Each pod has an address of its own (127.x.y.z), so that its ports are those of the manifests. It does not
isolate the processes, which the container tests do, and it has no scheduler.
"""

import http.client
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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
        while self._last < 250:
            self._last += 1
            address = f"{self._network}.{self._last}"
            if all(free(address, port) for port in self._ports):
                yield address
        raise AssertionError(f"the ports {self._ports} are taken on every address; something listens on 0.0.0.0")


def free(address: str, port: int) -> bool:
    with socket.socket() as one:
        try:
            one.bind((address, port))
        except OSError:
            return False
    return True


class Ingress(Balancer):
    """HAProxy whose servers are the ready pods, updated late, as an ingress controller does."""

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
        self._closing = threading.Event()

    def change(self, address: str, port: int, *, ready: bool) -> None:
        """Take a pod in or out, after a while; changes of one pod stay in order."""
        before = self._told.get(address)

        def tell() -> None:
            if before is not None:
                before.join()
            self._closing.wait(random.uniform(*DELAYS_SECONDS))  # noqa: S311 - no secret
            self._set(address, port, ready=ready)

        self._told[address] = threading.Thread(target=tell, daemon=True)
        self._told[address].start()

    def __exit__(self, *_: object) -> None:
        self.hurry()
        for thread in [*self._told.values()]:
            thread.join()
        super().__exit__()

    def hurry(self) -> None:
        """Notice changes at once from now on."""
        self._closing.set()

    def ready(self) -> set[str]:
        """The addresses that requests are handed to."""
        figures = self.figures()
        assert figures, "HAProxy has ended"
        with self._lock:
            slots = dict(self._slots)
        return {address for address, slot in slots.items() if figures[slot]["status"].startswith(("UP", "no check"))}

    def answered(self, address: str) -> int:
        """How many requests a pod has responded to."""
        return int(self.figures()[self._slots[address]]["hrsp_2xx"] or 0)

    def _set(self, address: str, port: int, *, ready: bool) -> None:
        with self._lock:
            if address not in self._slots:
                self._slots[address] = self._free.pop(0)
            slot = self._slots[address]
        if ready:
            self._say(f"set server services/{slot} addr {address} port {port}")
        self._say(f"set server services/{slot} state {'ready' if ready else 'maint'}")

    def _say(self, command: str) -> None:
        with socket.create_connection(self._figures_address, PATIENCE_SECONDS) as connection:
            connection.sendall(f"{command}\n".encode())
            answer = connection.makefile().read().strip()
        assert not answer or "changed" in answer or "no need" in answer, answer


class Probe:
    """Asks a container as a kubelet does, which changes its state after some equal results in a row."""

    def __init__(self, spec: dict[str, Any], address: str, ports: dict[str, int]) -> None:
        self._address = (address, ports[spec["httpGet"]["port"]])
        self._path = spec["httpGet"]["path"]
        self._delay_seconds = float(spec.get("initialDelaySeconds", 0))
        self._period_seconds = float(spec["periodSeconds"])
        self._timeout_seconds = float(spec["timeoutSeconds"])
        self._needed = {True: spec.get("successThreshold", 1), False: spec["failureThreshold"]}
        self._seen = (True, 0)
        # How long a container may take to end that this probe has given up.
        self.grace_seconds: float | None = spec.get("terminationGracePeriodSeconds")
        self.asked: list[bool] = []

    def answers(self, ended: threading.Event) -> Iterator[bool | None]:
        """Each period until the end: success or failure once there were enough of it in a row, None before."""
        ended.wait(self._delay_seconds)
        due = time.monotonic()
        while not ended.wait(max(0.0, due - time.monotonic())):
            yield self._ask()
            # An answer that is late doesn't put off the next question, nor is one made up for.
            due = max(due + self._period_seconds, time.monotonic())

    def _ask(self) -> bool | None:
        connection = http.client.HTTPConnection(*self._address, timeout=self._timeout_seconds)
        try:
            connection.request("GET", self._path)
            passed = 200 <= connection.getresponse().status < 400
        except (OSError, http.client.HTTPException):
            passed = False
        finally:
            connection.close()
        self.asked.append(passed)
        count = self._seen[1] + 1 if self._seen[0] == passed else 1
        self._seen = (passed, count)
        return passed if count >= self._needed[passed] else None


@dataclass(frozen=True)
class Ending:
    """How a container ended: by `itself`, or because a `probe` gave it up, it took too much `memory`, was `deleted`."""

    reason: str
    status: int
    # From the begin, and from the signal if there was one.
    lived_seconds: float
    ended_seconds: float
    # The results of the probes.
    asked: dict[str, list[bool]]


class Container:
    """A process, and what the kubelet does for it until it ends."""

    def __init__(self, manifests: Manifests, address: str, service: Service, set_ready: Callable[[bool], None]) -> None:
        self.service = service
        self.probes = {
            name: Probe(manifests.container[f"{name}Probe"], address, manifests.ports)
            for name in ("startup", "liveness", "readiness")
        }
        self.peak_megabytes = 0.0
        self._began = time.monotonic()
        self._limit_megabytes = megabytes(manifests.container["resources"]["limits"]["memory"])
        self._grace_seconds = float(manifests.pod["terminationGracePeriodSeconds"])
        self._set_ready = set_ready
        self._ended = threading.Event()
        # Set with the first reason to end it.
        self._unwanted = threading.Event()
        self._reason = "itself"
        self._workers = [threading.Thread(target=one, daemon=True) for one in (self._probe, self._watch_memory)]
        for worker in self._workers:
            worker.start()

    def look_after(self, leaving: threading.Event) -> Ending:
        """Until it ends, or has to."""
        process = self.service.process
        while process.poll() is None and not self._unwanted.is_set() and not leaving.wait(0.05):
            pass
        told = time.monotonic()
        if process.poll() is None:
            grace_seconds = self._grace_seconds
            if leaving.is_set():
                self._give_up("deleted")
            elif (probe := self.probes.get(self._reason)) and probe.grace_seconds is not None:
                grace_seconds = probe.grace_seconds
            if self._reason != "memory":
                process.terminate()
            while process.poll() is None and time.monotonic() < told + grace_seconds:
                time.sleep(0.05)
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
        status = process.wait()
        ended = time.monotonic()
        self._ended.set()
        for worker in self._workers:
            worker.join()
        self.service.output.all()
        asked = {name: one.asked for name, one in self.probes.items()}
        return Ending(self._reason, status, ended - self._began, ended - told, asked)

    def _give_up(self, reason: str) -> None:
        if not self._unwanted.is_set():
            self._reason = reason
            self._unwanted.set()

    def _probe(self) -> None:
        for answer in self.probes["startup"].answers(self._ended):
            if answer is True:
                break
            if answer is False:
                self._give_up("startup")
                return
        else:
            return
        live = threading.Thread(target=self._probe_life, daemon=True)
        live.start()
        for answer in self.probes["readiness"].answers(self._ended):
            if answer is not None:
                self._set_ready(answer)
        live.join()

    def _probe_life(self) -> None:
        for answer in self.probes["liveness"].answers(self._ended):
            if answer is False:
                self._give_up("liveness")
                return

    def _watch_memory(self) -> None:
        """As the kernel does, which asks nobody before it kills."""
        statm = Path(f"/proc/{self.service.process.pid}/statm")
        while not self._ended.wait(0.05):
            try:
                pages = int(statm.read_text().split()[1])
            except (OSError, IndexError):  # it has ended
                return
            resident = pages * os.sysconf("SC_PAGE_SIZE") / 1e6
            self.peak_megabytes = max(self.peak_megabytes, resident)
            if resident > self._limit_megabytes:
                self._give_up("memory")
                self.service.process.kill()
                return


class Pod:
    """A pod of the Deployment and the kubelet that looks after it."""

    def __init__(
        self, manifests: Manifests, name: str, address: str, start: Callable[[dict[str, str]], Service], home: Path
    ) -> None:
        self.name = name
        self.address = address
        self.ready = False
        self.on_ready: Callable[[Pod], None] = lambda _: None
        self.containers: list[Container] = []
        self.endings: list[Ending] = []
        self._manifests = manifests
        self._start = start
        self._environment = environment(manifests, name, address, home)
        self._lock = threading.Lock()
        self._leaving = threading.Event()
        self._closed = False
        self._thread = threading.Thread(target=self._look_after, daemon=True)

    @property
    def restarts(self) -> int:
        """How often its container was started again."""
        return len(self.containers) - 1

    @property
    def probes(self) -> dict[str, Probe]:
        """Those of the container that runs."""
        return self.containers[-1].probes

    @property
    def peak_megabytes(self) -> float:
        """The most memory that a container of it had."""
        return max(one.peak_megabytes for one in self.containers)

    def begin(self) -> None:
        """Start its container, and look after it from now on."""
        self._thread.start()

    def delete(self) -> None:
        """Act as `kubectl delete pod`: remove the pod from the endpoints and stop it, both at the same time."""
        # In this order, or a probe that has just succeeded would bring it back.
        self._leaving.set()
        self._set_ready(False)

    def wait(self) -> Ending:
        """How it has ended, when it has."""
        self._thread.join()
        return self.endings[-1]

    def close(self) -> None:
        """End it at once, and leave nothing behind."""
        with self._lock:
            self._closed = True
            for one in self.containers:
                one.service.process.kill()
        self._thread.join()
        for one in self.containers:
            one.service.close()

    def events(self) -> list[Event]:
        """The log of its containers."""
        return [event for one in self.containers for event in one.service.events()]

    def disturbed(self) -> bool:
        """Whether a container heard a signal that nobody here has sent, such as somebody's pkill."""
        told = {"startup", "liveness", "deleted"}
        return any(
            ending.status == 128 + signal.SIGTERM
            or (ending.reason not in told and any(event["event"] == "draining" for event in one.service.events()))
            for one, ending in zip(self.containers, self.endings, strict=True)
        )

    def _look_after(self) -> None:
        while True:
            with self._lock:
                if self._closed:
                    return
                service = self._start(self._environment)
                container = Container(self._manifests, self.address, service, self._set_ready)
                self.containers.append(container)
            self.endings.append(container.look_after(self._leaving))
            self._set_ready(False)
            if self._leaving.is_set():
                return

    def _set_ready(self, ready: bool) -> None:
        with self._lock:
            ready = ready and not self._leaving.is_set()
            if self.ready != ready:
                self.ready = ready
                self.on_ready(self)


def environment(manifests: Manifests, name: str, address: str, home: Path) -> dict[str, str]:
    """The variables of a container and, in `home`, the files of its volumes."""
    namespace = manifests["Namespace"]["metadata"]["name"]
    facts = {"metadata.name": name, "metadata.namespace": namespace, "spec.nodeName": "node-1"}
    variables: dict[str, str] = {}
    for source in manifests.container["envFrom"]:
        variables |= manifests.config_map(source["configMapRef"]["name"])
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
        self.most = 0

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
        replicas = self.fewest_ready = self.most = len(old)
        most = replicas + share(strategy["maxSurge"], replicas, math.ceil)
        least = replicas - share(strategy["maxUnavailable"], replicas, math.floor)
        until = time.monotonic() + manifests["Deployment"]["spec"]["progressDeadlineSeconds"]
        while old or not all(one.ready for one in new):
            assert time.monotonic() < until, "the update doesn't get on"
            while len(new) < replicas and len(old) + len(new) < most:
                new.append(self.create(manifests))
            self.most = max(self.most, len(old) + len(new))
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
        self._ingress.hurry()
        pods = [*self.ended, *self.pods]
        for pod in pods:
            pod.close()
            events = [event for event in pod.events() if event["event"] != "request"]
            print(pod.name, *pod.endings, *events, sep="\n")
        assert not any(pod.disturbed() for pod in pods), "somebody else has sent signals to the pods of this test"


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
