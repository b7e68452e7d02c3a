"""The guide "Authentication and authorization" is followed to the letter, with the provider for development."""

import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest

from bakery import TEMPLATE, extend_app, render, run
from chassis.auth.development import provider_in_thread
from chassis.auth.issuer import Issuer
from checks import check
from guides import BLOCK, write_settings_page
from running import Service, running

GUIDE = (TEMPLATE / "chassis/docs" / "auth.md").read_text()
PYTHON = Path(sys.executable)  # has the libraries; the environment of generated services does not


class ApiKey(NamedTuple):
    """A key, and the file with its hash."""

    text: str
    file: Path


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A service with the code of the guide."""
    project = render(tmp_path_factory.mktemp("guide"), {"example": "none"})
    package = project / "src/order_service"
    for name, block in BLOCK.findall(GUIDE):
        if name == "app.py":
            extend_app(project, block)
        elif name == "settings.py":
            (package / name).write_text(f'"""Settings."""\n\nfrom chassis import ChassisSettings\n{block}')
        else:
            path = project / name if name.startswith("tests/") else package / name
            path.write_text(block)
    run(PYTHON.with_name("ruff"), "check", "--fix", "--select=I", ".", cwd=project)
    return project


@pytest.fixture(scope="module")
def issuer() -> Iterator[Issuer]:
    with provider_in_thread("orders") as issuer:
        yield issuer


@pytest.fixture(scope="module")
def api_key(project: Path, tmp_path_factory: pytest.TempPathFactory) -> ApiKey:
    """A key of the command in the guide."""
    (command,) = re.findall(r"^\$ python (-m chassis\.auth\.api_keys .*)$", GUIDE, re.MULTILINE)
    done = subprocess.run([PYTHON, *command.split()], capture_output=True, text=True, check=True, timeout=20)
    key, line = done.stdout.splitlines()
    file = tmp_path_factory.mktemp("keys") / "keys"
    file.write_text(f"{line}\n")
    return ApiKey(key, file)


@pytest.fixture(scope="module")
def http(
    project: Path, issuer: Issuer, api_key: ApiKey, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[httpx.Client]:
    """A client of the service, which runs as a process."""
    home = tmp_path_factory.mktemp("home")
    variables = {
        "APP_AUTH_ISSUER": issuer.url,
        "APP_AUTH_AUDIENCE": "orders",
        "APP_AUTH_API_KEYS_FILE": str(api_key.file),
    }
    with running(PYTHON, project, home, **variables) as service:
        yield with_keys(service)


def with_keys(service: Service) -> httpx.Client:
    """A client of the service, when it has the keys of its issuer."""
    http = service.ready().http
    by = time.monotonic() + 10
    while http.get("/readyz").status_code != 200:
        assert time.monotonic() < by
        time.sleep(0.02)
    return http


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


def test_tools_accept_the_code(project: Path) -> None:
    check(project, PYTHON, ("ruff", "check", "src"), ("ruff", "format", "--check", "src"))
    check(project, PYTHON, ("mypy", "src", "tests/test_accounts.py"))


def test_tests_of_the_guide_pass(project: Path) -> None:
    check(project, PYTHON, ("python", "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/test_accounts.py"))


def test_settings_are_listed(project: Path) -> None:
    write_settings_page(project, PYTHON)
    assert "| `APP_AUTH_ISSUER` | required |" in (project / "docs/settings.md").read_text()


@pytest.mark.parametrize(
    ("method", "path", "credentials", "status"),
    [
        ("GET", "/accounts", None, 401),
        ("GET", "/accounts", {}, 200),
        ("PUT", "/accounts", {}, 403),
        ("PUT", "/accounts", {"scopes": ["accounts:write"]}, 200),
        ("DELETE", "/accounts", {"roles": ["clerk"]}, 403),
        ("DELETE", "/accounts", {"roles": ["auditor"]}, 204),
        ("GET", "/prices", None, 200),
        ("GET", "/internal/accounts", {"roles": ["staff"]}, 403),
        ("GET", "/internal/accounts", {"scopes": ["accounts:read"]}, 200),
        ("GET", "/nothing", None, 404),
        ("OPTIONS", "/accounts", None, 204),
    ],
)
def test_requests_get_the_status_of_the_guide(
    http: httpx.Client, issuer: Issuer, method: str, path: str, credentials: Any, status: int
) -> None:
    headers = {} if credentials is None else bearer(issuer.token("ada", **credentials))
    body = {"owner": "ada", "cents": 7} if method == "PUT" else None
    assert http.request(method, path, headers=headers, json=body).status_code == status


def test_api_key_is_accepted(http: httpx.Client, api_key: ApiKey) -> None:
    headers = {"x-api-key": api_key.text}
    assert http.get("/accounts", headers=headers).json()["owner"] == "billing"
    assert http.put("/accounts", headers=headers, json={"owner": "ada", "cents": 7}).status_code == 403
    assert http.get("/accounts", headers={"x-api-key": f"{api_key.text}x"}).status_code == 401


def test_principal_is_that_of_the_token(http: httpx.Client, issuer: Issuer) -> None:
    assert http.get("/accounts", headers=bearer(issuer.token("bob"))).json()["owner"] == "bob"
    assert http.get("/prices", headers=bearer(issuer.token("bob"))).json() == {"cents": 90}
    assert http.get("/prices").json() == {"cents": 100}


def test_command_of_the_guide_runs_a_service_beside_the_provider(project: Path, tmp_path: Path) -> None:
    command = (str(PYTHON), "-m", "chassis.auth.development", "order_service", "accounts:read", "--")
    with running(PYTHON, project, tmp_path, command) as service:
        http = with_keys(service)
        (line,) = service.errors.wait_for(lambda line: line.startswith("TOKEN="))
        token = line.removeprefix("TOKEN=")
        assert http.get("/accounts").status_code == 401
        assert http.get("/accounts", headers=bearer(token)).json()["owner"] == "developer"
        assert service.end() == 0
        assert token not in "".join(service.output.all())
