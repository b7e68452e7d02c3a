"""The chart: the same objects as the kustomize overlays, accepted by Helm's linter and by Kubernetes, and deployed."""

import json
import re
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from kubernetes_validate.utils import all_versions, major_minor
from packaging.version import Version

from bakery import render as render_template
from bakery import run
from deploy_programs import DOCKER, KIND, KUBECTL, Developer, recorded
from helm_chart import Rendered, render
from manifests import CUSTOM, DIGEST, Manifest, add_components, kustomize, selecting

IMAGE = "ghcr.io/acme/order-service"
NEWEST = sorted({major_minor(one) for one in all_versions()}, key=Version)[-3:]
WITH_IMAGE = {"image": {"repository": IMAGE, "digest": DIGEST}}
EVERYTHING = {name: {"enabled": True} for name in ("httpRoute", "ingress", "podMonitor", "prometheusRule")}
# Set by helm alone, and by kustomize alone.
OF_HELM = {"helm.sh/chart", "app.kubernetes.io/version", "app.kubernetes.io/managed-by", "checksum/settings"}
OF_BOTH = {"app.kubernetes.io/name", "app.kubernetes.io/instance"}
OF_KUSTOMIZE = {"argocd.argoproj.io/sync-wave", "namespace"}
WITH_SERVERS = {"database": "postgres", "events": "nats", "auth": "jwt"}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return render_template(tmp_path_factory.mktemp("helm"), {"deploy": "helm"})


@pytest.fixture(scope="module")
def with_servers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A service with a database and events."""
    return render_template(tmp_path_factory.mktemp("servers"), {"deploy": "helm", **WITH_SERVERS})


def values_of(project: Path, overlay: str) -> dict[str, Any]:
    values: dict[str, Any] = yaml.safe_load((project / f"deploy/values-{overlay}.yaml").read_text())
    return values


def chart(project: Path, *values: dict[str, Any], **options: str) -> Rendered:
    return render(project / "deploy/chart", WITH_IMAGE, *values, **options)


def comparable(node: Any, names: dict[str, str]) -> Any:
    """Without labels that only one of both has, and with the names of both alike."""
    if isinstance(node, dict):
        kept = {name: comparable(value, names) for name, value in node.items() if name not in OF_HELM | OF_KUSTOMIZE}
        return {name: value for name, value in kept.items() if value not in ({}, None)}
    if isinstance(node, list):
        return [comparable(one, names) for one in node]
    if isinstance(node, str):
        return names.get(node, re.sub(r"\s+", " ", node))
    return node


def by_name(documents: list[Manifest]) -> dict[str, Manifest]:
    """The objects by kind and name, without the Job of the migration and what only the chart has for it."""
    (config,) = (one["metadata"]["name"] for one in documents if one["kind"] == "ConfigMap")
    names = {config: "order-service", "order-service-dev": "order-service", "order-service": "order-service"}
    found = {}
    for document in documents:
        one = comparable(document, {**names, f"{IMAGE}@{DIGEST}": "order-service"})
        # kustomize labels objects of components with the instance only.
        labels = {name: value for name, value in one["metadata"].get("labels", {}).items() if name not in OF_BOTH}
        one["metadata"]["labels"] = labels
        for rule in one["spec"].get("ingress", []) if one["kind"] == "NetworkPolicy" else []:
            for peer in rule["from"]:
                peer.get("podSelector", {}).get("matchLabels", {}).pop("app.kubernetes.io/instance", None)
        if one["metadata"]["name"] != "order-service-migration":
            found[f"{one['kind']} {one['metadata']['name']}"] = one
    return found


@pytest.mark.parametrize("overlay", ["dev", "production"])
@pytest.mark.parametrize("answers", [{}, WITH_SERVERS], ids=["alone", "with servers"])
def test_chart_and_overlays_have_the_same_objects(
    project: Path, with_servers: Path, tmp_path: Path, overlay: str, answers: dict[str, str]
) -> None:
    project = with_servers if answers else project
    other = render_template(tmp_path, {"deploy": "kustomize", **answers})
    without = Path("deploy/overlays") / overlay
    for added in ({}, EVERYTHING):
        if added:
            servers = ["nats", "postgres"] if answers and overlay == "dev" else []
            add_components(other, overlay, without={"nats", "postgres"}.difference(servers))
        expected = by_name(
            [one for one in yaml.safe_load_all(kustomize(other / without)) if one["kind"] != "Namespace"]
        )
        rendered = chart(project, values_of(project, overlay), added)
        assert rendered.error == ""
        found = by_name(rendered.manifests)
        assert sorted(found) == sorted(expected)
        for name, manifest in expected.items():
            assert found[name] == manifest, name


def job_of(documents: list[Manifest]) -> Manifest:
    (found,) = (one for one in documents if one["kind"] == "Job")
    return found


@pytest.mark.parametrize("overlay", ["dev", "production"])
def test_migration_is_that_of_the_overlays_but_for_its_settings_and_account(
    with_servers: Path, tmp_path: Path, overlay: str
) -> None:
    """A hook runs before Helm has made or changed the objects of the release."""
    folder = render_template(tmp_path, {"deploy": "kustomize", **WITH_SERVERS}) / "deploy/overlays" / overlay
    pods = []
    for documents in (
        list(yaml.safe_load_all(kustomize(folder))),
        chart(with_servers, values_of(with_servers, overlay)).manifests,
    ):
        (settings,) = (one["data"] for one in documents if one["kind"] == "ConfigMap")
        names = {f"{IMAGE}@{DIGEST}": "order-service", "order-service-dev": "order-service"}
        job = comparable(job_of(documents)["spec"], names)
        pod = job["template"]["spec"]
        (container,) = pod["containers"]
        environment = {one["name"]: one["value"] for one in container.pop("env")}
        environment |= settings if container.pop("envFrom", None) else {}
        pods.append((job, pod.pop("serviceAccountName"), environment))
        assert settings.items() <= environment.items()

    (one, account, given), (other, own_account, same) = pods
    assert one == other
    assert given == same
    assert (account, own_account) == ("order-service", "order-service-migration")


@pytest.mark.parametrize(("overlay", "first"), [("dev", "post-install"), ("production", "pre-install")])
def test_all_that_the_migration_needs_is_there_before_it(with_servers: Path, overlay: str, first: str) -> None:
    documents = chart(with_servers, values_of(with_servers, overlay)).manifests
    hooks = {
        one["kind"]: one["metadata"]["annotations"]
        for one in documents
        if "helm.sh/hook" in one["metadata"].get("annotations", {})
    }
    pod = job_of(documents)["spec"]["template"]["spec"]
    account = next(
        one
        for one in documents
        if one["kind"] == "ServiceAccount" and one["metadata"]["name"] == pod["serviceAccountName"]
    )

    # A database of this release is there only after the installation.
    assert {one["helm.sh/hook"] for one in hooks.values()} == {f"{first},pre-upgrade"}
    assert {kind: int(one["helm.sh/hook-weight"]) for kind, one in hooks.items()} == {
        "Job": 0,
        "NetworkPolicy": -1,
        "ServiceAccount": -1,
    }
    assert all("before-hook-creation" in one["helm.sh/hook-delete-policy"] for one in hooks.values())
    assert "helm.sh/hook" in account["metadata"]["annotations"]
    assert "configMap" not in str(pod)


def test_nothing_selects_the_pods_of_the_migration_but_its_network_policies(with_servers: Path) -> None:
    documents = chart(with_servers, values_of(with_servers, "dev"), EVERYTHING).manifests
    labels = job_of(documents)["spec"]["template"]["metadata"]["labels"]

    assert sorted(selecting(documents, labels)) == [
        "NetworkPolicy order-service-migration",
        "NetworkPolicy order-service-to-database",
    ]


@pytest.mark.parametrize("version", NEWEST)
def test_helm_and_kubernetes_accept_it(project: Path, version: str) -> None:
    rendered = chart(project, values_of(project, "production"), EVERYTHING, version=f"v{version}.0")

    assert (rendered.error, rendered.findings) == ("", [])
    accepted = [one for one in rendered.manifests if one["kind"] not in CUSTOM]
    assert len(accepted) >= 8
    for one in accepted:
        assert kubernetes_validate.validate(one, version, strict=True) == version


def test_helm_and_kubernetes_accept_the_migration_and_the_servers(with_servers: Path) -> None:
    rendered = chart(with_servers, values_of(with_servers, "dev"), release="a" * 53)

    assert (rendered.error, rendered.findings) == ("", [])
    for one in rendered.manifests:
        kubernetes_validate.validate(one, NEWEST[-1], strict=True)
        assert len(one["metadata"]["name"]) <= 63


@pytest.mark.parametrize(
    ("values", "error"),
    [
        ({"replicas": 3}, "additional properties 'replicas' not allowed"),
        ({"image": {"digest": "latest"}}, "at '/image/digest'"),
        ({"settings": {"app-port": "1"}}, "invalid propertyName 'app-port'"),
        ({"settings": {"APP_LIST": ["a"]}}, "at '/settings/APP_LIST'"),
        ({"settings": {"APP_PORT": "abc"}}, "at '/settings/APP_PORT'"),
        ({"image": {"repository": "r.acme.test/x:1.2"}}, "at '/image/repository'"),
        ({"fullnameOverride": "12345"}, "at '/fullnameOverride'"),
        ({"networkPolicy": {"ingressNamespaces": []}}, "at '/networkPolicy/ingressNamespaces'"),
        ({"networkPolicy": {"prometheusNamespace": ""}}, "at '/networkPolicy/prometheusNamespace'"),
        ({"podLabels": {"app.kubernetes.io/component": "a"}}, "invalid propertyName"),
        ({"autoscaling": {"minReplicas": 5, "maxReplicas": 2}}, "minReplicas is greater than autoscaling.maxReplicas"),
        ({"autoscaling": {"minReplicas": 0}}, "at '/autoscaling/minReplicas'"),
        ({"image": {"repository": ""}}, "image.repository is empty; deploy with make, or set it to the name"),
        ({"image": {"digest": "", "tag": ""}}, "image.digest and image.tag are empty; set one of them"),
    ],
)
def test_values_that_cannot_work_are_rejected(project: Path, values: dict[str, Any], error: str) -> None:
    assert error in chart(project, values).error


def test_values_have_the_effect_that_the_readme_describes(project: Path) -> None:
    rendered = chart(
        project,
        {
            "podSecurityContext": {"runAsUser": None, "runAsGroup": None, "fsGroup": None},
            "settings": {"APP_PORT": "8080", "APP_TRUSTED_PROXIES": "192.0.2.1"},
            "imagePullSecrets": [{"name": "registry"}],
            "networkPolicy": {"extraEgress": [{"ports": [{"port": 5432}]}]},
            "ingress": {"enabled": True},
            "podLabels": {"team": "a"},
            "version": "1.0+build",
        },
        release="eu",
    )

    assert rendered.error == ""
    objects = {one["kind"]: one for one in rendered.manifests}
    assert {one["metadata"]["name"] for one in rendered.manifests} == {"eu-order-service"}
    assert {one["metadata"]["labels"]["app.kubernetes.io/instance"] for one in rendered.manifests} == {"eu"}
    pod = objects["Deployment"]["spec"]["template"]
    assert set(pod["spec"]["securityContext"]) == {"runAsNonRoot", "fsGroupChangePolicy", "seccompProfile"}
    assert pod["metadata"]["labels"]["team"] == "a"
    assert pod["metadata"]["labels"]["app.kubernetes.io/version"] == "1.0_build"
    assert [one["containerPort"] for one in pod["spec"]["containers"][0]["ports"]] == [8080, 9000]
    assert objects["ConfigMap"]["data"]["APP_TRUSTED_PROXIES"] == "192.0.2.1"
    assert objects["ServiceAccount"]["imagePullSecrets"] == [{"name": "registry"}]
    policy = objects["NetworkPolicy"]["spec"]
    assert policy["ingress"][0]["ports"][0]["port"] == 8080
    assert policy["egress"][-1] == {"ports": [{"port": 5432}]}


@pytest.mark.parametrize("release", ["123", "true", "a" * 53])
def test_odd_names_and_large_numbers_are_text(project: Path, release: str) -> None:
    values = {
        "settings": {"APP_MAX_BODY_BYTES": 10485760, "APP_TRACE_ADMIN": True},
        "terminationGracePeriodSeconds": 1000000,
        "secretName": "123",
        "ingress": {"enabled": True, "host": "*.example.com"},
        "prometheusRule": {"enabled": True},
        "version": "feature/x-",
    }
    rendered = chart(project, values, release=release)

    assert rendered.error == ""
    objects = {one["kind"]: one for one in rendered.manifests}
    name = objects["Deployment"]["metadata"]["name"]
    assert objects["ConfigMap"]["data"]["APP_MAX_BODY_BYTES"] == "10485760"
    assert objects["ConfigMap"]["data"]["APP_TRACE_ADMIN"] == "true"
    pod = objects["Deployment"]["spec"]["template"]
    assert pod["spec"]["terminationGracePeriodSeconds"] == 1000000
    assert pod["spec"]["volumes"][1]["secret"]["secretName"] == "123"
    assert pod["metadata"]["labels"]["app.kubernetes.io/instance"] == release
    assert pod["metadata"]["labels"]["app.kubernetes.io/version"] == "feature_x"
    (key,) = objects["NetworkPolicy"]["spec"]["ingress"][0]["from"][1]["namespaceSelector"]["matchLabels"]
    assert len(key) <= 63
    assert f'horizontalpodautoscaler="{name}"' in yaml.safe_dump(objects["PrometheusRule"], width=10000)
    for one in rendered.manifests:
        if one["kind"] not in CUSTOM:
            kubernetes_validate.validate(one, NEWEST[-1], strict=True)


def test_linter_accepts_the_defaults(project: Path) -> None:
    assert render(project / "deploy/chart").findings == []


def test_changed_setting_starts_a_rollout(project: Path) -> None:
    sums = []
    for values in ({}, {"settings": {"APP_LOG_LEVEL": "DEBUG"}}):
        (deployment,) = (one for one in chart(project, values).manifests if one["kind"] == "Deployment")
        sums.append(deployment["spec"]["template"]["metadata"]["annotations"]["checksum/settings"])

    assert sums[0] != sums[1]


@pytest.mark.parametrize("monitoring", ["included", "none"])
def test_readme_schema_and_defaults_have_the_same_values(
    project: Path, with_servers: Path, tmp_path: Path, monitoring: str
) -> None:
    if monitoring == "none":
        project = render_template(tmp_path, {"deploy": "helm", "monitoring": "none"})
    else:
        project = with_servers
    folder = project / "deploy/chart"
    schema = json.loads((folder / "values.schema.json").read_text())
    defaults = yaml.safe_load((folder / "values.yaml").read_text())
    described = dict(re.findall(r"^\| `([\w.]+)` \| (.+) \|$", (folder / "README.md").read_text(), re.MULTILINE))
    found: dict[str, str] = {}
    for name, one in schema["properties"].items():
        leaves = {f"{name}.{inner}": leaf for inner, leaf in one.get("properties", {}).items()} or {name: one}
        found |= {leaf: value["description"] for leaf, value in leaves.items() if name != "global"}

    assert described == found
    names = {leaf.partition(".")[0] for leaf in found}
    assert names == set(defaults)
    for leaf in found:
        name, _, inner = leaf.partition(".")
        assert not inner or inner in defaults[name], leaf
    assert ("podMonitor" in names) is (monitoring == "included")


HELM = """#!{python}
import json, sys
if sys.argv[1] == "template":
    sys.exit(print("kind: Deployment"))
with open("{log}", "a") as log:
    print(json.dumps([["helm", *sys.argv[1:]], ""]), file=log)
sys.exit({status})
"""


@pytest.fixture
def developer(project: Path, tmp_path: Path) -> Developer:
    return Developer(project, tmp_path)


def test_deploy_installs_the_release_with_the_pushed_digest(developer: Developer) -> None:
    developer.has("kubectl", KUBECTL)
    developer.has("helm", HELM, status=0)
    developer.has("docker", DOCKER)
    assert developer.make("push")[0] == 0

    status, said = developer.make("deploy", "OVERLAY=production")

    assert status == 0, said
    assert "Deploying order-service to namespace order-service of somewhere\n" in said
    called = recorded(developer.log)[-1][0]
    assert called[:3] == ["helm", "upgrade", "--install"]
    assert "--namespace=order-service" in called
    assert called[-1] == "--set-string=version=0.1.0"
    assert {f"--set-string=image.repository={IMAGE}", f"--set-string=image.digest={DIGEST}"} <= set(called)
    assert "--values=deploy/values-production.yaml" in called


def test_digest_diff_and_undeploy(developer: Developer) -> None:
    developer.has("kubectl", KUBECTL)
    developer.has("helm", HELM, status=0)

    for command in (["deploy", "VERSION=2.0"], ["deploy"], ["diff"], ["undeploy"]):
        status, said = developer.make(*command, "NAMESPACE=shared", f"DIGEST={DIGEST}", "IMAGE=registry.acme.test/a")
        assert status == 0, said

    (first, _), (second, _), (compared, manifests), (removed, _) = recorded(developer.log)
    assert "--set-string=version=2.0" in first
    assert "--set-string=version=unknown" in second
    assert "--set-string=image.repository=registry.acme.test/a" in second
    assert compared == ["--namespace=shared", "diff", "--filename=-"]
    assert manifests == "kind: Deployment\n"
    assert removed == ["helm", "uninstall", "order-service", "--namespace=shared", "--ignore-not-found"]


def test_objects_of_the_migration_are_deleted_too(with_servers: Path, tmp_path: Path) -> None:
    """Helm does not delete the objects of hooks."""
    developer = Developer(with_servers, tmp_path)
    developer.has("kubectl", KUBECTL)
    developer.has("helm", HELM, status=0)

    status, said = developer.make("undeploy", "OVERLAY=production")

    assert status == 0, said
    deleted = recorded(developer.log)[-1][0]
    assert deleted[:2] == ["delete", "jobs,serviceaccounts,networkpolicies"]
    assert "--selector=app.kubernetes.io/instance=order-service,app.kubernetes.io/component=migration" in deleted


def test_failed_upgrade_shows_the_pods(developer: Developer) -> None:
    developer.has("kubectl", KUBECTL)
    developer.has("helm", HELM, status=1)

    status, said = developer.make("deploy", f"DIGEST={DIGEST}")

    assert status != 0
    assert "error: helm upgrade failed; see its message, and the events and logs of the pods above\n" in said
    looked = [arguments[1:3] for arguments, _ in recorded(developer.log)[1:]]
    assert looked == [["get", "pods"], ["describe", "pods"], ["logs", "--tail=50"]]


@pytest.mark.parametrize(
    ("programs", "arguments", "error"),
    [
        ((), ["deploy"], "helm is not installed; see https://helm.sh/docs/intro/install/"),
        (("helm",), ["deploy"], "kubectl is not installed; see https://kubernetes.io/docs/tasks/tools/"),
        (("docker", "kind", "kubectl"), ["kind"], "helm is not installed; see https://helm.sh/docs/intro/install/"),
        (
            ("helm", "kubectl"),
            ["deploy", "OVERLAY=staging"],
            "deploy/values-staging.yaml does not exist; set OVERLAY to one of: dev, production",
        ),
        (
            ("helm", "kubectl"),
            ["deploy", "NAMESPACE="],
            "NAMESPACE is empty; set it to the namespace of the release, or remove it to use the default",
        ),
        (("helm", "kubectl"), ["deploy", "VERSION=7"], f"{IMAGE}:7 was not pushed from here; push it: make image push"),
        (
            ("helm", "kubectl"),
            ["deploy", "DIGEST=latest"],
            "DIGEST 'latest' is invalid; it must be sha256: and 64 hexadecimal digits",
        ),
    ],
)
def test_each_error_is_one_sentence(
    developer: Developer, programs: tuple[str, ...], arguments: list[str], error: str
) -> None:
    for name in programs:
        developer.has(name, {"kubectl": KUBECTL, "kind": KIND, "docker": DOCKER, "helm": HELM}[name], status=0)

    status, said = developer.make(*arguments)

    assert status != 0
    assert f"error: {error}" in said
    assert "Traceback" not in said
    assert recorded(developer.log) == []


def test_commands_of_the_chart_readme_are_accepted(project: Path) -> None:
    """The flags that the README gives are values of the chart."""
    text = (project / "deploy/chart/README.md").read_text()

    for name in re.findall(r"--set (\S+?)=", text):
        group, _, leaf = name.partition(".")
        assert leaf in yaml.safe_load((project / "deploy/chart/values.yaml").read_text())[group]
    assert run("make", "--no-print-directory", "image-name", cwd=project).stdout.strip() == IMAGE
