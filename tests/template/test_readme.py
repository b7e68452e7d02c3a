"""The statements of the generated README are true."""

import json
import re
from dataclasses import dataclass
from pathlib import Path

import pytest

from bakery import SOURCE, add_handler
from checks import check
from collector import Collector
from conftest import Bake, Start
from manifests import Manifests, kustomize
from running import Service


@dataclass(frozen=True)
class Steps:
    """The three steps of "Add an endpoint"."""

    module: str
    source: str
    import_line: str
    route_line: str


def steps_of(readme: str) -> Steps:
    section = readme.partition("## Add an endpoint")[2].partition("\n## ")[0]
    module = re.search(r"1\. Write `src/\w+/(\w+)\.py`", section)
    source = re.search(r"```python\n(.*?)\n +```", section, re.DOTALL)
    import_line = re.search(r"2\. In `app\.py`, import it: `(.*?)`", section)
    route_line = re.search(r"3\. and add its route: `(.*?)`", section)
    assert module
    assert source
    assert import_line
    assert route_line
    code = re.sub(r"^ {3}", "", source[1], flags=re.MULTILINE)
    return Steps(module[1], f"{code}\n", import_line[1], route_line[1])


@pytest.fixture
def extended(bake: Bake) -> Path:
    """The default service with the handler that its README adds."""
    project = bake()
    steps = steps_of((project / "README.md").read_text())
    add_handler(project, steps.module, steps.source, steps.import_line, steps.route_line)
    return project


def test_added_handler_appears_everywhere(extended: Path, start: Start, collector: Collector) -> None:
    service = start(extended, OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint, OTEL_TRACES_SAMPLER="always_on").ready()

    answer = service.http.get("/invoices/7")

    assert answer.json() == {"number": 7, "currency": "EUR", "language": "en"}
    german = service.http.get("/invoices/7", headers={"accept-language": "de"})
    assert german.json()["language"] == "de"
    assert service.http.get("/invoices/7", params={"currency": "NOK"}).json()["currency"] == "NOK"
    assert service.http.get("/invoices/seven").status_code == 422
    documented = service.http.get("/openapi.json").json()["paths"]["/invoices/{number}"]["get"]
    assert documented["summary"] == "Read an invoice"
    assert {one["name"]: one["in"] for one in documented["parameters"]} == {
        "number": "path",
        "currency": "query",
        "accept-language": "header",
    }
    labels = {"http_route": "/invoices/{number}", "http_response_status_code": "200"}
    assert service.metric("http_server_request_duration_seconds_count", **labels) == 3
    assert service.event("request", path="/invoices/7")["route"] == "/invoices/{number}"
    assert "GET /invoices/{number}" in {one.span.name for one in collector.spans(4)}


def test_added_handler_passes_the_linter_and_the_type_checker(extended: Path, python: Path) -> None:
    check(extended, python)


def test_request_of_the_readme_creates_an_order(service: Service, installed: Path) -> None:
    readme = (installed / "README.md").read_text()
    command = re.search(r"\$ curl .*?(/\w+) -H 'content-type: application/json' \\\n +-d '(.*?)'", readme)
    assert command

    answer = service.http.post(command[1], json=json.loads(command[2]))

    assert answer.status_code == 201


def test_endpoints_of_the_readme_respond(service: Service, installed: Path) -> None:
    section = (installed / "README.md").read_text().partition("## Operate it")[2].partition("\n## ")[0]
    paths = re.findall(r"`GET (/\S+)`", section)

    assert len(paths) == 6
    assert {path: service.http.get(path).status_code for path in paths} == dict.fromkeys(paths, 200)


def test_deployment_of_the_readme_is_that_of_the_manifests(bake: Bake) -> None:
    project = bake()
    section = (project / "deploy/README.md").read_text()
    dev = Manifests(kustomize(project / "deploy/overlays/dev"))
    production = Manifests(kustomize(project / "deploy/overlays/production"))
    memory = production.container["resources"]

    told = re.findall(r"`((?:base|overlays|components)(?:/[\w.-]+)*)`", section)
    assert told
    assert [path for path in told if not (project / "deploy" / path).exists()] == []
    assert {one.name for one in (project / "deploy/components").iterdir()} <= set(re.findall(r"`([\w-]+)`", section))
    commands = set(re.findall(r"^\$ make (\w+)", section, re.MULTILINE))
    assert commands == {"kind", "image", "diff", "deploy", "undeploy"}
    assert f"namespace `{dev['Namespace']['metadata']['name']}`" in section
    assert f"namespace `{production['Namespace']['metadata']['name']}`" in section
    assert (
        f"{memory['requests']['memory'][:-2]} MiB of memory, and may use up to {memory['limits']['memory'][:-2]} MiB"
        in section
    )
    assert (
        f"called `{next(one for one in production.pod['volumes'] if 'secret' in one)['secret']['secretName']}`"
        in section
    )


def test_targets_of_the_readme_are_in_the_makefile() -> None:
    told = set(re.findall(r"`make ([\w-]+)[` ]", (SOURCE / "README.md").read_text()))
    targets = "".join(
        (SOURCE / path).read_text() for path in ("Makefile", "deploy/deploy.mk", "monitoring/monitoring.mk")
    )

    assert told == set(re.findall(r"^([\w-]+):.* ## ", targets, re.MULTILINE)) - {
        "help",
        "install",
    }
