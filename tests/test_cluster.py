"""The Deployment as a cluster runs it, with real processes: updated under load, with a dead dependency, and stuck."""

import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from bakery import add_handler, package_of
from cluster import Cluster, Ingress, Pod, cluster, wait_until
from collector import Collector
from conftest import Bake
from manifests import Manifests, kustomize, megabytes
from running import Service, needs
from test_rolling import Load, ask_slowly, clients

SLOW = '''"""What waits, and what doesn't let others."""

import asyncio
import time

from ..chassis import Handler
from ..settings import Settings


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


class Database:
    """What the service can't do without."""

    def __init__(self, settings: Settings) -> None:
        self._address = (settings.host, settings.database_port)

    async def check(self) -> None:
        """Raises when nobody listens."""
        _, writer = await asyncio.open_connection(*self._address)
        writer.close()
'''
REPLICAS = 3


@pytest.fixture
def project(bake: Bake) -> Path:
    """A service with a database, whose port is a secret."""
    project = bake()
    route = 'Route("/slow", Slow()),'
    add_handler(project, "slow", SLOW, "from .handlers.slow import Database, Slow", route)
    package = project / "src" / package_of(project)
    app = package / "app.py"
    wanted = 'checks=[Check("database", Database(settings).check), '
    app.write_text(app.read_text().replace("checks=[", wanted))
    with (package / "settings.py").open("a") as settings:
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


@pytest.fixture
def running_cluster(
    project: Path, python: Path, tmp_path: Path, databases: Databases, collector: Collector
) -> Iterator[tuple[Cluster, Ingress]]:
    """Three pods that are ready, and behind the ingress."""
    needs("haproxy")
    needs("kubectl")

    def start(variables: dict[str, str]) -> Service:
        databases_of(variables["APP_HOST"])
        variables = {**variables, "OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint}
        return Service(python, project, tmp_path, variables)

    known: set[str] = set()

    def databases_of(address: str) -> None:
        if address not in known:
            known.add(address)
            databases.begin(address)

    with ExitStack() as stack:
        pods, ingress = stack.enter_context(cluster(tmp_path, start))
        for _ in range(REPLICAS):
            pods.create(manifests_of(project, databases))
        wait_until(lambda: len(ingress.ready()) == REPLICAS, "all pods are behind the ingress")
        yield pods, ingress


def manifests_of(project: Path, databases: Databases) -> Manifests:
    manifests = Manifests(kustomize(project / "deploy/overlays/production"))
    manifests.secrets["app_database_port"] = str(databases.port)
    return manifests


def trouble(ingress: Ingress) -> dict[str, str]:
    backend = ingress.figures()["BACKEND"]
    counted = ("econ", "eresp", "wretr", "wredis", "srv_abrt", "hrsp_4xx", "hrsp_5xx")
    return {name: backend[name] for name in counted if backend[name] != "0"}


def test_rolling_update_under_load_fails_no_request(
    running_cluster: tuple[Cluster, Ingress], project: Path, databases: Databases, collector: Collector, tmp_path: Path
) -> None:
    needs("wrk")
    pods, ingress = running_cluster
    old = [*pods.pods]
    settings = project / "deploy/base/settings.env"
    settings.write_text(settings.read_text() + "APP_MAX_ORDERS=77\n")
    manifests = manifests_of(project, databases)

    with ExitStack() as stack:
        stop_slow = stack.enter_context(clients(4, ask_slowly, ingress.url))
        load = Load(tmp_path, f"{ingress.url}/orders")
        stack.callback(load.close)
        ingress.wait_for_answers(200)
        pods.roll(manifests)
        wait_until(
            lambda: ingress.ready() == {one.address for one in pods.pods}, "only new pods are behind the ingress"
        )
        statuses = [one.wait() for one in old]
        before = [ingress.answered(one.address) for one in pods.pods]
        wait_until(
            lambda: all(ingress.answered(one.address) > count for one, count in zip(pods.pods, before, strict=True)),
            "each new pod answers",
        )
        counted = load.stop()
        asked_slowly = stop_slow()

    print(f"{counted}, slow: {asked_slowly}, memory: {max(one.peak_megabytes for one in (*old, *pods.pods)):.1f} MB")
    assert counted.pop("requests") > 1000
    assert asked_slowly > 10
    assert not any(counted.values()), counted
    assert trouble(ingress) == {}
    assert pods.fewest_ready == REPLICAS
    # In order, within the grace period, and with something under way.
    assert statuses == [0] * REPLICAS
    assert [one.restarts for one in (*old, *pods.pods)] == [0] * 2 * REPLICAS
    assert all(one.events()[-1]["event"] == "stopped" for one in old)
    assert any(late_answers(one) for one in old)
    limit = megabytes(manifests.container["resources"]["limits"]["memory"])
    assert max(one.peak_megabytes for one in (*old, *pods.pods)) < limit / 2
    traced = {one.resource["k8s.pod.name"] for one in collector.spans(1)}
    assert traced <= {one.name for one in (*old, *pods.pods)}


def late_answers(pod: Pod) -> bool:
    """Whether requests were answered after the signal."""
    names = [event["event"] for event in pod.events()]
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


def test_pod_whose_loop_is_stuck_is_restarted_and_serves_again(running_cluster: tuple[Cluster, Ingress]) -> None:
    pods, ingress = running_cluster
    stuck, *others = pods.pods

    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"http://{stuck.address}:8000/slow", timeout=0.5, trust_env=False)
    wait_until(lambda: stuck.address not in ingress.ready(), "it has left")
    assert {one.address for one in others} <= ingress.ready()
    wait_until(lambda: stuck.restarts == 1, "it is restarted", 90)
    wait_until(lambda: stuck.address in ingress.ready(), "it is back")
    before = ingress.answered(stuck.address)
    with clients(1, ask_orders, ingress.url) as stop:
        wait_until(lambda: ingress.answered(stuck.address) > before, "it serves")
        stop()

    assert stuck.statuses == [-9]
    assert [one.restarts for one in others] == [0] * (REPLICAS - 1)
