"""The local observability stack: its files are valid, match the service, and query metrics that exist."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from bakery import run
from collector import Collector
from conftest import Bake, Start
from prometheus import data, eventually, scraping
from running import Service, needs

JOB = "order-service"


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


@pytest.fixture
def prometheus(
    monitoring: Path, start: Start, installed: Path, collector: Collector, tmp_path: Path
) -> Iterator[httpx.Client]:
    """Prometheus with the configuration of the local stack, but another address and a shorter interval."""
    needs("prometheus")
    service = start(installed, APP_ADMIN_PORT="0", OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint).ready()
    config = (monitoring / "prometheus.yaml").read_text()
    assert "service:9000" in config
    config = config.replace("service:9000", f"127.0.0.1:{service.admin.base_url.port}").replace("5s", "1s")
    with scraping(config, tmp_path) as client:
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


def test_every_query_of_the_dashboard_has_a_result(monitoring: Path, prometheus: httpx.Client) -> None:
    board = json.loads((monitoring / "grafana/service.json").read_text())
    queries = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    queries = [query.replace("$__rate_interval", "1m").replace("$job", JOB) for query in queries]
    # No request failed or was shed, and there is no limit.
    silent = re.compile(r'"5\.\.|max_requests|shed_requests|tasks_failed')

    assert len(queries) > 15
    empty = [query for query in queries if not answered(prometheus, query, silent=bool(silent.search(query)))]
    assert empty == []


def answered(prometheus: httpx.Client, query: str, *, silent: bool) -> bool:
    """Whether it is understood, and has a value sooner or later unless it is silent."""
    assert data(prometheus, "/query", query=query) is not None, query
    return silent or bool(eventually(lambda: data(prometheus, "/query", query=query)["result"]))


def test_metrics_of_the_dashboard_are_the_services(monitoring: Path, prometheus: httpx.Client) -> None:
    used = set(re.findall(r"([a-z_]+)\{job", (monitoring / "grafana/service.json").read_text()))
    metadata = data(prometheus, "/targets/metadata", match_target=f'{{job="{JOB}"}}')
    known = {one["metric"] for one in metadata}

    assert {re.sub("_(bucket|count|total)$", "", name) for name in used} <= {
        re.sub("_total$", "", name) for name in known
    }


def test_panels_and_sources_fit_together(monitoring: Path) -> None:
    board = json.loads((monitoring / "grafana/service.json").read_text())
    sources = yaml.safe_load((monitoring / "grafana/datasources.yaml").read_text())["datasources"]
    known = {one["uid"]: one["type"] for one in sources}
    panels = board["panels"]

    used = [one["datasource"] for panel in panels for one in (panel, *panel["targets"])]
    assert all(known[one["uid"]] == one["type"] for one in used)
    links = [
        link["datasourceUid"]
        for one in sources
        for link in one.get("jsonData", {}).get("exemplarTraceIdDestinations", [])
    ]
    assert [known[link] for link in links] == ["jaeger"]
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels]
    assert len(set(places)) == len({panel["id"] for panel in panels}) == len(panels)


def test_observe_names_the_missing_program(bake: Bake) -> None:
    project = bake()
    (project / "uv.lock").touch()

    done = run("make", "--no-print-directory", "observe", "ENGINE=false", cwd=project)

    assert done.returncode != 0
    assert "error: docker compose is not installed; see https://docs.docker.com/compose/install/\n" in done.stdout
