"""Tests of the service as a process: health, shutdown, errors, logs and metrics. The template maintains this file."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from chassis.settings import settings_table
from chassis.settings_page import env_example, settings_page

from {{ cookiecutter.__package }}.app import create_app
from {{ cookiecutter.__package }}.settings import Settings

PACKAGE = "{{ cookiecutter.__package }}"
ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
ENVIRONMENT = {"PYTHONPATH": str(ROOT / "src"), "APP_LOG_FORMAT": "json"}

Event = dict[str, Any]


@dataclass
class Process:
    """The service as a process, and the log lines that it has written."""

    popen: subprocess.Popen[str]
    events: list[Event] = field(default_factory=list)

    def read_until(self, wanted: Callable[[Event], bool]) -> Event:
        """Read log lines until `wanted` returns true; fails if the process ends first."""
        assert self.popen.stdout is not None
        for line in self.popen.stdout:
            self.events.append(json.loads(line))
            if wanted(self.events[-1]):
                return self.events[-1]
        raise AssertionError(f"the service ended before the expected log line; it logged {self.events}")

    def stop(self) -> int:
        """Send SIGTERM, as Kubernetes does; returns the exit status."""
        self.popen.send_signal(signal.SIGTERM)
        return self.popen.wait(30)


@dataclass(frozen=True)
class Service:
    """A running service and a client."""

    process: Process
    client: httpx.Client


@pytest.fixture
def service(tmp_path: Path, settings: Settings) -> Iterator[Service]:
    """The service on a free port, started in a folder without a `.env`, after everything of `settings` is there."""
    environment = {**ENVIRONMENT, "APP_HOST": "127.0.0.1", "APP_PORT": "0", "APP_DRAIN_SECONDS": "0.2"}
    command = [sys.executable, "-m", PACKAGE]
    with subprocess.Popen(
        command, cwd=tmp_path, env=os.environ | environment, stdout=subprocess.PIPE, text=True
    ) as popen:
        process = Process(popen)
        try:
            port = process.read_until(lambda event: event["event"] == "listening")["port"]
            process.read_until(lambda event: event["event"] == "ready")
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
                yield Service(process, client)
        finally:
            popen.kill()


def test_service_is_alive_and_reports_its_readiness_and_its_name(service: Service) -> None:
    assert service.client.get("/healthz").status_code == 200
    readiness = service.client.get("/readyz")
    # 503 if a required check fails, for example because your database is not running.
    assert readiness.status_code == {"ready": 200, "failing": 503}[readiness.json()["status"]]
    assert service.client.get("/info").json()["name"] == PACKAGE.replace("_", "-")


def test_service_drains_after_sigterm_and_exits_with_0(service: Service) -> None:
    assert service.process.stop() == 0
    service.process.read_until(lambda event: event["event"] == "draining")
    service.process.read_until(lambda event: event["event"] == "stopped")


def test_error_response_is_a_problem_with_one_access_line_and_is_counted(service: Service) -> None:
    response = service.client.get("/no-such-path", headers={"x-request-id": "test-1"})
    problem = response.json()
    assert response.is_client_error  # 404, or 401 if your middleware requires credentials
    assert response.headers["content-type"] == "application/problem+json"
    assert problem["status"] == response.status_code

    line = service.process.read_until(lambda event: event["event"] == "request")
    assert (line["method"], line["path"], line["status"]) == ("GET", "/no-such-path", response.status_code)
    assert line["request_id"] == "test-1"
    assert re.fullmatch("[0-9a-f]{32}", line["trace_id"])
    assert problem["trace_id"] == line["trace_id"]

    labels = f'http_response_status_code="{response.status_code}",http_route="{line["route"]}"'
    lines = service.client.get("/metrics").text.splitlines()
    (count,) = (line for line in lines if "_request_duration_seconds_count" in line and labels in line)
    assert count.endswith(" 1.0")


def test_openapi_document_names_the_service(settings: Settings) -> None:
    assert create_app(settings).openapi["info"]["title"] == PACKAGE.replace("_", "-")


def test_invalid_setting_stops_the_start_with_an_error(tmp_path: Path) -> None:
    environment = os.environ | ENVIRONMENT | {"APP_PORT": "none"}
    command = [sys.executable, "-m", PACKAGE]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: APP_PORT='none': ")


def test_settings_page_is_up_to_date() -> None:
    page = (ROOT / "docs/settings.md").read_text(encoding="utf-8")
    assert page == settings_page(Settings), "docs/settings.md differs from the settings; run `make settings`"


def test_env_example_is_up_to_date() -> None:
    example = (ROOT / ".env.example").read_text(encoding="utf-8")
    assert example == env_example(Settings), ".env.example differs from the settings; run `make settings`"


def test_settings_in_the_readme_exist_in_the_code() -> None:
    rows = re.findall(r"^\| `APP_.*", README, re.MULTILINE)
    assert set(rows) <= set(settings_table(Settings)), "README.md differs from the settings; run `make settings`"


def test_paths_in_the_readme_exist() -> None:
    for name in re.findall(r"^[├└]── (\S+)", README, re.MULTILINE):
        if name != "chassis/":  # may be elsewhere: see "Share the core" in its README.md
            assert (ROOT / name).exists(), name
