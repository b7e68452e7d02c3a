"""The settings of a database."""

import ssl
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from chassis import ChassisSettings, load_settings
from chassis.postgres import DatabaseSettings
from chassis.postgres.settings import Address

URL = "postgresql://user@db.example:5433/orders"


class Settings(ChassisSettings):
    """The settings of a service with a database."""

    database: DatabaseSettings


def of(**given: Any) -> DatabaseSettings:
    return DatabaseSettings.model_validate({"url": URL} | given)


def test_variables_and_secret_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "app_database__password").write_text("from a file\n")
    monkeypatch.setenv("APP_SECRETS_DIR", str(tmp_path))
    monkeypatch.setenv("APP_DATABASE__URL", URL)
    monkeypatch.setenv("APP_DATABASE__POOL_MAX", "20")
    database = load_settings(Settings).database
    assert (database.read_password(), database.pool_max, database.pool_min) == ("from a file", 20, 1)


def test_neither_password_nor_url_is_shown() -> None:
    given = {"url": "postgresql://user:hidden@db/orders", "password": "hidden"}
    shown = repr(DatabaseSettings.model_validate(given))
    assert "hidden" not in shown


@pytest.mark.parametrize(
    ("url", "address"),
    [
        (URL, Address("db.example", 5433, "orders")),
        ("postgres://db/orders", Address("db", 5432, "orders")),
        ("postgresql://user:p%40ss@db/orders?sslmode=require", Address("db", 5432, "orders")),
        ("postgresql://user@[::1]:5433/orders", Address("::1", 5433, "orders")),
        ("postgresql://user@[::1]/orders", Address("::1", 5432, "orders")),
        ("postgresql://user@one:1111,two:2222/orders?target_session_attrs=primary", Address("one", 1111, "orders")),
        ("postgresql:///orders?host=/run/postgresql&port=5434", Address("/run/postgresql", 5434, "orders")),
        ("postgresql://", Address("localhost", 5432, "")),
    ],
)
def test_address_of_a_url(url: str, address: Address) -> None:
    assert of(url=url).address == address


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"url": "mysql://db"}, "must begin with postgresql://"),
        ({"url": "db.example"}, "must begin with postgresql://"),
        ({"pool_min": 11}, "pool_min is 11, more than pool_max, 10; lower it"),
        ({"pool_max": 0}, "greater than or equal to 1"),
        ({"statement_seconds": "inf"}, "finite"),
        ({"tls": "off"}, "'disable', 'prefer', 'require', 'verify-ca' or 'verify-full'"),
        ({"tls_ca_file": "ca.pem"}, "tls is not set, so ca.pem is not used; set tls to verify-full"),
        ({"tls": "verify-full", "tls_key_file": "key"}, "set tls_certificate_file and tls_key_file together"),
    ],
)
def test_wrong_values_are_explained(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError) as raised:
        of(**given)
    assert message in str(raised.value)


def test_start_names_the_variable(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("APP_DATABASE__URL", "mysql://user:hidden@db")
    with pytest.raises(SystemExit):
        load_settings(Settings)
    said = capfd.readouterr().err
    assert "APP_DATABASE__URL" in said
    assert "must begin with postgresql://" in said
    assert "hidden" not in said


def test_password_file_is_read_again(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("first\n")
    settings = of(password_file=file)
    assert settings.read_password() == "first"
    file.write_text("second")
    assert settings.read_password() == "second"
    assert of().read_password() is None


@pytest.mark.parametrize("mode", [None, "disable", "prefer"])
def test_modes_without_verification_are_asyncpg_s(mode: str | None) -> None:
    assert of(tls=mode).make_tls() == mode


@pytest.mark.parametrize(
    ("mode", "verifies", "checks_host"),
    [("require", False, False), ("verify-ca", True, False), ("verify-full", True, True)],
)
def test_tls_modes(mode: str, verifies: bool, checks_host: bool) -> None:
    context = of(tls=mode).make_tls()
    assert isinstance(context, ssl.SSLContext)
    assert (context.verify_mode is ssl.CERT_REQUIRED, context.check_hostname) == (verifies, checks_host)


def test_import_without_asyncpg_is_explained_in_one_line() -> None:
    code = "import sys; sys.modules['asyncpg'] = None; import chassis.postgres"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    expected = "chassis.postgres needs asyncpg, which is not installed; depend on asgi-chassis[postgres]"
    assert done.stderr.splitlines()[-1] == f"ImportError: {expected}"


def test_core_does_not_import_asyncpg() -> None:
    code = "import chassis, chassis.app, chassis.server, chassis.run, sys; assert 'asyncpg' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
