"""`make deploy`, `undeploy`, `kind`: the calls that they would send to a cluster, and their errors.

There is no cluster here. kubectl renders for real. Programs named kubectl, kind and docker record all other calls.
"""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from bakery import clean_environment, run
from conftest import Bake, Start
from deploy_programs import DIGEST, DOCKER, KIND, KUBECTL, PYTHON, Recorded, install, recorded
from manifests import Manifest
from running import needs

IMAGE = "ghcr.io/acme/order-service"


class Developer:
    """A fresh service, and programs on PATH that record their arguments."""

    def __init__(self, project: Path, folder: Path) -> None:
        needs("kubectl")
        self.project = project
        self.programs = folder / "bin"
        self.programs.mkdir()
        self.log = folder / "told"
        # And nothing else.
        (self.programs / "python3").symlink_to(PYTHON)
        for name in ("make", "uv", "git", "awk", "sed", "mkdir", "sh"):
            found = shutil.which(name, path=clean_environment(folder)["PATH"])
            assert found, name
            (self.programs / name).symlink_to(found)
        self.ports = (0, 0)

    def has(self, name: str, program: str, **values: object) -> None:
        """Put a program there."""
        install(self.programs, name, program, self.log, self.ports, **values)

    def make(self, *arguments: str) -> tuple[int, str]:
        """The exit status of make, and its output."""
        done = run("make", "--no-print-directory", *arguments, cwd=self.project, PATH=str(self.programs))
        return done.returncode, done.stdout

    def told(self) -> list[Recorded]:
        """The recorded calls."""
        return recorded(self.log)


@pytest.fixture
def developer(bake: Bake, tmp_path: Path) -> Developer:
    return Developer(bake(), tmp_path)


def documents(text: str) -> dict[str, Manifest]:
    return {one["kind"]: one for one in yaml.safe_load_all(text)}


def image_of(text: str) -> str:
    (container,) = documents(text)["Deployment"]["spec"]["template"]["spec"]["containers"]
    return str(container["image"])


def test_production_is_deployed_by_the_digest_that_was_pushed(developer: Developer) -> None:
    developer.has("kubectl", KUBECTL)
    developer.has("docker", DOCKER, digests=json.dumps([f"{IMAGE}-other@{DIGEST[::-1]}", f"{IMAGE}@{DIGEST}"]))
    before = sorted(developer.project.rglob("*"))

    status, said = developer.make("deploy", "OVERLAY=production")

    assert status == 0, said
    assert f"Deploying {IMAGE}@{DIGEST} to namespace order-service of somewhere\n" in said
    (applied, manifests), (waited, _) = developer.told()
    assert applied == ["apply", "--filename=-"]
    assert image_of(manifests) == f"{IMAGE}@{DIGEST}"
    assert waited == ["--namespace=order-service", "rollout", "status", "deployment/order-service", "--timeout=300s"]
    assert sorted(developer.project.rglob("*")) == before


def test_digest_may_be_given_and_another_registry_be_in_the_overlay(developer: Developer) -> None:
    developer.has("kubectl", KUBECTL)
    overlay = developer.project / "deploy/overlays/production/kustomization.yaml"
    overlay.write_text(overlay.read_text().replace(f"newName: {IMAGE}", "newName: registry.example.com:5000/a/b"))

    status, said = developer.make("deploy", "OVERLAY=production", f"DIGEST={DIGEST}")

    assert status == 0, said
    assert image_of(developer.told()[0][1]) == f"registry.example.com:5000/a/b@{DIGEST}"


def test_overlay_is_deployed_to_a_namespace_that_exists(developer: Developer) -> None:
    """By the steps of deploy/README.md."""
    developer.has("kubectl", KUBECTL)
    change_overlay(developer, "namespace: order-service", "namespace: shared")
    change_overlay(developer, "  - ../../components/namespace\n", "")

    status, said = developer.make("deploy", "OVERLAY=production", f"DIGEST={DIGEST}")

    assert status == 0, said
    applied = documents(developer.told()[0][1])
    assert "Namespace" not in applied
    assert {one["metadata"]["namespace"] for one in applied.values()} == {"shared"}
    assert f"Deploying {IMAGE}@{DIGEST} to namespace shared of somewhere\n" in said


def test_overlay_without_a_namespace_is_deployed_to_that_of_the_context(developer: Developer) -> None:
    developer.has("kubectl", KUBECTL)
    change_overlay(developer, "namespace: order-service\n", "")
    change_overlay(developer, "  - ../../components/namespace\n", "")

    status, said = developer.make("deploy", "OVERLAY=production", f"DIGEST={DIGEST}")

    assert status == 0, said
    (_, manifests), (waited, _) = developer.told()
    assert [one["metadata"].get("namespace") for one in documents(manifests).values()] == [None] * 7
    assert f"Deploying {IMAGE}@{DIGEST} to namespace team-b of somewhere\n" in said
    assert waited[0] == "--namespace=team-b"


def change_overlay(developer: Developer, old: str, new: str) -> None:
    """Edit the overlay for production."""
    overlay = developer.project / "deploy/overlays/production/kustomization.yaml"
    text = overlay.read_text()
    assert text.count(old) == 1
    overlay.write_text(text.replace(old, new))


def test_undeploy_leaves_the_namespace(developer: Developer) -> None:
    developer.has("kubectl", KUBECTL)

    status, said = developer.make("undeploy", "OVERLAY=production")

    assert status == 0, said
    ((deleted, _),) = developer.told()
    namespace, command, kinds, selector = deleted
    assert (namespace, command) == ("--namespace=order-service", "delete")
    assert selector == "--selector=app.kubernetes.io/instance=order-service"
    assert {"deployment", "service", "configmap", "networkpolicy"} <= set(kinds.split(",")) - {"namespace"}
    assert "namespace" not in kinds.split(",")
    assert "kubectl delete namespace order-service" in said


def test_everything_deployed_has_the_label_by_which_it_is_taken_out(developer: Developer) -> None:
    developer.has("kubectl", KUBECTL)
    for overlay, instance in (("dev", "order-service-dev"), ("production", "order-service")):
        status, said = developer.make("deploy", f"OVERLAY={overlay}", f"DIGEST={DIGEST}")
        assert status == 0, said
        manifests = documents(developer.told()[-2][1])
        labels = {kind: one["metadata"]["labels"]["app.kubernetes.io/instance"] for kind, one in manifests.items()}
        assert labels == dict.fromkeys(manifests, instance)


def test_kind_brings_an_image_of_this_machine_into_a_cluster_and_asks_it(developer: Developer, start: Start) -> None:
    service = start(developer.project, APP_ADMIN_PORT="0").ready()
    developer.ports = (service.port, service.admin.base_url.port or 0)
    developer.has("kubectl", KUBECTL)
    developer.has("kind", KIND)
    developer.has("docker", DOCKER)

    status, said = developer.make("kind", "ENGINE=docker")

    assert status == 0, said
    tag = f"{IMAGE}:dev-0123456789ab"
    told = [arguments for arguments, _ in developer.told()]
    saved = told[3][2]
    assert told[0][:4] == ["docker", "build", "--tag", f"{IMAGE}:dev"]
    assert told[1] == ["kind", "create", "cluster", "--name=order-service", "--wait=120s"]
    assert told[2:5] == [
        ["docker", "tag", f"{IMAGE}:dev", tag],
        ["docker", "save", saved, tag],
        ["kind", "load", "image-archive", saved.removeprefix("--output="), "--name=order-service"],
    ]
    assert told[5] == ["--context=kind-order-service", "apply", "--filename=-"]
    assert image_of(developer.told()[5][1]) == tag
    assert "rollout" in told[6]
    assert re.findall(r"^ok    (.*)$", said, re.MULTILINE)[-1] == "/metrics counts the request"
    assert service.access_lines(1, route="/orders")
    assert "kubectl --context=kind-order-service --namespace=order-service-dev port-forward" in said


@pytest.mark.parametrize(
    ("programs", "arguments", "error"),
    [
        ((), ["deploy"], "kubectl is not installed; see https://kubernetes.io/docs/tasks/tools/"),
        ((), ["undeploy"], "kubectl is not installed; see https://kubernetes.io/docs/tasks/tools/"),
        ((), ["kind"], "docker is not installed; install it first"),
        (
            ("docker",),
            ["kind"],
            "kind is not installed; see https://kind.sigs.k8s.io/docs/user/quick-start/#installation",
        ),
        (("docker", "kind"), ["kind"], "kubectl is not installed; see https://kubernetes.io/docs/tasks/tools/"),
        (
            ("kubectl",),
            ["deploy", "OVERLAY=staging"],
            "overlay 'staging' does not exist; set OVERLAY to one of: dev, production",
        ),
        (("kubectl",), ["deploy", "OVERLAY=production"], "docker is not installed; install it first"),
        (
            ("kubectl", "docker"),
            ["deploy", "OVERLAY=production", "VERSION=1.2.3"],
            f"image {IMAGE}:1.2.3 was not pushed yet; push it: docker push {IMAGE}:1.2.3, or set DIGEST=sha256:…",
        ),
        (
            ("kubectl",),
            ["deploy", "DIGEST=latest"],
            "DIGEST 'latest' is invalid; it must be sha256: and 64 hexadecimal digits, such as: sha256:6b86…",
        ),
    ],
)
def test_what_can_not_be_is_said_in_one_sentence(
    developer: Developer, programs: tuple[str, ...], arguments: list[str], error: str
) -> None:
    for name in programs:
        developer.has(name, {"kubectl": KUBECTL, "kind": KIND, "docker": DOCKER}[name])

    status, said = developer.make(*arguments)

    assert status != 0
    assert f"error: {error}\n" in said
    assert "Traceback" not in said
    assert developer.told() == []


def test_rollout_that_does_not_get_on_shows_the_pods(developer: Developer) -> None:
    developer.has("kubectl", KUBECTL)
    developer.log.with_name("told.stuck").touch()

    status, said = developer.make("deploy")

    assert status != 0
    assert "error: the pods of order-service are not ready after 300 seconds; see their events and logs above\n" in said
    looked = [arguments[1:3] for arguments, _ in developer.told()[2:]]
    assert looked == [["get", "pods"], ["describe", "pods"], ["logs", "--tail=50"]]


@pytest.fixture
def smoke(installed: Path) -> Callable[..., tuple[int, str]]:
    def ask(*addresses: str) -> tuple[int, str]:
        done = run("python3", "deploy/deploy.py", "smoke", *addresses, cwd=installed, NO_PROXY="127.0.0.1")
        return done.returncode, done.stdout

    return ask


def test_smoke_test_fails_when_the_service_does(
    installed: Path, start: Start, smoke: Callable[..., tuple[int, str]]
) -> None:
    service = start(installed).ready()
    address = f"http://127.0.0.1:{service.port}"

    assert smoke(address, address)[0] == 0
    status, said = smoke(address, f"{address}/nowhere")
    assert status != 0
    assert "FAIL  /healthz responds with 200" in said
