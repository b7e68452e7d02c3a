"""The settings of a database."""

import re
import ssl
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from chassis import ChassisSettings, load_settings
from chassis.nats import NatsSettings
from chassis.postgres import DatabaseSettings
from chassis.postgres.settings import Address

URL = "postgresql://user@db.example:5433/orders"


class Settings(ChassisSettings, DatabaseSettings):
    """The settings of a service with a database, and with another one."""

    replica: DatabaseSettings | None = None


def of(**given: Any) -> DatabaseSettings:
    """Settings whose names are given without their prefix."""
    values = {"url": URL} | given
    return DatabaseSettings.model_validate({f"database_{name}": value for name, value in values.items()})


def test_variables_and_secret_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "app_database_password").write_text("from a file\n")
    monkeypatch.setenv("APP_SECRETS_DIR", str(tmp_path))
    monkeypatch.setenv("APP_DATABASE_URL", URL)
    monkeypatch.setenv("APP_DATABASE_POOL_MAX", "20")
    settings = load_settings(Settings)
    assert settings.read_database_password() == "from a file"
    assert (settings.database_pool_max, settings.database_pool_min) == (20, 1)


def test_second_database_is_nested(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APP_DATABASE_URL", URL)
    monkeypatch.setenv("APP_REPLICA__DATABASE_URL", "postgresql://replica/orders")
    replica = load_settings(Settings).replica
    assert replica is not None
    assert replica.database_address.host == "replica"


def test_neither_password_nor_url_is_shown() -> None:
    shown = repr(of(url="postgresql://user:hidden@db/orders", password="hidden"))  # noqa: S106 - not a real one
    assert "hidden" not in shown


@pytest.mark.parametrize(
    ("url", "address"),
    [
        (URL, Address("db.example", 5433, "orders")),
        ("postgresql+asyncpg://db/orders", Address("db", 5432, "orders")),
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
    assert of(url=url).database_address == address


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"url": "mysql://db"}, "must begin with postgresql://"),
        ({"url": "db.example"}, "must begin with postgresql://"),
        ({"url": "postgresql://user:pa/ss@db/orders"}, "encode / # ? @ [ ] in the password"),
        ({"url": "postgresql://db:abc/orders"}, "the port is not a number"),
        ({"pool_min": 11}, "database_pool_min is 11, more than database_pool_max, 10; lower it"),
        ({"pool_max": 0}, "greater than or equal to 1"),
        ({"statement_seconds": "inf"}, "finite"),
        ({"statement_seconds": 1e9}, "less than or equal to 86400"),
        ({"tls": "off"}, "'disable', 'prefer', 'require', 'verify-ca' or 'verify-full'"),
        ({"tls_ca_file": "ca.pem"}, "database_tls is not set, so ca.pem is not used; set it to verify-full"),
        (
            {"tls": "verify-full", "tls_key_file": "key"},
            "set database_tls_certificate_file and database_tls_key_file together",
        ),
    ],
)
def test_wrong_values_are_explained(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError) as raised:
        of(**given)
    assert message in str(raised.value)


def test_start_names_the_variable(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("APP_DATABASE_URL", "mysql://user:hidden@db")
    with pytest.raises(SystemExit):
        load_settings(Settings)
    said = capfd.readouterr().err
    assert "APP_DATABASE_URL" in said
    assert "must begin with postgresql://" in said
    assert "hidden" not in said


def test_files_are_allowed_where_tls_is_disabled() -> None:
    assert of(tls="disable", tls_ca_file="ca.pem").make_database_tls() == "disable"


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("postgresql://user:hidd/en@db/orders", "has an @ or # that is not encoded"),
        ("postgresql://user:12/hidden@db/orders", "has an @ or # that is not encoded"),
        ("postgresql://user:12?hidden@db/orders", "has an @ or # that is not encoded"),
        ("postgresql://user:12#hidden@db/orders", "has an @ or # that is not encoded"),
        ("postgresql://user:hidd@en@db/orders", "has an @ or # that is not encoded"),
        ("postgresql://user:[hidden]@db/orders", "encode / # ? @ [ ] in the password"),
        ("postgresql://user:hidden\u2100@db/orders", "is not a URL"),
        ("postgresql://user:hidden@db:0/orders", "from 1 to 65535"),
        ("postgresql://user:hidden@db:99999/orders", "from 1 to 65535"),
        ("postgresql://user:hidden@db:\u00b2/orders", "from 1 to 65535"),
        ("postgresql://user:hidden@db:/orders", "from 1 to 65535"),
        ("postgresql://user:hidden@::1/orders", "write an IPv6 address in brackets"),
        ("postgresql://user:hidden@:5432/orders", "has no host"),
        ("postgresql://user:hidden@one,,two/orders", "has no host"),
        ("postgresql://user:hidden@db/orders?port=0", "from 1 to 65535"),
        ("postgresql://user:hidden@db/orders?hidden", "parameters that are not written as ?name=value"),
        ("postgresql://user:hidden@db/orders?sslmode=foo", "the value of sslmode is not known; use one of disable, "),
        ("postgresql://user:hidden@db/orders?target_session_attrs=master", "use one of any, primary"),
        ("postgresql://user:hidden@db/orders?connect_timeout=3", "the parameter connect_timeout is not supported"),
    ],
)
def test_url_that_can_be_misread_is_one_line_without_the_password(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], url: str, message: str
) -> None:
    monkeypatch.setenv("APP_DATABASE_URL", url)
    with pytest.raises(SystemExit):
        load_settings(Settings)
    (line,) = [line for line in capfd.readouterr().err.splitlines() if "APP_DATABASE_URL" in line]
    assert message in line
    assert not re.search("hidd|en@", line)


BOUNDED = [
    (settings, name)
    for settings in (DatabaseSettings, NatsSettings)
    for name, field in settings.model_fields.items()
    if field.annotation in (int, float)
]


@pytest.mark.parametrize(("settings", "name"), BOUNDED)
@pytest.mark.parametrize("value", ["nan", "inf", "-1", "1e9", "0"])
def test_numbers_are_bounded(settings: type[BaseModel], name: str, value: str) -> None:
    if (name, value) == ("database_pool_min", "0"):
        return
    values = {"database_url": URL, "nats_url": "nats://host", name: value}
    with pytest.raises(ValidationError, match=name):
        settings.model_validate(values)


def test_spelling_of_sqlalchemy_is_that_of_the_server() -> None:
    assert of(url="postgresql+asyncpg://db/orders").database_url.get_secret_value() == "postgresql://db/orders"


def test_password_file_is_read_again(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("first\n")
    settings = of(password_file=file)
    assert settings.read_database_password() == "first"
    file.write_text("second")
    assert settings.read_database_password() == "second"
    assert of().read_database_password() is None


@pytest.mark.parametrize("mode", [None, "disable", "prefer"])
def test_modes_without_verification_are_asyncpg_s(mode: str | None) -> None:
    assert of(tls=mode).make_database_tls() == mode


@pytest.mark.parametrize(
    ("mode", "verifies", "checks_host"),
    [("require", False, False), ("verify-ca", True, False), ("verify-full", True, True)],
)
def test_tls_modes(mode: str, verifies: bool, checks_host: bool) -> None:
    context = of(tls=mode).make_database_tls()
    assert isinstance(context, ssl.SSLContext)
    assert (context.verify_mode is ssl.CERT_REQUIRED, context.check_hostname) == (verifies, checks_host)


NEEDS = {
    "chassis.postgres": "needs asyncpg, which is not installed; depend on asgi-chassis[postgres]",
    "chassis.sqlalchemy": (
        "needs asyncpg and sqlalchemy[asyncio], and one of them is not installed; depend on asgi-chassis[sqlalchemy]"
    ),
}


@pytest.mark.parametrize(
    ("package", "library"),
    [
        ("chassis.postgres", "asyncpg"),
        ("chassis.sqlalchemy", "asyncpg"),
        ("chassis.sqlalchemy", "sqlalchemy"),
        ("chassis.sqlalchemy", "greenlet"),
    ],
)
def test_import_without_a_library_is_explained_in_one_line(package: str, library: str) -> None:
    code = f"import sys; sys.modules['{library}'] = None; import {package}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == f"ImportError: {package} {NEEDS[package]}"


def test_postgres_does_not_import_sqlalchemy() -> None:
    code = "import chassis.postgres, sys; assert 'sqlalchemy' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_core_does_not_import_asyncpg() -> None:
    code = "import chassis, chassis.app, chassis.server, chassis.run, sys; assert 'asyncpg' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
