"""The local observability stack: its files are valid, match the service, and query metrics that exist."""

import json
import re
import runpy
from collections.abc import Iterator
from copy import deepcopy
from functools import reduce
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard as SchemaOfDashboard

from bakery import OTHER, SOURCE, TEMPLATE, render, run
from client_metrics import client_metrics
from collector import Collector
from conftest import Bake, Start
from prometheus import data, eventually, scraping
from running import Service, needs, running

JOB = "order-service"
Board = dict[str, Any]


@pytest.fixture
def monitoring(installed: Path) -> Path:
    return installed / "monitoring"


@pytest.fixture
def compose(monitoring: Path) -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((monitoring / "compose.yaml").read_text())
    return document


def test_compose_file_is_valid(monitoring: Path) -> None:
    check = ("uv", "tool", "run", "--quiet", "check-jsonschema>=0.34", "--builtin-schema", "vendor.compose-spec")
    checked = run(*check, monitoring / "compose.yaml", cwd=monitoring)

    assert checked.returncode == 0, checked.stdout


def test_ports_are_those_of_the_readme_and_open_to_this_machine_alone(
    monitoring: Path, installed: Path, compose: dict[str, Any]
) -> None:
    published = {name: one.get("ports", []) for name, one in compose["services"].items()}
    told = set(re.findall(r"<http://(127\.0\.0\.1:\d+)", (monitoring / "README.md").read_text()))
    text = (monitoring / "monitoring.mk").read_text()

    assert all(port.startswith("127.0.0.1:") for ports in published.values() for port in ports)
    assert told == {ports[0].rpartition(":")[0] for ports in published.values()}
    assert set(re.findall(r"http://(127\.0\.0\.1:\d+)", text)) == told
    assert "<http://127.0.0.1:8000>" in (installed / "README.md").read_text()
    assert published["service"] == ["127.0.0.1:8000:8000", "127.0.0.1:9000:9000"]


def test_images_have_versions_and_files_are_there(monitoring: Path, compose: dict[str, Any]) -> None:
    services = compose["services"]
    images = [one["image"] for name, one in services.items() if name != "service"]
    files = [volume.partition(":")[0] for one in services.values() for volume in one.get("volumes", [])]

    assert len(images) == 3
    assert all(re.fullmatch(r"docker\.io/[\w/]+:v?\d+\.\d+\.\d+", image) for image in images)
    assert files
    assert all((monitoring / path).is_file() for path in files)
    assert (monitoring / services["service"]["build"]["context"] / "Dockerfile").is_file()


@pytest.fixture(scope="module")
def with_servers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A service with a database and events."""
    return render(tmp_path_factory.mktemp("servers"), {"database": "postgres", "events": "nats"})


def test_servers_of_compose_are_those_of_the_cluster_and_open_to_this_machine_alone(with_servers: Path) -> None:
    own = yaml.safe_load((with_servers / "compose.yaml").read_text())["services"]

    assert {name: one["ports"] for name, one in own.items()} == {
        "postgres": ["127.0.0.1:5432:5432"],
        "nats": ["127.0.0.1:4222:4222"],
    }
    for name, one in own.items():
        manifest = (with_servers / f"deploy/components/{name}/{name}.yaml").read_text()
        assert f"image: {one['image']}@sha256:" in manifest
        assert "healthcheck" in one


def test_local_stack_has_the_servers_and_migrates_first(with_servers: Path) -> None:
    stack = yaml.safe_load((with_servers / "monitoring/compose.yaml").read_text())
    services = stack["services"]
    check = ("uv", "tool", "run", "--quiet", "check-jsonschema>=0.34", "--builtin-schema", "vendor.compose-spec")
    checked = run(*check, "compose.yaml", "monitoring/compose.yaml", cwd=with_servers)

    assert checked.returncode == 0, checked.stdout
    assert stack["include"] == ["../compose.yaml"]
    assert services["service"]["depends_on"] == {
        "migration": {"condition": "service_completed_successfully"},
        "nats": {"condition": "service_healthy"},
    }
    url = services["service"]["environment"]["APP_DATABASE_URL"]
    assert url == services["migration"]["environment"]["APP_DATABASE_URL"]
    assert url == "postgresql://order_service@postgres/order_service"
    assert services["migration"]["image"] == services["service"]["image"]


def test_make_services_starts_the_servers_and_says_how_to_use_them(with_servers: Path) -> None:
    said = run("make", "--no-print-directory", "services", "ENGINE=echo docker", cwd=with_servers).stdout.splitlines()

    assert said[0] == "docker compose up --detach --wait"
    assert said[2:] == [
        "APP_DATABASE_URL=postgresql://order_service@127.0.0.1:5432/order_service",
        "APP_NATS_URL=nats://127.0.0.1:4222",
    ]


def test_service_starts_with_the_settings_of_the_local_stack(
    installed: Path, start: Start, compose: dict[str, Any]
) -> None:
    settings = compose["services"]["service"]["environment"]
    health = compose["services"]["service"]["healthcheck"]["test"]
    service = start(installed, **{**settings, "APP_ADMIN_PORT": "0"}).ready()

    asked = [part.replace(":9000/", f":{service.admin.base_url.port}/") for part in health[1:]]
    assert run(*asked, cwd=installed).returncode == 0
    service.end()
    assert run(*asked, cwd=installed).returncode != 0


@pytest.fixture(scope="module")
def prometheus(installed: Path, python: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """Prometheus with the configuration of the local stack, but another address and a shorter interval."""
    needs("prometheus")
    folder = tmp_path_factory.mktemp("prometheus")
    config = (installed / "monitoring/prometheus.yaml").read_text()
    assert "service:9000" in config
    with Collector() as collector:
        settings = {"APP_ADMIN_PORT": "0", "OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint}
        with running(python, installed, folder, **settings) as service:
            port = service.ready().admin.base_url.port
            with scraping(config.replace("service:9000", f"127.0.0.1:{port}").replace("5s", "1s"), folder) as client:
                eventually(lambda: (data(client, "/query", query=f'up{{job="{JOB}"}} == 1') or {}).get("result"))
                use(service)
                yield client


def use(service: Service) -> None:
    for path in ("/orders", "/orders/1", "/nowhere"):
        service.http.get(path)


def test_configuration_is_accepted(monitoring: Path) -> None:
    needs("promtool")
    checked = run("promtool", "check", "config", monitoring / "prometheus.yaml", cwd=monitoring)

    assert checked.returncode == 0, checked.stdout


@pytest.fixture
def board(monitoring: Path) -> Board:
    """The dashboard of the default service."""
    document: Board = json.loads((monitoring / "grafana/service.json").read_text())
    return document


def queries_of(board: Board) -> list[str]:
    """Its queries, as Grafana sends them with the default choices."""
    targets = [target["expr"] for panel in board["panels"] for target in panel.get("targets", [])]
    choices = {"$__rate_interval": "1m", "$job": JOB, "$namespace": ".*"}
    return [reduce(lambda query, name: query.replace(name, choices[name]), choices, target) for target in targets]


def test_dashboard_is_the_one_of_its_generator() -> None:
    generated = runpy.run_path(str(TEMPLATE / "scripts/dashboard.py"))["generate"]()

    assert (SOURCE / "monitoring/grafana/service.json").read_text(encoding="utf-8") == generated, "run `make dashboard`"


def test_dashboard_has_fields_of_grafanas_schema_only(board: Board) -> None:
    register_default_plugins()  # the kinds of panels and queries
    read = SchemaOfDashboard.from_json(deepcopy(board))

    # Fields that the schema does not have are lost.
    assert json.loads(json.dumps(read, cls=JSONEncoder)) == board


def test_dashboard_has_a_title_and_a_uid_of_its_own(bake: Bake) -> None:
    project = bake(**OTHER)
    board = json.loads((project / "monitoring/grafana/service.json").read_text())

    assert (board["title"], board["uid"]) == (OTHER["project_name"], OTHER["project_slug"])
    assert len(board["uid"]) <= 40
    assert "id" not in board


def test_dashboard_has_a_row_for_each_subject(board: Board) -> None:
    rows = [panel["title"] for panel in board["panels"] if panel["type"] == "row"]

    subjects = [
        "Traffic",
        "Errors",
        "Latency",
        "Saturation",
        "Event loop",
        "Shedding",
        "Dependencies",
        "Background work",
    ]
    assert rows == ["Overview", *subjects]


def test_dashboard_can_be_used_with_any_data_source_and_namespace(board: Board) -> None:
    variables = {one["name"]: one for one in board["templating"]["list"]}
    chosen = {"type": "prometheus", "uid": "${datasource}"}
    graphs = [panel for panel in board["panels"] if panel["type"] != "row"]

    assert (variables["datasource"]["type"], variables["datasource"]["query"]) == ("datasource", "prometheus")
    assert [variables[name]["datasource"] for name in ("namespace", "job")] == [chosen] * 2
    # Matches also series without the label, as in the local stack.
    assert (variables["namespace"]["includeAll"], variables["namespace"]["allValue"]) == (True, ".*")
    used = [part["datasource"] for panel in graphs for part in (panel, *panel["targets"])]
    assert used == [chosen] * len(used)
    selected = [re.findall(r"\{(?!\{)(.*?)\}", target["expr"]) for panel in graphs for target in panel["targets"]]
    assert all(one.startswith('job="$job",namespace=~"$namespace"') for found in selected for one in found)


def test_every_query_of_the_dashboard_has_a_result(board: Board, prometheus: httpx.Client) -> None:
    queries = queries_of(board)
    # No request has failed, there is no limit, no call of another service, and no periodic task.
    silent = re.compile(r'"5\.\.|max_requests|http_client|dependency_|periodic_task')

    assert len(queries) > 45
    empty = [query for query in queries if not answered(prometheus, query, silent=bool(silent.search(query)))]
    assert empty == []


def test_choices_of_the_dashboard_are_found(board: Board, prometheus: httpx.Client) -> None:
    (query,) = (one["query"]["query"] for one in board["templating"]["list"] if one["name"] == "job")
    found = re.fullmatch(r"label_values\((.*), (\w+)\)", query.replace("$namespace", ".*"))

    assert found
    series = data(prometheus, "/series", **{"match[]": found[1]})
    assert [one[found[2]] for one in series] == [JOB]


def answered(prometheus: httpx.Client, query: str, *, silent: bool) -> bool:
    """Whether it is understood, and has a value sooner or later unless it is silent."""
    assert data(prometheus, "/query", query=query) is not None, query
    return silent or bool(eventually(lambda: data(prometheus, "/query", query=query)["result"]))


def test_metrics_of_the_dashboard_are_the_services(board: Board, prometheus: httpx.Client) -> None:
    used = {name for query in queries_of(board) for name in re.findall(r"([a-z_]+)\{job", query)}
    metadata = data(prometheus, "/targets/metadata", match_target=f'{{job="{JOB}"}}')
    known = {one["metric"] for one in metadata}
    # The service calls no other one.
    known |= set(re.findall(r"^# TYPE (dependency_\w+)", client_metrics(), re.MULTILINE))

    assert {re.sub("_(bucket|count|sum|total)$", "", name) for name in used} <= {
        re.sub("_total$", "", name) for name in known
    }


def test_panels_do_not_overlap(board: Board) -> None:
    panels = board["panels"]
    cells = [
        (column, row)
        for place in (panel["gridPos"] for panel in panels)
        for column in range(place["x"], place["x"] + place["w"])
        for row in range(place["y"], place["y"] + place["h"])
    ]

    assert len(set(cells)) == len(cells)
    assert max(column for column, _ in cells) < 24
    assert len({panel["id"] for panel in panels}) == len(panels)


def test_exemplars_lead_to_the_traces_of_the_local_stack(monitoring: Path) -> None:
    sources = yaml.safe_load((monitoring / "grafana/datasources.yaml").read_text())["datasources"]
    known = {one["uid"]: one["type"] for one in sources}
    links = [
        link["datasourceUid"]
        for one in sources
        for link in one.get("jsonData", {}).get("exemplarTraceIdDestinations", [])
    ]

    assert known == {"prometheus": "prometheus", "jaeger": "jaeger"}
    assert [known[link] for link in links] == ["jaeger"]


@pytest.mark.parametrize("kind", ["pod-monitor", "prometheus-rule"])
def test_label_for_kube_prometheus_stack_only_needs_to_be_uncommented(monitoring: Path, kind: str) -> None:
    (path,) = (
        one for one in (monitoring.parent / "deploy/components" / kind).glob("*.yaml") if one.stem != "kustomization"
    )
    text = path.read_text()
    labels = yaml.safe_load(text)["metadata"]["labels"]
    uncommented = yaml.safe_load(text.replace("# release: ", "release: "))["metadata"]["labels"]

    assert labels == {"app.kubernetes.io/name": JOB}
    assert uncommented == {**labels, "release": "kube-prometheus-stack"}


def test_command_of_the_readme_shows_what_an_operator_selects(monitoring: Path, tmp_path: Path) -> None:
    needs("kubectl")
    (expression,) = re.findall("get prometheuses .* -o (jsonpath='.*')", (monitoring / "README.md").read_text())
    labels = {"matchLabels": {"release": "stack"}}
    spec = {"podMonitorSelector": labels, "podMonitorNamespaceSelector": {}, "ruleSelector": labels}
    made = {"apiVersion": "monitoring.coreos.com/v1", "kind": "Prometheus", "metadata": {"name": "one"}, "spec": spec}
    listed = {"apiVersion": "v1", "kind": "List", "items": [made]}
    (tmp_path / "list.yaml").write_text(yaml.safe_dump(listed))

    # Without a server, kubectl prints objects of a file one by one.
    local = expression.replace("{range .items[*]}", "").replace("{end}", "").removeprefix("jsonpath=").strip("'")
    shown = run(
        "kubectl", "annotate", "--local", "-f", "list.yaml", "a=b", "-o", f"jsonpath={local}", cwd=tmp_path
    ).stdout
    assert shown == (
        'one\n  pod monitors: {"matchLabels":{"release":"stack"}} in namespaces: {}\n'
        '  rules: {"matchLabels":{"release":"stack"}} in namespaces: \n'
    )


def test_observe_names_the_missing_program(bake: Bake) -> None:
    project = bake()
    (project / "uv.lock").touch()

    done = run("make", "--no-print-directory", "observe", "ENGINE=false", cwd=project)

    assert done.returncode != 0
    assert "error: docker compose is not installed; see https://docs.docker.com/compose/install/\n" in done.stdout
