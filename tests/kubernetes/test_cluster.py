"""The Deployment as a cluster runs it, with real processes: updated under load, with a dead dependency, and stuck."""

import shutil
import signal
import socket
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from bakery import add_handler, package_of, render
from cluster import Cluster, Ingress, Pod, cluster, wait_until
from collector import Collector
from load import Load, ask_slowly, clients
from manifests import Manifests, kustomize, megabytes
from running import Service, needs

pytestmark = pytest.mark.long

SLOW = '''"""What waits, what doesn't let others, and what takes more than its share."""

import asyncio
import os
import time

from chassis import Handler
from .settings import Settings

time.sleep(float(os.environ.get("START_SECONDS", "0")))


class Slow(Handler):
    """GET answers after two seconds; POST holds the event loop."""

    async def get(self) -> str:
        """Answer late."""
        await asyncio.sleep(2)
        return "at last"

    async def post(self) -> str:
        """Never answer, and let nobody else."""
        time.sleep(3600)  # noqa: ASYNC251
        return "never"


class Told(Handler):
    """GET answers with settings; POST takes more memory than there is."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._kept = b""

    async def get(self) -> dict[str, object]:
        """Answer with what the service was told."""
        return self._settings.model_dump(mode="json")

    async def post(self) -> str:
        """Take and keep."""
        self._kept = b"x" * 400_000_000
        return "taken"


class Database:
    """What the service can't do without."""

    def __init__(self, settings: Settings) -> None:
        self._address = (settings.host, settings.database_port)

    async def check(self) -> None:
        """Raises when nobody listens."""
        _, writer = await asyncio.open_connection(*self._address)
        writer.close()
'''
ROUTES = """
app.add_route("/slow", Slow())
app.add_route("/told", Told(settings))
app.add_check("database", Database(settings).check)
"""
REPLICAS = 3


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A service with a database, whose port is a secret. Don't change it."""
    project = render(tmp_path_factory.mktemp("baked"), {})
    add_handler(project, "slow", SLOW, "from .slow import Database, Slow, Told", ROUTES)
    with (project / "src" / package_of(project) / "settings.py").open("a") as settings:
        settings.write('    database_port: int = Field(1, description="Port of the database.")\n')
    return project


@pytest.fixture
def databases() -> Iterator["Databases"]:
    with Databases() as one:
        yield one


class Databases:
    """Something that listens, for each pod."""

    def __init__(self) -> None:
        self._sockets: dict[str, socket.socket] = {}
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]

    def begin(self, address: str) -> None:
        self._sockets[address] = socket.create_server((address, self.port), backlog=1024)

    def end(self, address: str) -> None:
        self._sockets.pop(address).close()

    def __enter__(self) -> "Databases":
        return self

    def __exit__(self, *_: object) -> None:
        for one in self._sockets.values():
            one.close()


@contextmanager
def cluster_of(
    project: Path, python: Path, folder: Path, databases: Databases, collector: Collector
) -> Iterator[tuple[Cluster, Ingress]]:
    """A cluster without pods; each pod has a database of its own."""
    needs("haproxy")
    needs("kubectl")
    known: set[str] = set()

    def start(variables: dict[str, str]) -> Service:
        address = variables["APP_HOST"]
        if address not in known:
            known.add(address)
            databases.begin(address)
        variables = {**variables, "OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint}
        return Service(python, project, folder, variables)

    with cluster(folder, start) as both:
        yield both


@pytest.fixture
def empty_cluster(
    project: Path, python: Path, tmp_path: Path, databases: Databases, collector: Collector
) -> Iterator[tuple[Cluster, Ingress]]:
    """No pods yet."""
    with cluster_of(project, python, tmp_path, databases, collector) as both:
        yield both


@dataclass(frozen=True)
class Patient:
    """Pods that take their time to start or to end, in a cluster of their own."""

    manifests: Manifests
    ingress: Ingress
    slow: Pod
    endless: Pod
    stuck: Pod


@pytest.fixture(scope="module", autouse=True)
def patient(project: Path, python: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Patient]:
    """Begun before the first test, so that the last tests needn't wait for what takes most of a minute."""
    folder = tmp_path_factory.mktemp("patient")
    with (
        Databases() as databases,
        Collector() as collector,
        cluster_of(project, python, folder, databases, collector) as (pods, ingress),
    ):
        manifests = manifests_of(project, databases)
        stuck = pods.create(manifests)
        manifests.settings["START_SECONDS"] = "20"
        slow = pods.create(manifests)
        manifests.settings["START_SECONDS"] = "3600"
        endless = pods.create(manifests)
        wait_until(lambda: stuck.ready, "it is ready")
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"http://{stuck.address}:8000/slow", timeout=0.5, trust_env=False)
        stuck.delete()
        yield Patient(manifests, ingress, slow, endless, stuck)


@dataclass(frozen=True)
class Restart:
    """A pod that was restarted because its event loop was stuck, beside another pod."""

    stuck: Pod
    other: Pod
    seconds: float


@pytest.fixture(scope="module", autouse=True)
def restart(project: Path, python: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Future[Restart]]:
    """Begun before the first test, because it takes most of a minute, too."""
    with (
        Databases() as databases,
        Collector() as collector,
        cluster_of(project, python, tmp_path_factory.mktemp("stuck"), databases, collector) as (pods, ingress),
        ThreadPoolExecutor(1) as pool,
    ):
        manifests = manifests_of(project, databases)
        stuck, other = pods.create(manifests), pods.create(manifests)
        yield pool.submit(restart_stuck_pod, ingress, stuck, other)


def restart_stuck_pod(ingress: Ingress, stuck: Pod, other: Pod) -> Restart:
    wait_until(lambda: len(ingress.ready()) == 2, "both pods are behind the ingress")
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"http://{stuck.address}:8000/slow", timeout=0.5, trust_env=False)
    began = time.monotonic()
    wait_until(lambda: ingress.ready() == {other.address}, "it has left")
    wait_until(lambda: stuck.restarts == 1, "it is restarted")
    seconds = time.monotonic() - began
    wait_until(lambda: stuck.address in ingress.ready(), "it is back")
    assert_serves(ingress, stuck)
    return Restart(stuck, other, seconds)


@pytest.fixture
def running_cluster(
    empty_cluster: tuple[Cluster, Ingress], project: Path, databases: Databases
) -> tuple[Cluster, Ingress]:
    """Three pods that are ready, and behind the ingress."""
    pods, ingress = empty_cluster
    manifests = manifests_of(project, databases)
    for _ in range(REPLICAS):
        pods.create(manifests)
    wait_until(lambda: len(ingress.ready()) == REPLICAS, "all pods are behind the ingress")
    return pods, ingress


def manifests_of(project: Path, databases: Databases) -> Manifests:
    manifests = Manifests(kustomize(project / "deploy/overlays/production"))
    manifests.secrets["app_database_port"] = str(databases.port)
    return manifests


def told(pod: Pod) -> dict[str, object]:
    """The settings that it runs with."""
    settings = httpx.get(f"http://{pod.address}:8000/told", trust_env=False).json()
    assert isinstance(settings, dict)
    return settings


def trouble(ingress: Ingress) -> dict[str, str]:
    backend = ingress.figures()["BACKEND"]
    counted = ("econ", "eresp", "wretr", "wredis", "srv_abrt", "hrsp_4xx", "hrsp_5xx")
    return {name: backend[name] for name in counted if backend[name] != "0"}


def test_container_has_the_settings_of_the_config_map_and_the_files_of_the_secret(
    empty_cluster: tuple[Cluster, Ingress], project: Path, databases: Databases
) -> None:
    pods, _ = empty_cluster
    manifests = manifests_of(project, databases)
    pod = pods.create(manifests)
    wait_until(lambda: pod.ready, "it is ready")

    settings = {name.removeprefix("APP_").lower(): value for name, value in manifests.settings.items()}
    settings = {name: value for name, value in settings.items() if not name.startswith("otel_")}
    assert {"drain_seconds", "shutdown_seconds"} <= settings.keys()
    has = told(pod)
    assert {name: str(has[name]).removesuffix(".0") for name in settings} == settings
    assert has["database_port"] == databases.port
    (secret,) = manifests.secrets
    assert not any(secret in variable.lower() for variable in variables_of(pod))
    assert variables_of(pod)["POD_NAME"] == pod.name


def variables_of(pod: Pod) -> dict[str, str]:
    """Its environment, as the kernel has it."""
    content = Path(f"/proc/{pod.containers[-1].service.process.pid}/environ").read_text()
    return dict(one.split("=", 1) for one in content.split("\0") if one)


def test_rolling_update_under_load_fails_no_request(
    running_cluster: tuple[Cluster, Ingress], project: Path, databases: Databases, collector: Collector, tmp_path: Path
) -> None:
    needs("wrk")
    pods, ingress = running_cluster
    old = [*pods.pods]
    changed = tmp_path / "changed"
    shutil.copytree(project / "deploy", changed / "deploy")
    with (changed / "deploy/base/settings.env").open("a") as settings:
        settings.write("APP_MAX_ORDERS=77\n")
    manifests = manifests_of(changed, databases)

    with ExitStack() as stack:
        stop_slow = stack.enter_context(clients(4, ask_slowly, ingress.url))
        load = Load(tmp_path, f"{ingress.url}/orders")
        stack.callback(load.close)
        ingress.wait_for_answers(200)
        pods.roll(manifests)
        wait_until(
            lambda: ingress.ready() == {one.address for one in pods.pods}, "only new pods are behind the ingress"
        )
        endings = [one.wait() for one in old]
        before = [ingress.answered(one.address) for one in pods.pods]
        wait_until(
            lambda: all(ingress.answered(one.address) > count for one, count in zip(pods.pods, before, strict=True)),
            "each new pod answers",
        )
        assert [told(one)["max_orders"] for one in pods.pods] == [77] * REPLICAS
        counted = load.stop()
        asked_slowly = stop_slow()

    print(f"{counted}, slow: {asked_slowly}, memory: {max(one.peak_megabytes for one in (*old, *pods.pods)):.1f} MB")
    assert counted.pop("requests") > 1000
    assert asked_slowly > 10
    assert not any(counted.values()), counted
    assert trouble(ingress) == {}
    assert (pods.fewest_ready, pods.most) == (REPLICAS, REPLICAS + 1)
    # In order, within the grace period, and with something under way.
    assert [(one.reason, one.status) for one in endings] == [("deleted", 0)] * REPLICAS
    assert max(one.ended_seconds for one in endings) < manifests.pod["terminationGracePeriodSeconds"]
    assert [one.restarts for one in (*old, *pods.pods)] == [0] * 2 * REPLICAS
    assert all(without_probes(one)[-1] == "stopped" for one in old)
    assert any(answered_late(one) for one in old)
    limit = megabytes(manifests.container["resources"]["limits"]["memory"])
    assert max(one.peak_megabytes for one in (*old, *pods.pods)) < limit / 2
    traced = {one.resource["k8s.pod.name"] for one in collector.spans(1)}
    assert traced <= {one.name for one in (*old, *pods.pods)}


def without_probes(pod: Pod) -> list[str]:
    """The names of its events; those of probes that failed, because it was about to end, aside."""
    return [event["event"] for event in pod.events() if event.get("path") != "/readyz"]


def answered_late(pod: Pod) -> bool:
    """Whether requests had a response after the signal."""
    names = without_probes(pod)
    return "request" in names[names.index("draining") :]


def test_pod_whose_dependency_dies_leaves_the_balancer_and_is_not_restarted(
    running_cluster: tuple[Cluster, Ingress], databases: Databases
) -> None:
    pods, ingress = running_cluster
    poor, *others = pods.pods

    with clients(2, ask_orders, ingress.url) as stop:
        databases.end(poor.address)
        wait_until(lambda: ingress.ready() == {one.address for one in others}, "it has left")
        asked = len(poor.probes["liveness"].asked)
        wait_until(lambda: len(poor.probes["liveness"].asked) > asked, "it is asked whether it lives")
        document = httpx.get(f"http://{poor.address}:9000/readyz", trust_env=False).json()
        assert poor.probes["liveness"].asked[-1] is True
        databases.begin(poor.address)
        wait_until(lambda: poor.address in ingress.ready(), "it is back")
        stop()

    assert document["checks"]["database"]["status"] == "fail"
    assert [one.restarts for one in pods.pods] == [0] * REPLICAS
    assert trouble(ingress) == {}


def ask_orders(client: httpx.Client) -> None:
    assert client.get("/orders").status_code == 200
    time.sleep(0.01)  # leaves the processor to the pods


def assert_serves(ingress: Ingress, pod: Pod) -> None:
    before = ingress.answered(pod.address)
    with clients(1, ask_orders, ingress.url) as stop:
        wait_until(lambda: ingress.answered(pod.address) > before, "it serves")
        stop()


def test_pod_that_takes_too_much_memory_is_killed_and_serves_again(running_cluster: tuple[Cluster, Ingress]) -> None:
    pods, ingress = running_cluster
    greedy, *others = pods.pods

    with suppress(httpx.TransportError):  # it may still have time to respond
        httpx.post(f"http://{greedy.address}:8000/told", trust_env=False)
    wait_until(lambda: greedy.restarts == 1 and greedy.ready, "it is restarted")
    wait_until(lambda: greedy.address in ingress.ready(), "it is back")
    assert_serves(ingress, greedy)

    (ending,) = greedy.endings
    assert (ending.reason, ending.status) == ("memory", -signal.SIGKILL)
    assert [one.restarts for one in others] == [0] * (REPLICAS - 1)


def test_pod_whose_loop_is_stuck_is_restarted_and_serves_again(restart: Future[Restart], project: Path) -> None:
    restarted = restart.result()
    (ending,) = restarted.stuck.endings
    liveness = Manifests(kustomize(project / "deploy/overlays/production")).container["livenessProbe"]
    failures, period = liveness["failureThreshold"], liveness["periodSeconds"]
    # It can't end in order, and is given little time to try.
    grace = liveness["terminationGracePeriodSeconds"]
    assert (ending.reason, ending.status) == ("liveness", -signal.SIGKILL)
    assert grace <= ending.ended_seconds < grace + 2
    assert ending.asked["liveness"].count(False) == failures
    # It is asked for the first time up to a period later, and for the last time in vain.
    least = (failures - 1) * period + liveness["timeoutSeconds"] + grace
    assert least - 1 < restarted.seconds < least + period + 2
    assert restarted.other.restarts == 0


def test_slow_start_is_waited_for_and_an_endless_one_is_not(patient: Patient) -> None:
    slow, endless = patient.slow, patient.endless
    wait_until(lambda: slow.address in patient.ingress.ready(), "the slow one is there")
    wait_until(lambda: endless.restarts >= 1, "the endless one is started again")

    # While it starts nothing else is asked.
    assert slow.restarts == 0
    assert slow.probes["startup"].asked.count(False) >= 15
    assert all(slow.probes["liveness"].asked)
    startup = patient.manifests.container["startupProbe"]
    ending = endless.endings[0]
    assert (ending.reason, ending.status) == ("startup", 0)
    assert ending.asked == {"startup": [False] * startup["failureThreshold"], "liveness": [], "readiness": []}
    assert ending.lived_seconds == pytest.approx(startup["failureThreshold"] * startup["periodSeconds"], abs=3)
    assert patient.ingress.ready() == {slow.address}


def test_stuck_pod_that_is_deleted_ends_within_the_grace_period(patient: Patient) -> None:
    ending = patient.stuck.wait()
    grace = patient.manifests.pod["terminationGracePeriodSeconds"]
    assert (ending.reason, ending.status) == ("deleted", 0)
    assert ending.ended_seconds < grace
    assert patient.stuck.restarts == 0
