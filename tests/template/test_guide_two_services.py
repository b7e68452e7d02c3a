"""The guide to two services is followed to the letter: generate, call, trace, test, run in containers."""

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import yaml

from bakery import depend_on, render, run
from checks import CHECKS, check
from collector import Collector
from guides import follow, write_settings_page
from running import PATIENCE_SECONDS, Service, running

PAGE = "two-services.md"
StartService = Callable[..., Service]
COMMAND = re.compile(r"^\$ uvx cookiecutter \S+ --no-input (.*)$", re.MULTILINE)


@pytest.fixture(scope="module")
def projects(tmp_path_factory: pytest.TempPathFactory, client_python: Path) -> dict[str, Path]:
    """Both services, as the guide says."""
    folder = tmp_path_factory.mktemp("two")
    page = Path(__file__).parents[2].joinpath("chassis/docs", PAGE).read_text()
    commands = [dict(word.split("=") for word in command.split()) for command in COMMAND.findall(page)]
    projects = {answers["project_name"].lower(): render(folder, answers) for answers in commands}
    shop = projects["shop"]
    follow(projects["catalogue"], PAGE, "The catalogue")
    follow(shop, PAGE, "The shop")
    follow(shop, PAGE, "Test the shop without the catalogue")
    for project in projects.values():
        write_settings_page(project, client_python)
    return projects


@pytest.fixture
def start_service(projects: dict[str, Path], client_python: Path, tmp_path: Path) -> Iterator[StartService]:
    """`start_service(name, **variables)` starts one of both."""
    with ExitStack() as stack:
        yield lambda name, **variables: stack.enter_context(
            running(client_python, projects[name], tmp_path, **variables)
        ).ready()


@pytest.mark.parametrize("name", ["catalogue", "shop"])
def test_tools_accept_the_services(projects: dict[str, Path], client_python: Path, name: str) -> None:
    own = ("pytest", "-q", "--no-cov", "-p", "no:cacheprovider", "tests", "-k", "offer or product or openapi")
    check(projects[name], client_python, *CHECKS, own)


def test_request_goes_through_both_services(start_service: StartService, collector: Collector) -> None:
    spans = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint, "OTEL_TRACES_SAMPLER": "always_on"}
    catalogue = start_service("catalogue", **spans)
    address = f"http://127.0.0.1:{catalogue.port}"
    shop = start_service("shop", APP_CATALOGUE__BASE_URL=address, **spans)

    response = shop.http.get("/offers/tea", params={"quantity": 2})

    assert (response.status_code, response.json()) == (200, {"sku": "tea", "quantity": 2, "cents": 900})
    assert shop.http.get("/offers/milk").json()["detail"] == "The shop does not sell milk."
    lines = [service.access_lines(1, status=200)[0] for service in (shop, catalogue)]
    assert {line["request_id"] for line in lines} == {response.headers["x-request-id"]}
    (trace,) = {line["trace_id"] for line in lines}
    collector.spans(6)  # of both requests
    assert len([span for span in collector.now() if span.trace_id == trace]) == 3


def test_missing_service_is_named(projects: dict[str, Path], start_service: StartService) -> None:
    catalogue = start_service("catalogue")
    address = f"http://127.0.0.1:{catalogue.port}"
    shop = start_service("shop", APP_CATALOGUE__BASE_URL=address)
    assert catalogue.end() == 0

    response = shop.http.get("/offers/tea", timeout=PATIENCE_SECONDS)

    assert (response.status_code, response.headers["retry-after"]) == (503, "1")
    said = section(projects, "Run both").rpartition("\n\n")[0].rpartition("\n{")[2]
    assert said.partition("}")[0] in response.text


def test_shop_depends_on_the_extra(projects: dict[str, Path], tmp_path: Path) -> None:
    (line,) = re.findall(r'```toml\n *(".*",)\n', section(projects, "The shop"))
    depend_on(projects["shop"], "client")

    assert line in (projects["shop"] / "pyproject.toml").read_text()


def test_compose_file_runs_the_images_of_both(projects: dict[str, Path], tmp_path: Path) -> None:
    (text,) = re.findall(r"```yaml\n# compose.yaml\n(.*?)```", section(projects, "Run both in containers"), re.DOTALL)
    (tmp_path / "compose.yaml").write_text(text)
    command = ("uv", "tool", "run", "--quiet", "check-jsonschema>=0.34", "--builtin-schema", "vendor.compose-spec")
    checked = run(*command, "compose.yaml", cwd=tmp_path)
    assert checked.returncode == 0, checked.stdout

    services = yaml.safe_load(text)["services"]

    for name, project in projects.items():
        image = run("make", "image-name", cwd=project).stdout.strip()
        assert services[name]["image"] == f"{image}:local"
        settings = [variable for variable in services[name]["environment"] if variable.startswith("APP_")]
        known = (project / ".env.example").read_text()
        assert [variable for variable in settings if f"{variable}=" not in known] == []
    stack = yaml.safe_load((projects["shop"] / "monitoring/compose.yaml").read_text())
    assert services["jaeger"] == stack["services"]["jaeger"]


def section(projects: dict[str, Path], title: str) -> str:
    page = (projects["shop"] / "chassis/docs" / PAGE).read_text()
    return page.partition(f"\n## {title}\n")[2].partition("\n## ")[0]
