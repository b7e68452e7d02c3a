"""The Kubernetes manifests: accepted by schemas and by the strictest admission, and true to the code."""

import math
import re
import sys
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import jsonschema
import kubernetes_validate
import pytest
import yaml
from kubernetes_validate.utils import all_versions, major_minor
from packaging.version import Version

from bakery import OTHER, TEMPLATE, render, run
from chassis.postgres.embedded import temporary_server
from conftest import Bake, Start
from manifests import (
    CUSTOM,
    DIGEST,
    OVERLAYS,
    Manifests,
    add_components,
    add_image,
    facts_of,
    kustomize,
    megabytes,
    selecting,
)

# The three newest versions of Kubernetes that are known.
NEWEST = sorted({major_minor(one) for one in all_versions()}, key=Version)[-3:]
LONGEST = {"project_slug": "a" * 20 + "-" + "b" * 19}
CHECKOV = "checkov==3.3.30"
# Checks of checkov that are skipped, with reasons.
NOT_FOR_US = {
    "CKV_K8S_11": "no CPU limit: it holds up requests while the node is idle; see resources in deployment.yaml",
}


@pytest.fixture(scope="module")
def deploy(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Manifests]:
    """Each overlay, and each with all components."""
    built = {}
    for overlay in OVERLAYS:
        project = render(tmp_path_factory.mktemp(overlay), {})
        add_image(project, overlay)
        built[overlay] = Manifests(kustomize(project / "deploy/overlays" / overlay))
        add_components(project, overlay)
        built[f"{overlay}, all"] = Manifests(kustomize(project / "deploy/overlays" / overlay))
    return built


@pytest.fixture(scope="module")
def with_servers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Manifests]:
    """The overlays of a service with a database and events."""
    project = render(tmp_path_factory.mktemp("servers"), {"database": "postgres", "events": "nats", "auth": "jwt"})
    return {one: Manifests(kustomize(project / "deploy/overlays" / one)) for one in OVERLAYS}


@pytest.fixture(params=[*OVERLAYS, *(f"{one}, all" for one in OVERLAYS)])
def manifests(request: pytest.FixtureRequest, deploy: dict[str, Manifests]) -> Manifests:
    """One of them after the other."""
    return deploy[request.param]


@pytest.fixture(scope="module")
def production(deploy: dict[str, Manifests]) -> Manifests:
    """The manifests that most tests read."""
    return deploy["production, all"]


@pytest.fixture(scope="module")
def facts(installed: Path, python: Path) -> dict[str, Any]:
    """What the code says."""
    return facts_of(installed, python)


def test_overlays_hold_what_a_cluster_needs(deploy: dict[str, Manifests]) -> None:
    base = {
        "ConfigMap",
        "Deployment",
        "HorizontalPodAutoscaler",
        "Namespace",
        "NetworkPolicy",
        "PodDisruptionBudget",
        "Service",
        "ServiceAccount",
    }
    for overlay in OVERLAYS:
        kinds = [one["kind"] for one in deploy[overlay].all]
        assert sorted(kinds) == sorted(base)
        kinds = [one["kind"] for one in deploy[f"{overlay}, all"].all]
        assert sorted(kinds) == sorted(base | {"HTTPRoute", "Ingress", "PodMonitor", "PrometheusRule"})


@pytest.mark.parametrize("version", NEWEST)
def test_kubernetes_accepts_them(manifests: Manifests, version: str) -> None:
    accepted = [one for one in manifests.all if one["kind"] not in CUSTOM]
    for one in accepted:
        assert kubernetes_validate.validate(one, version, strict=True) == version

    assert len(accepted) >= 8


@pytest.mark.parametrize("kind", sorted(CUSTOM))
def test_custom_resources_have_the_published_shape(production: Manifests, kind: str) -> None:
    one = production[kind]

    assert one["apiVersion"] == CUSTOM[kind]["apiVersion"]
    assert set(one) == {"apiVersion", "kind", "metadata", "spec"}
    jsonschema.Draft202012Validator(CUSTOM[kind]["spec"]).validate(one["spec"])


@pytest.mark.parametrize("answers", [OTHER, LONGEST], ids=["others", "longest"])
def test_other_values_give_names_that_are_valid_in_kubernetes(bake: Bake, answers: dict[str, str]) -> None:
    project = bake(**answers)
    for overlay in OVERLAYS:
        add_components(project, overlay)
        manifests = Manifests(kustomize(project / "deploy/overlays" / overlay))
        names = {one["metadata"]["name"] for one in manifests.all} | {manifests.container["name"]}
        values = {value for one in manifests.all for value in one["metadata"].get("labels", {}).values()}
        assert [name for name in names if not re.fullmatch("[a-z]([a-z0-9-]{0,61}[a-z0-9])?", name)] == []
        assert [value for value in values if not re.fullmatch("[A-Za-z0-9]([\\w.-]{0,61}[A-Za-z0-9])?", value)] == []
        for one in manifests.all:
            if one["kind"] not in CUSTOM:
                kubernetes_validate.validate(one, NEWEST[-1], strict=True)


def test_pods_meet_the_restricted_standard(manifests: Manifests) -> None:
    """https://kubernetes.io/docs/concepts/security/pod-security-standards/, field by field."""
    pod, container = manifests.pod, manifests.container
    security = {**pod["securityContext"], **container["securityContext"]}

    # Baseline
    assert [pod.get(field) for field in ("hostNetwork", "hostPID", "hostIPC", "hostUsers")] == [None] * 4
    assert "privileged" not in security
    assert security["capabilities"].get("add", []) == []
    assert [port.get("hostPort") for port in container["ports"]] == [None, None]
    assert [
        name for name in ("seLinuxOptions", "procMount", "appArmorProfile", "windowsOptions") if name in security
    ] == []
    assert "sysctls" not in security
    assert [probe for name, probe in container.items() if name.endswith("Probe") and "host" in probe["httpGet"]] == []
    assert "lifecycle" not in container
    # Restricted
    allowed = {
        "configMap",
        "csi",
        "downwardAPI",
        "emptyDir",
        "ephemeral",
        "persistentVolumeClaim",
        "projected",
        "secret",
    }
    assert {kind for volume in pod["volumes"] for kind in volume if kind != "name"} <= allowed
    assert security["allowPrivilegeEscalation"] is False
    assert security["runAsNonRoot"] is True
    assert security["runAsUser"] > 0
    assert security["seccompProfile"] == {"type": "RuntimeDefault"}
    assert security["capabilities"]["drop"] == ["ALL"]
    assert [kind for kind in ("initContainers", "ephemeralContainers") if kind in pod] == []
    # And beyond it
    assert security["readOnlyRootFilesystem"] is True
    labels = manifests["Namespace"]["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"


def test_checkov_has_nothing_else_to_say(production: Manifests, tmp_path: Path) -> None:
    (tmp_path / "all.yaml").write_text(production.text)
    skipped = f"--skip-check={','.join(NOT_FOR_US)}"
    checked = run(
        *("uv", "tool", "run", "--python", ">=3.9,<3.14", CHECKOV, "--framework=kubernetes", "--skip-download"),
        *("--quiet", "--compact", skipped, "--file=all.yaml"),
        cwd=tmp_path,
        LOG_LEVEL="CRITICAL",
        PYTHONPYCACHEPREFIX="",  # its bytecode stays with it in uv's cache; compiling takes twice as long as the check
    )

    assert checked.returncode == 0, checked.stdout
    assert re.search("Passed checks: \\d{2,}, Failed checks: 0", checked.stdout)


def test_user_is_the_one_of_the_image(production: Manifests, installed: Path) -> None:
    user = re.search(r"^USER (\d+):(\d+)$", (installed / "Dockerfile").read_text(), re.MULTILINE)
    security = production.pod["securityContext"]

    assert user
    assert (security["runAsUser"], security["runAsGroup"]) == (int(user[1]), int(user[2]))


def test_service_account_is_its_own_and_has_no_token(production: Manifests) -> None:
    assert production["ServiceAccount"]["automountServiceAccountToken"] is False
    assert production.pod["automountServiceAccountToken"] is False
    assert production.pod["serviceAccountName"] == production["ServiceAccount"]["metadata"]["name"] != "default"
    assert production.pod["enableServiceLinks"] is False


def test_settings_are_settings_of_the_service(manifests: Manifests, facts: dict[str, Any]) -> None:
    ours = {name for name in manifests.settings if name.startswith("APP_")}
    extra = {one["name"] for one in manifests.container["env"]}

    assert ours
    assert ours <= set(facts["defaults"])
    assert {name for name in manifests.settings if name not in ours} | extra <= {
        "OTEL_EXPORTER_OTLP_ENDPOINT",
        "NODE_NAME",
        "POD_NAME",
        "POD_NAMESPACE",
        "APP_SECRETS_DIR",
    }


def test_ports_are_those_of_the_settings(manifests: Manifests) -> None:
    ports = manifests.ports
    (service,) = manifests["Service"]["spec"]["ports"]

    assert ports == {
        "http": int(manifests.settings["APP_PORT"]),
        "admin": int(manifests.settings["APP_ADMIN_PORT"]),
    }
    assert service["targetPort"] == "http"
    assert "type" not in manifests["Service"]["spec"]


def test_service_starts_with_these_settings_and_responds_to_the_probes(
    deploy: dict[str, Manifests], start: Start, installed: Path, tmp_path: Path
) -> None:
    for overlay in OVERLAYS:
        manifests = deploy[overlay]
        given = {one["name"]: one.get("value", "one") for one in manifests.container["env"]}
        free = {"APP_PORT": "0", "APP_ADMIN_PORT": "0", "APP_DRAIN_SECONDS": "0", "APP_SECRETS_DIR": str(tmp_path)}
        service = start(installed, **{**manifests.settings, **given, **free}).ready()
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            asked = manifests.container[probe]["httpGet"]
            assert asked["port"] == "admin"
            assert service.admin.get(asked["path"]).status_code == 200
            assert service.http.get(asked["path"]).status_code == 404
        assert [*service.errors] == []


def test_probes_ask_the_right_questions_in_time(production: Manifests, facts: dict[str, Any]) -> None:
    startup, liveness, readiness = (production.container[f"{one}Probe"] for one in ("startup", "liveness", "readiness"))

    assert startup["httpGet"]["path"] == liveness["httpGet"]["path"] == "/healthz"
    assert readiness["httpGet"]["path"] == "/readyz"
    # A check may fail by itself before the kubelet's timeout.
    assert readiness["timeoutSeconds"] > facts["check_seconds"]
    assert readiness["periodSeconds"] >= facts["defaults"]["APP_READINESS_CACHE_SECONDS"]
    # A pod that fails is removed from the endpoints long before a pod that hangs is killed.
    assert readiness["periodSeconds"] * readiness["failureThreshold"] < (
        liveness["periodSeconds"] * liveness["failureThreshold"]
    )


def test_grace_period_is_longer_than_the_longest_shutdown(manifests: Manifests, facts: dict[str, Any]) -> None:
    given = {**facts["defaults"], **manifests.settings}
    longest = float(given["APP_DRAIN_SECONDS"]) + float(given["APP_SHUTDOWN_SECONDS"]) + facts["end_seconds"]

    assert manifests.pod["terminationGracePeriodSeconds"] >= longest + 5


def test_drain_lasts_until_a_failed_readiness_is_known(production: Manifests) -> None:
    readiness = production.container["readinessProbe"]

    assert float(production.settings["APP_DRAIN_SECONDS"]) >= readiness["periodSeconds"] * readiness["failureThreshold"]


def test_update_takes_no_pod_away_before_another_is_ready(production: Manifests) -> None:
    spec = production["Deployment"]["spec"]

    assert spec["strategy"]["rollingUpdate"]["maxUnavailable"] == 0
    assert "replicas" not in spec
    assert production["HorizontalPodAutoscaler"]["spec"]["minReplicas"] >= 2
    assert production["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"] == {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "name": production["Deployment"]["metadata"]["name"],
    }


def test_selectors_select_the_pods_of_the_service_alone(manifests: Manifests) -> None:
    spec = manifests["Deployment"]["spec"]
    instance = manifests["Deployment"]["metadata"]["labels"]["app.kubernetes.io/instance"]
    server = {"app.kubernetes.io/name": "order-service", "app.kubernetes.io/component": "server"}
    name = {**server, "app.kubernetes.io/instance": instance}
    selectors = [
        spec["selector"]["matchLabels"],
        manifests["Service"]["spec"]["selector"],
        manifests["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
        manifests["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"],
    ]
    spread = [one["labelSelector"]["matchLabels"] for one in manifests.pod["topologySpreadConstraints"]]
    monitored = [one["spec"]["selector"]["matchLabels"] for one in manifests.all if one["kind"] == "PodMonitor"]

    assert selectors == [name] * len(selectors)
    assert spread == [server] * 2
    assert monitored in ([], [name])
    assert name.items() <= spec["template"]["metadata"]["labels"].items()


def only(manifests: Manifests, kind: str, name: str) -> Any:
    (found,) = (one for one in manifests.all if (one["kind"], one["metadata"]["name"]) == (kind, name))
    return found


def pod_of(workload: Any) -> Any:
    return workload["spec"]["template"]["spec"]


def test_kubernetes_accepts_the_migration_and_the_servers_of_development(with_servers: dict[str, Manifests]) -> None:
    for manifests in with_servers.values():
        for one in manifests.all:
            assert kubernetes_validate.validate(one, NEWEST[-1], strict=True) == NEWEST[-1]

    names = {one: sorted(each["metadata"]["name"] for each in with_servers[one].all) for one in OVERLAYS}
    assert [name for name in names["production"] if name.endswith(("-postgres", "-nats"))] == ["order-service-to-nats"]
    assert [name for name in names["dev"] if name.endswith("-postgres")] == ["order-service-postgres"] * 3


def test_nothing_but_its_network_policy_selects_the_pods_of_the_migration(with_servers: dict[str, Manifests]) -> None:
    """With the labels that kustomize adds to all pods."""
    for manifests in with_servers.values():
        (job,) = (one for one in manifests.all if one["kind"] == "Job")
        labels = job["spec"]["template"]["metadata"]["labels"]
        assert "app.kubernetes.io/instance" in labels
        assert selecting(manifests.all, labels) == ["NetworkPolicy order-service-to-database"]
        server = only(manifests, "Deployment", "order-service")["spec"]["template"]["metadata"]["labels"]
        assert len(selecting(manifests.all, server)) == 7
        assert "NetworkPolicy order-service-to-login" in selecting(manifests.all, server)


def test_migration_runs_as_the_service_does(with_servers: dict[str, Manifests]) -> None:
    for manifests in with_servers.values():
        job = only(manifests, "Job", "order-service-migration")
        pod, servers = pod_of(job), pod_of(only(manifests, "Deployment", "order-service"))
        (container,), (server,) = pod["containers"], servers["containers"]
        for field in ("serviceAccountName", "automountServiceAccountToken", "enableServiceLinks", "securityContext"):
            assert pod[field] == servers[field], field
        assert pod["volumes"] == servers["volumes"]
        for field in ("image", "envFrom", "resources", "securityContext", "volumeMounts"):
            assert container[field] == server[field], field
        assert container["env"] == server["env"][:1]
        assert container["command"] == ["python", "-m", "chassis.migrations", "order_service", "upgrade"]
        assert pod["restartPolicy"] == "Never"


def test_connections_of_all_pods_fit_a_server_with_its_defaults(with_servers: dict[str, Manifests]) -> None:
    """The formula of chassis/docs/database.md, with 10 connections for others."""
    manifests = with_servers["production"]
    surge = only(manifests, "Deployment", "order-service")["spec"]["strategy"]["rollingUpdate"]["maxSurge"]
    pods = manifests["HorizontalPodAutoscaler"]["spec"]["maxReplicas"]
    pods += math.ceil(pods * int(surge.removesuffix("%")) / 100)

    assert pods == 13
    assert pods * (int(manifests.settings["APP_DATABASE_POOL_MAX"]) + 1) <= 100 - 3 - 10


def test_command_of_the_migration_migrates_a_database_and_can_be_repeated(tmp_path: Path) -> None:
    """With the settings of the overlay, and the password as a file of the Secret."""
    project = render(tmp_path, {"database": "sqlalchemy"})
    manifests = Manifests(kustomize(project / "deploy/overlays/dev"))
    job = only(manifests, "Job", "order-service-migration")
    (container,) = pod_of(job)["containers"]
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    given = {**manifests.settings, "APP_SECRETS_DIR": str(secrets), "PYTHONPATH": "src", "PYTHONWARNINGS": "ignore"}

    def migrate(**changes: str) -> tuple[int, str]:
        command = [sys.executable, *container["command"][1:]]
        done = run(*command, cwd=project, **{**given, **changes})
        return done.returncode, done.stdout

    with temporary_server() as server:
        url = urlsplit(server.url)
        (secrets / "app_database_password").write_text(url.password or "")
        address = server.url.replace(f":{url.password}@", "@")
        first, second = migrate(APP_DATABASE_URL=address), migrate(APP_DATABASE_URL=address)

    assert (
        container["resources"] == pod_of(only(manifests, "Deployment", "order-service"))["containers"][0]["resources"]
    )
    assert url.password
    assert first[0] == second[0] == 0, first[1] + second[1]
    assert '"event":"migration applied"' in first[1]
    assert '"event":"the database is up to date"' in second[1]
    # Another attempt does not help against a wrong setting.
    status, said = migrate(APP_DATABASE_URL="mysql://db")
    (rule,) = job["spec"]["podFailurePolicy"]["rules"]
    assert rule["action"] == "FailJob"
    assert [status] == rule["onExitCodes"]["values"]
    assert "APP_DATABASE_URL" in said


def test_servers_of_development_meet_the_restricted_standard(with_servers: dict[str, Manifests]) -> None:
    for name in ("postgres", "nats"):
        pod = pod_of(only(with_servers["dev"], "Deployment", f"order-service-{name}"))
        (container,) = pod["containers"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["automountServiceAccountToken"] is False
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert re.fullmatch(r"docker\.io/library/\w+:[\w.-]+@sha256:[0-9a-f]{64}", container["image"])


def test_settings_name_the_servers_of_development(with_servers: dict[str, Manifests]) -> None:
    settings = with_servers["dev"].settings
    services = {one["metadata"]["name"]: one["spec"]["ports"][0]["port"] for one in with_servers["dev"].all
                if one["kind"] == "Service"}  # fmt: skip

    assert settings["APP_DATABASE_URL"] == "postgresql://order_service@order-service-postgres/order_service"
    assert settings["APP_NATS_URL"] == "nats://order-service-nats:4222"
    assert services == {"order-service": 80, "order-service-postgres": 5432, "order-service-nats": 4222}
    assert not {"APP_DATABASE_URL", "APP_NATS_URL"} & set(with_servers["production"].settings)


@pytest.mark.parametrize(("server", "port", "clients"), [("postgres", 5432, {"server", "migration"}),
                                                         ("nats", 4222, {"server"})])  # fmt: skip
def test_servers_of_development_are_reached_by_the_service_alone(
    with_servers: dict[str, Manifests], server: str, port: int, clients: set[str]
) -> None:
    policies = [one for one in with_servers["dev"].all if one["kind"] == "NetworkPolicy"]
    own = only(with_servers["dev"], "NetworkPolicy", f"order-service-{server}")["spec"]
    labels = {"app.kubernetes.io/name": "order-service", "app.kubernetes.io/instance": "order-service-dev"}
    allowed, reaching = set(), set()
    for component in ("server", "migration", "postgres", "nats"):
        pod = {**labels, "app.kubernetes.io/component": component}
        (rule,) = own["ingress"]
        if selecting([{"kind": "", "metadata": {"name": ""}, "spec": one} for one in rule["from"]], pod):
            allowed.add(component)
        for policy in policies:
            targets = [each for one in policy["spec"].get("egress", []) if {"port": port, "protocol": "TCP"} in
                       one["ports"] for each in one["to"] if "podSelector" in each]  # fmt: skip
            if targets and selecting([policy], pod):
                reaching.add(component)

    assert allowed == reaching == clients
    assert "egress" not in own
    assert own["policyTypes"] == ["Ingress", "Egress"]


def test_production_reaches_the_database_and_nats_in_namespaces_of_their_own(
    with_servers: dict[str, Manifests],
) -> None:
    out = {}
    for name in ("order-service", "order-service-to-database", "order-service-to-nats"):
        egress = only(with_servers["production"], "NetworkPolicy", name)["spec"]["egress"]
        out[name] = {port["port"]: rule["to"] for rule in egress for port in rule["ports"]}

    def namespace(name: str) -> list[dict[str, Any]]:
        return [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": name}}}]

    assert set(out["order-service"]) == {53, 5353, 4318}
    assert set(out["order-service-to-database"]) == {53, 5353, 5432}
    assert out["order-service-to-database"][5432] == namespace("databases")
    assert out["order-service-to-nats"] == {4222: namespace("nats")}


def test_argo_cd_migrates_before_it_changes_the_pods(with_servers: dict[str, Manifests]) -> None:
    """https://argo-cd.readthedocs.io/en/stable/user-guide/sync-waves/: each wave waits for the last one."""
    argo = "argocd.argoproj.io/"
    notes = {one["kind"] + " " + one["metadata"]["name"]: one["metadata"].get("annotations", {})
             for one in with_servers["production"].all}  # fmt: skip
    waves = {name: int(given.get(f"{argo}sync-wave", "0")) for name, given in notes.items()}
    later = {name for name, wave in waves.items() if wave > waves["Job order-service-migration"]}

    # The autoscaler is not healthy without the Deployment.
    assert later == {"Deployment order-service", "HorizontalPodAutoscaler order-service"}
    assert notes["Job order-service-migration"][f"{argo}hook"] == "Sync"
    assert notes["Job order-service-migration"][f"{argo}hook-delete-policy"] == "BeforeHookCreation"


# Another workload of the service in the same overlay, as deploy/README.md describes.
WORKER = """
apiVersion: apps/v1
kind: Deployment
metadata:
  name: worker
  labels: {app.kubernetes.io/component: worker}
spec:
  selector: {matchLabels: {app.kubernetes.io/name: order-service, app.kubernetes.io/component: worker}}
  template:
    metadata: {labels: {app.kubernetes.io/name: order-service, app.kubernetes.io/component: worker}}
    spec: {containers: [{name: worker, image: order-service}]}
"""


def test_second_workload_and_second_instance_are_selected_by_nobody_else(bake: Bake) -> None:
    project = bake()
    overlay = project / "deploy/overlays/production"
    (overlay / "worker.yaml").write_text(WORKER)
    path = overlay / "kustomization.yaml"
    text = path.read_text().replace("resources: [../../base]", "namePrefix: eu-\nresources: [../../base, worker.yaml]")
    text = text.replace("#  - ../../components/http-route", "  - ../../components/http-route")
    path.write_text(text.replace("instance: order-service", "instance: eu"))
    rendered = [one for one in yaml.safe_load_all(kustomize(overlay)) if one["kind"] != "Namespace"]
    pods = {
        one["metadata"]["name"]: one["spec"]["template"]["metadata"]["labels"]
        for one in rendered
        if one["kind"] == "Deployment"
    }
    selects = {
        one["kind"]: one["spec"].get("selector", one["spec"].get("podSelector"))
        for one in rendered
        if one["kind"] in {"Service", "PodDisruptionBudget", "NetworkPolicy"}
    }

    assert set(pods) == {"eu-order-service", "eu-worker"}
    assert pods["eu-worker"]["app.kubernetes.io/component"] == "worker"
    assert len(selects) == 3
    for selector in selects.values():
        labels = selector.get("matchLabels", selector)
        assert labels["app.kubernetes.io/instance"] == "eu"
        assert [name for name, has in pods.items() if labels.items() <= has.items()] == ["eu-order-service"]
    (scaled,) = (one["spec"]["scaleTargetRef"]["name"] for one in rendered if one["kind"] == "HorizontalPodAutoscaler")
    assert scaled == "eu-order-service"
    (route,) = (one["spec"]["rules"][0]["backendRefs"] for one in rendered if one["kind"] == "HTTPRoute")
    assert [one["name"] for one in route] == ["eu-order-service"]


@pytest.mark.parametrize("answers", [{}, {"database": "postgres"}], ids=["alone", "with a database"])
def test_openshift_chooses_user_and_group(bake: Bake, answers: dict[str, str]) -> None:
    project = bake(**answers)
    path = project / "deploy/overlays/production/kustomization.yaml"
    path.write_text(path.read_text().replace("#  - ../../components/openshift", "  - ../../components/openshift"))
    manifests = Manifests(kustomize(path.parent))
    security = [pod_of(one)["securityContext"] for one in manifests.all if one["kind"] in {"Deployment", "Job"}]

    chosen = {
        "runAsNonRoot": True,
        "fsGroupChangePolicy": "OnRootMismatch",
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    assert security == [chosen] * (2 if answers else 1)


def test_labels_are_the_recommended_ones(production: Manifests) -> None:
    labels = production["Deployment"]["spec"]["template"]["metadata"]["labels"]

    # `make deploy` adds the version.
    assert labels == {
        "app.kubernetes.io/name": "order-service",
        "app.kubernetes.io/instance": "order-service",
        "app.kubernetes.io/component": "server",
        "app.kubernetes.io/managed-by": "kustomize",
    }


def test_network_policy_lets_in_and_out_what_it_should(production: Manifests) -> None:
    spec = production["NetworkPolicy"]["spec"]
    endpoint = re.fullmatch(r"http://[\w-]+\.([\w-]+):(\d+)", production.settings["OTEL_EXPORTER_OTLP_ENDPOINT"])
    (monitor,) = production["PodMonitor"]["spec"]["podMetricsEndpoints"]
    ports_in = [[port["port"] for port in rule["ports"]] for rule in spec["ingress"]]
    out = {port["port"]: rule["to"] for rule in spec["egress"] for port in rule["ports"]}
    gateways = spec["ingress"][0]["from"][0]["namespaceSelector"]["matchExpressions"][0]["values"]

    assert spec["policyTypes"] == ["Ingress", "Egress"]
    # Numbers: some network plugins reject a policy with names.
    assert ports_in == [[production.ports["http"]], [production.ports[monitor["port"]]]]
    assert monitor["port"] == "admin"
    assert all(rule["from"] for rule in spec["ingress"])
    assert endpoint
    assert set(out) == {53, 5353, int(endpoint[2])}
    assert {"ipBlock": {"cidr": "169.254.20.10/32"}} in out[53]
    assert out[int(endpoint[2])][0]["namespaceSelector"]["matchLabels"] == {"kubernetes.io/metadata.name": endpoint[1]}
    assert production["HTTPRoute"]["spec"]["parentRefs"][0]["namespace"] in gateways
    assert production["Ingress"]["spec"]["ingressClassName"] in gateways


def test_changed_setting_is_a_new_config_map_and_so_a_rollout(bake: Bake) -> None:
    project = bake()
    before = Manifests(kustomize(project / "deploy/overlays/production"))
    settings = project / "deploy/base/settings.env"
    settings.write_text(settings.read_text() + "APP_LOG_LEVEL=WARNING\n")
    after = Manifests(kustomize(project / "deploy/overlays/production"))

    names = [one["ConfigMap"]["metadata"]["name"] for one in (before, after)]
    used = [one.container["envFrom"] for one in (before, after)]
    assert names[0] != names[1]
    assert used == [[{"configMapRef": {"name": name}}] for name in names]


def test_secrets_are_by_reference_and_where_the_service_looks(manifests: Manifests) -> None:
    (secret,) = (one for one in manifests.pod["volumes"] if "secret" in one)
    (mount,) = (one for one in manifests.container["volumeMounts"] if one["name"] == secret["name"])

    assert "Secret" not in {one["kind"] for one in manifests.all}
    (folder,) = (one["value"] for one in manifests.container["env"] if one["name"] == "APP_SECRETS_DIR")
    assert mount == {"name": secret["name"], "mountPath": folder, "readOnly": True}
    # A token of Kubernetes, EKS or Azure is mounted below it, which a read-only volume does not allow.
    assert not re.match("(/var)?/run(/|$)", folder)
    assert secret["secret"]["optional"] is True
    assert secret["secret"]["defaultMode"] == 0o440
    assert not re.search("(?i)password|token|secret|key", " ".join(manifests.settings))


def test_nothing_but_tmp_can_be_written(manifests: Manifests) -> None:
    writable = [one["mountPath"] for one in manifests.container["volumeMounts"] if not one.get("readOnly")]
    (empty,) = (one["emptyDir"] for one in manifests.pod["volumes"] if "emptyDir" in one)

    assert writable == ["/tmp"]  # noqa: S108
    assert empty["sizeLimit"]


def test_name_of_the_image_stands_in_one_place(bake: Bake) -> None:
    project = bake(registry="registry.acme.test:5000/team")
    found = [
        str(path.relative_to(project))
        for path in project.rglob("*")
        if path.is_file() and "registry.acme.test" in path.read_text(errors="replace")
    ]
    said = run("make", "--no-print-directory", "image-name", cwd=project)

    assert sorted(found) == [".cruft.json", "Makefile"]
    assert said.stdout == "registry.acme.test:5000/team/order-service\n"
    for overlay in OVERLAYS:
        assert Manifests(kustomize(project / "deploy/overlays" / overlay)).container["image"] == "order-service"
        add_image(project, overlay)
        image = Manifests(kustomize(project / "deploy/overlays" / overlay)).container["image"]
        assert image == f"ghcr.io/acme/order-service@{DIGEST}"


def test_gitlab_has_a_registry_of_its_own(bake: Bake) -> None:
    said = run("make", "--no-print-directory", "image-name", cwd=bake(ci="gitlab", owner="Some-One"))

    assert said.stdout == "registry.gitlab.com/some-one/order-service\n"


def test_proxies_in_the_cluster_are_trusted(deploy: dict[str, Manifests]) -> None:
    """Otherwise, redirects have the scheme http, and the client is the proxy."""
    for overlay in OVERLAYS:
        assert "APP_TRUSTED_PROXIES" not in deploy[overlay].settings
        trusted = deploy[f"{overlay}, all"].settings["APP_TRUSTED_PROXIES"].split(",")
        assert any(ip_address("10.1.2.3") in ip_network(one) for one in trusted)
        assert not any(one.is_global for one in map(ip_network, trusted))


def test_memory_is_what_was_measured_and_cpu_has_no_limit(production: Manifests) -> None:
    results = (TEMPLATE / "benchmarks/results/RESULTS.md").read_text()
    measured = [float(one) for one in re.findall(r"^\| ours, observed \| [\d,]+ \| ([\d.]+) MB", results, re.MULTILINE)]
    requests, limits = production.container["resources"]["requests"], production.container["resources"]["limits"]

    assert len(measured) >= 5
    assert max(measured) * 1.25 < megabytes(requests["memory"]) < max(measured) * 2
    assert megabytes(limits["memory"]) > 2 * megabytes(requests["memory"])
    assert set(limits) == {"memory"}
    assert "cpu" in requests


def test_route_does_not_end_streams(production: Manifests) -> None:
    (rule,) = production["HTTPRoute"]["spec"]["rules"]

    # https://gateway-api.sigs.k8s.io/geps/gep-2257/: a zero disables the timeout.
    assert rule["timeouts"] == {"request": "0s"}
    assert rule["backendRefs"] == [{"name": "order-service", "port": production["Service"]["spec"]["ports"][0]["port"]}]
