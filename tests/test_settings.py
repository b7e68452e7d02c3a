"""Settings from the environment, `.env` and a secrets directory; a wrong one stops the start."""

from pathlib import Path

import pytest

from bakery import package_of
from conftest import Bake, Start


@pytest.mark.parametrize(
    ("variable", "value", "told"),
    [
        ("APP_PORT", "99999", "65535"),
        ("APP_PORT", "http", "Port to listen on"),
        ("APP_ADMIN_PORT", "-1", "greater than or equal to 0"),
        ("APP_LOG_LEVEL", "LOUD", "'WARNING'"),
        ("APP_LOG_LEVEL", "loud", "'WARNING'"),
        ("APP_LOG_FORMAT", "xml", "'console'"),
        ("APP_DEADLINE_SECONDS", "0", "greater than 0"),
        ("APP_MAX_ORDERS", "many", "Orders that the store holds"),
    ],
)
def test_wrong_value_stops_the_start_with_one_line(
    start: Start, installed: Path, variable: str, value: str, told: str
) -> None:
    service = start(installed, **{variable: value})

    assert service.process.wait(20) == 2
    (line,) = service.errors.all()
    assert line.startswith(f"error: {variable}='{value}': ")
    assert told in line
    assert service.output.all() == []


def test_wrong_secret_is_named_and_not_shown(bake: Bake, start: Start) -> None:
    project = bake()
    settings = project / "src" / package_of(project) / "settings.py"
    text = settings.read_text().replace("from pydantic import Field", "from pydantic import Field, SecretStr")
    settings.write_text(f'{text}    api_key: SecretStr = Field(min_length=20, description="Key of the API.")\n')

    service = start(project, APP_API_KEY="swordfish")

    assert service.process.wait(20) == 2
    (line,) = service.errors.all()
    assert line.startswith("error: APP_API_KEY=[secret]: ")
    assert "20" in line
    assert "swordfish" not in line

    missing = start(project)
    assert missing.process.wait(20) == 2
    assert missing.errors.all() == ["error: APP_API_KEY is not set: Key of the API"]


def test_unknown_variable_is_reported_with_a_suggestion(start: Start, installed: Path) -> None:
    service = start(installed, APP_DRAIN_SECOND="1").ready()

    assert service.end() == 0
    assert service.errors.all() == [
        "warning: APP_DRAIN_SECOND is not a setting of this service; did you mean APP_DRAIN_SECONDS?"
    ]


def test_settings_come_from_the_environment_then_dotenv_then_secrets(bake: Bake, start: Start, tmp_path: Path) -> None:
    project = bake()
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    for name, value in {"app_commit": "secret", "app_max_body_bytes": "10", "app_deadline_seconds": "7"}.items():
        (secrets / name).write_text(value)
    (project / ".env").write_text("APP_COMMIT=dotenv\nAPP_MAX_BODY_BYTES=20\n")

    service = start(project, APP_COMMIT="environment", APP_SECRETS_DIR=str(secrets)).ready()

    assert service.http.get("/info").json()["commit"] == "environment"
    refused = service.http.post("/orders", content=b" " * 30, headers={"content-type": "application/json"})
    assert refused.json()["max_body_bytes"] == 20


def test_secrets_directory_alone_is_enough(start: Start, installed: Path, tmp_path: Path) -> None:
    (tmp_path / "app_commit").write_text("abc123\n")

    service = start(installed, APP_SECRETS_DIR=str(tmp_path)).ready()

    assert service.http.get("/info").json()["commit"] == "abc123"


def test_secrets_directory_that_is_none_stops_the_start(start: Start, installed: Path) -> None:
    service = start(installed, APP_SECRETS_DIR="/nowhere")

    assert service.process.wait(20) == 2
    assert service.errors.all() == ["error: APP_SECRETS_DIR='/nowhere': not a directory"]


def test_wrong_opentelemetry_exporter_stops_the_start_with_one_line(start: Start, installed: Path) -> None:
    service = start(installed, OTEL_TRACES_EXPORTER="zipkin")

    assert service.process.wait(20) == 2
    (line,) = service.errors.all()
    assert line.startswith("error: OTEL_TRACES_EXPORTER='zipkin'")
    assert "console" in line


def test_port_in_use_is_said_in_one_line(start: Start, installed: Path) -> None:
    first = start(installed).ready()
    second = start(installed, APP_PORT=str(first.port))

    assert second.process.wait(20) == 1
    (event,) = second.events()
    assert (event["event"], event["port"]) == ("cannot listen", first.port)
    assert second.errors.all() == []
