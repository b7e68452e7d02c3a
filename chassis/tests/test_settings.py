"""Settings: their sources, and the messages for invalid values."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import Field, Secret, SecretStr

from chassis import ChassisSettings, load_settings


class Settings(ChassisSettings):
    """Settings of a service."""

    max_orders: int = Field(10, ge=1, description="Orders that the store holds.")
    api_key: SecretStr | None = Field(None, description="Key of `the` supplier.")
    regions: list[str] = Field([], description="Names of regions.")
    limits: dict[str, int] = Field({}, description="Limits by region.")


class Needy(ChassisSettings):
    """Has a setting without default."""

    database_url: SecretStr = Field(description="Where the database is.")


@pytest.fixture(autouse=True)
def _empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No `.env` but the test's own."""
    monkeypatch.chdir(tmp_path)


def rejection(kind: type[ChassisSettings], capsys: pytest.CaptureFixture[str]) -> list[str]:
    """The lines on standard error when the start is rejected."""
    with pytest.raises(SystemExit) as caught:
        load_settings(kind)
    assert caught.value.code == 2
    return capsys.readouterr().err.splitlines()


def test_defaults_need_no_environment() -> None:
    settings = load_settings(Settings)
    assert (settings.port, settings.admin_port, settings.log_level, settings.max_orders) == (8000, None, "INFO", 10)


def test_environment_wins_over_the_env_file(monkeypatch: pytest.MonkeyPatch) -> None:
    Path(".env").write_text("APP_PORT=1111\nAPP_MAX_ORDERS=5\nOTHER=x\nAPP_UNKNOWN=1\n")
    monkeypatch.setenv("APP_PORT", "2222")
    settings = load_settings(Settings)
    assert (settings.port, settings.max_orders) == (2222, 5)


def test_env_file_wins_over_secret_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "app_api_key").write_text("mounted\n")
    (tmp_path / "secrets" / "app_max_orders").write_text("7\n")
    Path(".env").write_text("APP_MAX_ORDERS=5\n")
    monkeypatch.setenv("APP_SECRETS_DIR", "secrets")
    settings = load_settings(Settings)
    assert settings.api_key is not None
    assert (settings.api_key.get_secret_value(), settings.max_orders) == ("mounted", 5)


def test_lists_of_names_are_separated_by_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APP_LOG_REDACT", "iban, tax_id,,")
    assert load_settings(Settings).log_redact == ("iban", "tax_id")


def test_level_may_be_lower_case(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APP_LOG_LEVEL", "debug")
    assert load_settings(Settings).log_level == "DEBUG"


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        load_settings(Settings).port = 1


@pytest.mark.parametrize(
    ("variable", "value", "allowed"),
    [
        ("APP_PORT", "http", "Port to listen on. 0 picks a free port"),
        ("APP_PORT", "65536", "Port to listen on. 0 picks a free port"),
        ("APP_LOG_LEVEL", "LOUD", "Lowest level that is logged, such as DEBUG or WARNING"),
        ("APP_LOG_FORMAT", "xml", "json, console, or auto (console on a terminal, else JSON)"),
        ("APP_DEADLINE_SECONDS", "0", "Seconds until a response must start"),
        ("APP_MAX_ORDERS", "0", "Orders that the store holds"),
        ("APP_REGIONS", '["north"', "Names of regions"),
        ("APP_LIMITS", "ten", "Limits by region"),
        ("APP_LIMITS", '{"north": "many"}', "Limits by region"),
        ("APP_DEADLINE_SECONDS", "inf", "Seconds until a response must start"),
        ("APP_DEADLINE_SECONDS", "nan", "Seconds until a response must start"),
    ],
)
def test_invalid_value_is_one_line_with_the_allowed_values(
    variable: str, value: str, allowed: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(variable, value)
    (line,) = rejection(Settings, capsys)
    assert line.startswith(f"error: {variable}=")
    assert value in line
    assert allowed in line


def test_ports_differ(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("APP_ADMIN_PORT", "8000")
    (line,) = rejection(Settings, capsys)
    assert line.startswith("error: APP_ADMIN_PORT='8000': Value error, APP_PORT is the same port")
    monkeypatch.setenv("APP_UNIX_SOCKET", "/run/orders.sock")
    assert load_settings(Settings).admin_port == 8000
    monkeypatch.delenv("APP_UNIX_SOCKET")
    monkeypatch.setenv("APP_PORT", "0")
    monkeypatch.setenv("APP_ADMIN_PORT", "0")
    assert load_settings(Settings).admin_port == 0


def test_every_wrong_value_has_its_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("APP_PORT", "x")
    monkeypatch.setenv("APP_MAX_ORDERS", "x")
    assert [line.split("=")[0] for line in rejection(Settings, capsys)] == ["error: APP_PORT", "error: APP_MAX_ORDERS"]


def test_secret_is_never_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Strict(ChassisSettings):
        api_key: SecretStr = Field(min_length=20, description="Key of the supplier.")

    monkeypatch.setenv("APP_API_KEY", "s3cr3t")
    (line,) = rejection(Strict, capsys)
    assert line.startswith("error: APP_API_KEY=[secret]: ")
    assert line.endswith("; Key of the supplier")
    assert "s3cr3t" not in line


@pytest.mark.parametrize("annotation", [list[SecretStr] | None, dict[str, SecretStr], Secret[int]])
def test_secret_inside_of_another_type_is_never_shown(
    annotation: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Nested(ChassisSettings):
        keys: annotation = Field(description="Keys of the suppliers.")

    monkeypatch.setenv("APP_KEYS", '["hunter2"')
    (line,) = rejection(Nested, capsys)
    assert line.startswith("error: APP_KEYS=[secret]: ")
    assert "hunter2" not in line


def test_missing_value_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert rejection(Needy, capsys) == ["error: APP_DATABASE_URL is not set: Where the database is"]


def test_invalid_secrets_directory_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("APP_SECRETS_DIR", "nowhere")
    assert rejection(Settings, capsys) == [
        "error: APP_SECRETS_DIR='nowhere': not a directory; create it, or set APP_SECRETS_DIR to another directory"
    ]


@pytest.mark.parametrize(
    ("variable", "line"),
    [
        ("APP_PROT", "warning: APP_PROT is not a setting of this service; did you mean APP_PORT?"),
        ("APP_ZZZZZ", "warning: APP_ZZZZZ is not a setting of this service"),
    ],
)
def test_unknown_variable_is_a_warning(
    variable: str, line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(variable, "1")
    assert load_settings(Settings).port == 8000
    assert capsys.readouterr().err.splitlines() == [line]


def test_setting_without_description_points_to_the_page_of_settings(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Silent(ChassisSettings):
        size: int = 1

    monkeypatch.setenv("APP_SIZE", "big")
    (line,) = rejection(Silent, capsys)
    assert line.endswith("see docs/settings.md")
