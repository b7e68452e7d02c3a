"""`make push`, `deploy`, `undeploy`, `kind`: the calls that they would send, and their errors.

There is no cluster here. kubectl renders for real. Programs named kubectl, kind and docker record all other calls.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from bakery import copy_folder, render, run
from conftest import Start
from deploy_programs import DOCKER, KIND, KUBECTL, Developer, put_objects
from manifests import DIGEST, Manifest

IMAGE = "ghcr.io/acme/order-service"


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return render(tmp_path_factory.mktemp("rendered"), {})


@pytest.fixture
def developer(rendered: Path, tmp_path: Path) -> Developer:
    return Developer(copy_folder(rendered, tmp_path / "order-service"), tmp_path)


@pytest.fixture(scope="module")
def rendered_with_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return render(tmp_path_factory.mktemp("database"), {"database": "postgres", "events": "nats"})


@pytest.fixture
def migrating(rendered_with_database: Path, tmp_path: Path) -> Developer:
    """A developer of a service with a database."""
    developer = Developer(copy_folder(rendered_with_database, tmp_path / "order-service"), tmp_path)
    developer.has("kubectl", KUBECTL)
    return developer


def deployment(documents: list[Manifest], name: str = "order-service") -> Manifest:
    (found,) = (one for one in documents if one["kind"] == "Deployment" and one["metadata"]["name"] == name)
    return found


def image_of(documents: list[Manifest], name: str = "order-service", container: str = "service") -> str:
    pod = deployment(documents, name)["spec"]["template"]["spec"]
    (found,) = (one["image"] for one in pod["containers"] if one["name"] == container)
    return str(found)


def version_of(documents: list[Manifest]) -> str | None:
    labels: dict[str, str] = deployment(documents)["spec"]["template"]["metadata"]["labels"]
    return labels.get("app.kubernetes.io/version")


def test_push_notes_the_digest_of_the_registry_and_deploy_uses_it(developer: Developer) -> None:
    developer.has("kubectl", KUBECTL)
    developer.has("docker", DOCKER)

    status, said = developer.make("push")
    assert status == 0, said
    assert said.splitlines()[-1] == f"{IMAGE}@{DIGEST}"
    before = sorted(one for one in developer.project.rglob("*") if ".cache" not in one.parts)
    status, said = developer.make("deploy", "OVERLAY=production")

    assert status == 0, said
    assert f"Deploying {IMAGE}@{DIGEST} to namespace order-service of somewhere\n" in said
    assert image_of(developer.applied()) == f"{IMAGE}@{DIGEST}"
    assert version_of(developer.applied()) == "0.1.0"
    (pushed, _), (applied, _), (waited, _) = developer.told()
    assert pushed == ["docker", "push", f"{IMAGE}:0.1.0"]
    assert applied == ["apply", "--filename=-"]
    assert waited == ["--namespace=order-service", "rollout", "status", "deployment/order-service"]
    assert sorted(one for one in developer.project.rglob("*") if ".cache" not in one.parts) == before


def test_engine_may_be_a_command(developer: Developer) -> None:
    developer.has("docker", DOCKER)
    developer.has("sudo", '#!/bin/sh\nexec "$@"\n')

    status, said = developer.make("push", "ENGINE=sudo docker")

    assert (status, said.splitlines()[-1]) == (0, f"{IMAGE}@{DIGEST}")


def test_image_version_and_digest_are_those_that_were_given(developer: Developer) -> None:
    """A digest belongs to the image that it was given with, and a version is known only if it was given."""
    developer.has("kubectl", KUBECTL)
    other = "registry.example.com:5000/a/b"
    for given, image, version in (
        ([], IMAGE, None),
        ([f"IMAGE={other}"], other, None),
        ([f"IMAGE={other}", "VERSION=1.0+build"], other, "1.0_build"),
    ):
        status, said = developer.make("deploy", "OVERLAY=production", f"DIGEST={DIGEST}", *given)
        assert status == 0, said
        assert image_of(developer.applied()) == f"{image}@{DIGEST}"
        assert version_of(developer.applied()) == version


def test_digest_of_one_image_is_not_used_for_another(developer: Developer) -> None:
    developer.has("kubectl", KUBECTL)
    developer.has("docker", DOCKER)
    assert developer.make("push")[0] == 0

    for given in (["VERSION=2.0.0"], ["IMAGE=registry.example.com/a"]):
        status, said = developer.make("deploy", *given)
        assert status != 0
        assert " was not pushed from here; push it: make image push IMAGE=" in said
    assert len(developer.told()) == 1


def test_image_of_the_overlay_counts_unless_another_is_given(developer: Developer) -> None:
    developer.has("kubectl", KUBECTL)
    pinned = "sha256:" + "7" * 64
    name = "registry.example.com:5000/a/b"
    developer.overlay(
        (
            "configMapGenerator:",
            f"images: [{{name: order-service, newName: {name}, digest: {pinned}}}]\nconfigMapGenerator:",
        )
    )

    for given, image in (
        ([], f"{name}@{pinned}"),
        ([f"DIGEST={DIGEST}"], f"{name}@{DIGEST}"),
        ([f"DIGEST={DIGEST}", f"IMAGE={IMAGE}"], f"{IMAGE}@{DIGEST}"),
    ):
        status, said = developer.make("deploy", "OVERLAY=production", *given)
        assert status == 0, said
        assert image_of(developer.applied()) == image


def test_placeholder_of_earlier_templates_is_not_deployed(developer: Developer) -> None:
    developer.has("kubectl", KUBECTL)
    image = f"images: [{{name: order-service, newName: {IMAGE}, digest: 'sha256:{'0' * 64}'}}]"
    developer.overlay(("configMapGenerator:", f"{image}\nconfigMapGenerator:"))

    status, said = developer.make("deploy", "OVERLAY=production")

    assert status != 0
    assert f"error: {IMAGE}:0.1.0 was not pushed from here" in said


# Before the Deployment of the service in the sorted output of kustomize, and with a sidecar before its container.
WORKERS = """
apiVersion: apps/v1
kind: Deployment
metadata:
  name: a-cache
  labels: {app.kubernetes.io/component: cache}
spec:
  selector: {matchLabels: {app: a-cache}}
  template:
    metadata: {labels: {app: a-cache}}
    spec: {containers: [{name: service, image: "valkey:8"}]}
---
apiVersion: apps/v1
kind: Deployment
metadata:
  name: a-worker
  labels: {app.kubernetes.io/component: worker}
spec:
  selector: {matchLabels: {app: a-worker}}
  template:
    metadata: {labels: {app: a-worker}}
    spec: {containers: [{name: worker, image: order-service}]}
"""
SIDECAR = """patches:
  - patch: |
      - {op: add, path: /spec/template/spec/containers/0, value: {name: proxy, image: "envoy:1.30"}}
    target: {kind: Deployment, name: order-service}
configMapGenerator:"""


def test_only_the_image_of_the_service_is_replaced(developer: Developer) -> None:
    developer.has("kubectl", KUBECTL)
    (developer.project / "deploy/overlays/production/workers.yaml").write_text(WORKERS)
    developer.overlay(
        ("resources: [../../base]", "resources: [workers.yaml, ../../base]"), ("configMapGenerator:", SIDECAR)
    )

    status, said = developer.make("deploy", "OVERLAY=production", "VERSION=1.2.3", f"DIGEST={DIGEST}")

    assert status == 0, said
    documents = developer.applied()
    labels = [deployment(documents, name)["spec"]["template"]["metadata"]["labels"] for name in ("a-cache", "a-worker")]
    assert [one.get("app.kubernetes.io/version") for one in labels] == [None, "1.2.3"]
    assert version_of(documents) == "1.2.3"
    assert image_of(documents) == f"{IMAGE}@{DIGEST}"
    assert image_of(documents, container="proxy") == "envoy:1.30"
    assert image_of(documents, "a-cache") == "valkey:8"
    # The same image, so the same version.
    assert image_of(documents, "a-worker", "worker") == f"{IMAGE}@{DIGEST}"


def sent(given: str) -> list[Manifest]:
    """The documents of a call of kubectl."""
    documents = list(yaml.safe_load_all(given))
    return documents[0]["items"] if documents[0]["kind"] == "List" else documents


def test_database_is_migrated_before_anything_else_is_changed(migrating: Developer) -> None:
    status, said = migrating.make("deploy", "OVERLAY=production", "VERSION=1.2.3", f"DIGEST={DIGEST}")

    assert status == 0, said
    (first, needed), (deleted, _), (second, started), (third, everything), (waited, _) = migrating.told()
    assert first == second == third == ["apply", "--filename=-"]
    kinds = [one["kind"] for one in sent(needed)]
    assert kinds == ["Namespace", "ServiceAccount", "ConfigMap", "NetworkPolicy"]
    job = "job/order-service-migration"
    assert deleted == ["--namespace=order-service", "delete", job, "--ignore-not-found", "--cascade=foreground"]
    (migration,) = sent(started)
    pod = migration["spec"]["template"]
    (container,) = pod["spec"]["containers"]
    assert container["image"] == image_of(sent(everything)) == f"{IMAGE}@{DIGEST}"
    assert pod["metadata"]["labels"]["app.kubernetes.io/version"] == "1.2.3"
    # The Job is there already, so that it stays as it is.
    assert migration in sent(everything)
    assert waited[-1] == "deployment/order-service"


def test_failed_migration_leaves_the_running_version_and_shows_the_log(migrating: Developer) -> None:
    migrating.log.with_name("told.unmigrated").touch()

    status, said = migrating.make("deploy", "OVERLAY=production", f"DIGEST={DIGEST}")

    assert status != 0
    error = "job/order-service-migration has not migrated the database, so no pod was changed; see its events and log"
    assert f"error: {error} above\n" in said
    assert "Traceback" not in said
    applied = [one["kind"] for arguments, given in migrating.told() if "apply" in arguments for one in sent(given)]
    assert "Deployment" not in applied
    pods = "--selector=batch.kubernetes.io/job-name=order-service-migration"
    assert [arguments[1:] for arguments, _ in migrating.told()[3:]] == [
        ["describe", "job/order-service-migration"],
        ["get", "pods", pods],
        ["logs", "--tail=50", "--prefix", pods],
    ]


def test_database_of_the_overlay_is_ready_before_the_migration(migrating: Developer) -> None:
    status, said = migrating.make("deploy", f"DIGEST={DIGEST}")

    assert status == 0, said
    calls = [arguments[-1] for arguments, _ in migrating.told()]
    assert calls[1] == "deployment/order-service-postgres"
    needed = {one["metadata"]["name"] for one in sent(migrating.told()[0][1]) if one["kind"] == "Deployment"}
    assert needed == {"order-service-postgres"}


def test_second_instance_migrates_by_a_job_of_its_own(migrating: Developer) -> None:
    migrating.overlay(
        ("namespace: order-service", "namespace: shared\nnamePrefix: eu-"), ("instance: order-service", "instance: eu")
    )

    status, said = migrating.make("deploy", "OVERLAY=production", f"DIGEST={DIGEST}")

    assert status == 0, said
    _, (deleted, _), (_, started), *_ = migrating.told()
    assert deleted[:3] == ["--namespace=shared", "delete", "job/eu-order-service-migration"]
    (migration,) = sent(started)
    pod = migration["spec"]["template"]
    assert migration["metadata"]["namespace"] == "shared"
    assert pod["metadata"]["labels"]["app.kubernetes.io/instance"] == "eu"
    assert pod["spec"]["serviceAccountName"] == "eu-order-service"
    assert pod["spec"]["containers"][0]["envFrom"][0]["configMapRef"]["name"].startswith("eu-order-service-")


def test_diff_does_not_change_the_job(migrating: Developer) -> None:
    """Kubernetes rejects a changed Job, also when nothing is stored."""
    status, said = migrating.make("diff", "OVERLAY=production", f"DIGEST={DIGEST}")

    assert status == 0, said
    ((_, compared),) = migrating.told()
    assert {"Deployment", "Job"} & {one["kind"] for one in sent(compared)} == {"Deployment"}
    assert said.splitlines()[1:] == ["A deployment runs first: job.batch/order-service-migration"]


def test_job_of_the_migration_is_kept_by_deploy_and_removed_by_undeploy(migrating: Developer) -> None:
    put_objects(
        migrating.log,
        labelled("Job", "order-service-migration", "batch/v1"),
        labelled("Job", "report", "batch/v1"),
    )

    status, said = migrating.make("deploy", "OVERLAY=production", f"DIGEST={DIGEST}")
    assert status == 0, said
    assert migrating.told()[-1][0][1:] == ["delete", "job.batch", "report"]
    status, said = migrating.make("undeploy", "OVERLAY=production")

    assert status == 0, said
    assert migrating.told()[-2][0][1:] == ["delete", "job.batch", "order-service-migration"]


def test_second_instance_in_a_namespace_has_a_prefix(developer: Developer) -> None:
    developer.has("kubectl", KUBECTL)
    developer.overlay(
        ("namespace: order-service", "namespace: shared\nnamePrefix: eu-"), ("instance: order-service", "instance: eu")
    )

    status, said = developer.make("deploy", "OVERLAY=production", f"DIGEST={DIGEST}")

    assert status == 0, said
    assert developer.told()[-1][0][-1] == "deployment/eu-order-service"
    selects = deployment(developer.applied(), "eu-order-service")["spec"]["selector"]["matchLabels"]
    assert selects["app.kubernetes.io/instance"] == "eu"


def test_overlay_is_deployed_to_a_namespace_that_exists(developer: Developer) -> None:
    """By the steps of deploy/README.md."""
    developer.has("kubectl", KUBECTL)
    developer.overlay(("namespace: order-service", "namespace: shared"), ("  - ../../components/namespace\n", ""))

    status, said = developer.make("deploy", "OVERLAY=production", f"DIGEST={DIGEST}")

    assert status == 0, said
    assert "Namespace" not in {one["kind"] for one in developer.applied()}
    assert {one["metadata"]["namespace"] for one in developer.applied()} == {"shared"}
    assert f"Deploying {IMAGE}@{DIGEST} to namespace shared of somewhere\n" in said


def test_overlay_without_a_namespace_is_deployed_to_that_of_the_context(developer: Developer) -> None:
    developer.has("kubectl", KUBECTL)
    developer.overlay(("namespace: order-service\n", ""), ("  - ../../components/namespace\n", ""))

    status, said = developer.make("deploy", "OVERLAY=production", f"DIGEST={DIGEST}")

    assert status == 0, said
    assert [one["metadata"].get("namespace") for one in developer.applied()] == [None] * 7
    assert f"Deploying {IMAGE}@{DIGEST} to somewhere\n" in said
    assert not [one for arguments, _ in developer.told() for one in arguments if "namespace" in one]


def test_pod_of_the_cluster_needs_no_context(developer: Developer) -> None:
    developer.has("kubectl", KUBECTL, context="")

    status, said = developer.make("deploy", f"DIGEST={DIGEST}", KUBERNETES_SERVICE_HOST="10.96.0.1")

    assert status == 0, said
    assert f"Deploying {IMAGE}@{DIGEST} to namespace order-service-dev of the cluster of this pod\n" in said


def labelled(kind: str, name: str, version: str = "v1", **meta: Any) -> Manifest:
    """An object that `kubectl apply` made."""
    annotations = {"kubectl.kubernetes.io/last-applied-configuration": "{}"}
    labels = {"app.kubernetes.io/instance": "order-service"}
    metadata = {"name": name, "annotations": annotations, "labels": labels, **meta}
    return {"apiVersion": version, "kind": kind, "metadata": metadata}


def test_objects_of_earlier_deployments_are_removed_after_the_rollout(developer: Developer) -> None:
    """ConfigMaps that a rollback needs are kept, and so are objects that something else made."""
    developer.has("kubectl", KUBECTL)
    set_of_pods = labelled("ReplicaSet", "order-service-1", "apps/v1", ownerReferences=[{"kind": "Deployment"}])
    set_of_pods["spec"] = {"envFrom": [{"configMapRef": {"name": "order-service-before"}}]}
    put_objects(
        developer.log,
        set_of_pods,
        labelled("ConfigMap", "order-service-before"),
        labelled("ConfigMap", "order-service-long-ago"),
        labelled("Ingress", "order-service", "networking.k8s.io/v1"),
        labelled("Service", "order-service"),
        labelled("Secret", "order-service"),
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "made-by-an-operator"}},
    )

    status, said = developer.make("deploy", f"DIGEST={DIGEST}")

    assert status == 0, said
    calls = [arguments[1:] for arguments, _ in developer.told()]
    assert calls[1][0] == "rollout"
    assert calls[2:] == [
        ["delete", "configmap", "order-service-long-ago"],
        ["delete", "ingress.networking.k8s.io", "order-service"],
    ]


def test_kinds_that_may_not_be_listed_are_kept(developer: Developer) -> None:
    developer.has("kubectl", KUBECTL, forbidden="replicasets.apps")
    put_objects(developer.log, labelled("ConfigMap", "order-service-before"), labelled("Service", "old"))

    status, said = developer.make("deploy", f"DIGEST={DIGEST}")

    assert status == 0, said
    assert "warning: some kinds cannot be listed, see above; their objects are kept\n" in said
    assert [arguments[1:] for arguments, _ in developer.told()][2:] == [["delete", "service", "old"]]


def test_another_selector_is_reported_before_anything_is_applied(developer: Developer) -> None:
    developer.has("kubectl", KUBECTL)
    running = labelled("Deployment", "order-service", "apps/v1")
    running["spec"] = {"selector": {"matchLabels": {"app.kubernetes.io/name": "order-service"}}}
    put_objects(developer.log, running)

    status, said = developer.make("deploy", "OVERLAY=production", f"DIGEST={DIGEST}")

    assert status != 0
    assert "kubectl --namespace=order-service delete deployment order-service --cascade=orphan\n" in said
    assert developer.told() == []


def test_diff_compares_the_image_that_would_be_deployed(developer: Developer) -> None:
    developer.has("kubectl", KUBECTL)

    put_objects(developer.log, labelled("Service", "old"))

    status, said = developer.make("diff", "OVERLAY=production", f"DIGEST={DIGEST}")

    assert status == 0, said
    ((compared, manifests),) = developer.told()
    assert compared == ["diff", "--filename=-"]
    assert said.splitlines()[1:] == ["A deployment deletes: service/old"]
    assert image_of(list(yaml.safe_load_all(manifests))) == f"{IMAGE}@{DIGEST}"


def test_overlay_with_the_label_of_another_one_is_rejected(developer: Developer) -> None:
    """Otherwise its deployment would delete the other one."""
    developer.has("kubectl", KUBECTL)
    running = labelled("Deployment", "order-service", "apps/v1")
    running["spec"] = {"selector": {"matchLabels": {}}}
    put_objects(developer.log, running, labelled("Service", "order-service"))
    developer.overlay(("resources:", "namePrefix: eu-\nresources:"))

    status, said = developer.make("deploy", "OVERLAY=production", f"DIGEST={DIGEST}")

    assert status != 0
    assert "error: deployment/order-service has the label app.kubernetes.io/instance: order-service too" in said
    assert developer.told() == []


def test_overlay_may_have_objects_in_several_namespaces(developer: Developer) -> None:
    """kustomize changes no namespace if the overlay sets none. kubectl rejects `--namespace` for other namespaces."""
    developer.has("kubectl", KUBECTL)
    developer.overlay(
        ("namespace: order-service\n", ""), ("resources: [../../base]", "resources: [../../base, more.yaml]")
    )
    more = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "more", "namespace": "monitoring"}}
    (developer.project / "deploy/overlays/production/more.yaml").write_text(yaml.safe_dump(more))

    status, said = developer.make("deploy", "OVERLAY=production", f"DIGEST={DIGEST}")

    assert status == 0, said
    assert "monitoring" in {one["metadata"].get("namespace") for one in developer.applied()}
    assert developer.told()[0][0] == ["apply", "--filename=-"]


def test_kinds_without_a_manifest_are_removed_too(developer: Developer) -> None:
    developer.has("kubectl", KUBECTL)
    put_objects(developer.log, labelled("CronJob", "report", "batch/v1"))

    status, said = developer.make("deploy", f"DIGEST={DIGEST}")

    assert status == 0, said
    assert developer.told()[-1][0][1:] == ["delete", "cronjob.batch", "report"]


def test_tag_of_the_overlay_is_deployed_unless_another_image_is_given(developer: Developer) -> None:
    developer.has("kubectl", KUBECTL)
    developer.overlay(("configMapGenerator:", "images: [{name: order-service, newTag: 1.4.2}]\nconfigMapGenerator:"))

    for given, image in (([], "order-service:1.4.2"), ([f"DIGEST={DIGEST}"], f"{IMAGE}@{DIGEST}")):
        status, said = developer.make("deploy", "OVERLAY=production", *given)
        assert status == 0, said
        assert image_of(developer.applied()) == image


def test_new_build_has_to_be_pushed_again(developer: Developer) -> None:
    developer.has("kubectl", KUBECTL)
    developer.has("docker", DOCKER)
    assert developer.make("push")[0] == 0
    assert developer.make("image")[0] == 0

    status, said = developer.make("deploy")

    assert status != 0
    assert f"error: {IMAGE}:0.1.0 was not pushed from here" in said


def test_undeploy_leaves_the_namespace_and_the_secret(developer: Developer) -> None:
    developer.has("kubectl", KUBECTL)
    put_objects(
        developer.log,
        labelled("Deployment", "order-service", "apps/v1"),
        labelled("ConfigMap", "order-service-before"),
        labelled("Secret", "order-service"),
    )

    status, said = developer.make("undeploy", "OVERLAY=production")

    assert status == 0, said
    assert [arguments for arguments, _ in developer.told()] == [
        ["--namespace=order-service", "delete", "deployment.apps", "order-service"],
        ["--namespace=order-service", "delete", "configmap", "order-service-before"],
    ]
    assert "kubectl delete namespace order-service" in said


def test_everything_deployed_has_the_label_by_which_it_is_removed(developer: Developer) -> None:
    developer.has("kubectl", KUBECTL)
    for overlay, instance in (("dev", "order-service-dev"), ("production", "order-service")):
        status, said = developer.make("deploy", f"OVERLAY={overlay}", f"DIGEST={DIGEST}")
        assert status == 0, said
        labels = {one["metadata"]["labels"]["app.kubernetes.io/instance"] for one in developer.applied()}
        assert labels == {instance}


def test_kind_loads_a_local_image_and_tests_the_service(developer: Developer, start: Start) -> None:
    service = start(developer.project, APP_ADMIN_PORT="0").ready()
    developer.ports = (service.port, service.admin.base_url.port or 0)
    image = "docker.io/library/order-service:dev"
    tag = f"{image}-0123456789ab"
    developer.has("kubectl", KUBECTL)
    developer.has("kind", KIND)
    developer.has("docker", DOCKER)

    # The addresses are on this machine, so no proxy is asked.
    status, said = developer.make("kind", "ENGINE=docker", http_proxy="http://127.0.0.1:1")

    assert status == 0, said
    told = [arguments for arguments, _ in developer.told()]
    saved = told[3][2]
    assert told[0][:4] == ["docker", "build", "--tag", image]
    assert told[1] == ["kind", "create", "cluster", "--name=order-service", "--wait=120s"]
    assert told[2:5] == [
        ["docker", "tag", image, tag],
        ["docker", "save", saved, tag],
        ["kind", "load", "image-archive", saved.removeprefix("--output="), "--name=order-service"],
    ]
    assert told[5] == ["--context=kind-order-service", "apply", "--filename=-"]
    assert image_of(developer.applied()) == tag
    assert "rollout" in told[6]
    assert re.findall(r"^ok    (.*)$", said, re.MULTILINE)[-1] == "/metrics counts the request"
    assert service.access_lines(1, route="/orders")
    assert "kubectl --context=kind-order-service --namespace=order-service-dev port-forward" in said


@pytest.mark.parametrize(
    ("programs", "arguments", "error"),
    [
        ((), ["deploy"], "kubectl is not installed; see https://kubernetes.io/docs/tasks/tools/"),
        ((), ["undeploy"], "kubectl is not installed; see https://kubernetes.io/docs/tasks/tools/"),
        ((), ["push"], "docker is not installed; install docker or podman, or set ENGINE=<program>"),
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
        (
            ("kubectl",),
            ["deploy"],
            (
                f"{IMAGE}:0.1.0 was not pushed from here; push it: make image push IMAGE={IMAGE} VERSION=0.1.0, "
                "or set DIGEST=sha256:…"
            ),
        ),
        (
            ("kubectl",),
            ["deploy", "DIGEST=latest"],
            "DIGEST 'latest' is invalid; it must be sha256: and 64 hexadecimal digits",
        ),
        (
            ("kubectl",),
            ["deploy", f"DIGEST={DIGEST}", "IMAGE=registry.example.com:5000/a:1"],
            "IMAGE 'registry.example.com:5000/a:1' has a tag or a digest; set VERSION or DIGEST instead",
        ),
        (
            ("kubectl",),
            ["deploy", f"DIGEST={DIGEST}", "IMAGE="],
            "IMAGE is empty; set it to the name of the image, or remove it to use the name in the Makefile",
        ),
    ],
)
def test_each_error_is_one_sentence(
    developer: Developer, programs: tuple[str, ...], arguments: list[str], error: str
) -> None:
    for name in programs:
        developer.has(name, {"kubectl": KUBECTL, "kind": KIND, "docker": DOCKER}[name])

    status, said = developer.make(*arguments)

    assert status != 0
    assert f"error: {error}\n" in said
    assert "Traceback" not in said
    assert developer.told() == []


def test_kubectl_without_a_context_is_reported(developer: Developer) -> None:
    developer.has("kubectl", KUBECTL, context="")

    status, said = developer.make("deploy", f"DIGEST={DIGEST}")

    assert status != 0
    assert "error: kubectl has no current context; select a cluster: kubectl config use-context <name>\n" in said


@pytest.mark.parametrize(
    ("old", "new", "error"),
    [
        ("component: server", "component: web", "must have one Deployment with the labels app.kubernetes.io/name: "),
        (
            "- name: service\n",
            "- name: main\n",
            " and a container named `service`, as in base/deployment.yaml; it has 0",
        ),
    ],
)
def test_manifests_without_the_service_are_rejected(developer: Developer, old: str, new: str, error: str) -> None:
    developer.has("kubectl", KUBECTL)
    manifest = developer.project / "deploy/base/deployment.yaml"
    manifest.write_text(manifest.read_text().replace(old, new))

    status, said = developer.make("deploy", f"DIGEST={DIGEST}")

    assert status != 0
    assert error in said
    assert developer.told() == []


def test_rollout_without_progress_shows_the_pods(developer: Developer) -> None:
    developer.has("kubectl", KUBECTL)
    developer.log.with_name("told.stuck").touch()
    put_objects(developer.log, labelled("Ingress", "old", "networking.k8s.io/v1"))

    status, said = developer.make("deploy", f"DIGEST={DIGEST}")

    assert status != 0
    assert "error: the new pods of deployment/order-service are not ready; see their events and logs above\n" in said
    looked = [arguments[1:3] for arguments, _ in developer.told()[2:]]
    assert looked == [["get", "pods"], ["describe", "pods"], ["logs", "--tail=50"]]


@pytest.fixture
def smoke(installed: Path) -> Callable[..., tuple[int, str]]:
    def ask(*addresses: str) -> tuple[int, str]:
        done = run("python3", "deploy/kind.py", "smoke", *addresses, cwd=installed, NO_PROXY="127.0.0.1")
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
