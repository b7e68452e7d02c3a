"""The settings of authentication."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from chassis import ChassisSettings, load_settings
from chassis.auth import AuthSettings

from .support.forger import settings


class Settings(ChassisSettings, AuthSettings):
    """The settings of a service."""


def test_lists_are_separated_by_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APP_AUTH_ISSUER", "https://login.example/")
    monkeypatch.setenv("APP_AUTH_AUDIENCE", "orders,billing")
    monkeypatch.setenv("APP_AUTH_ALGORITHMS", "ES256")
    found = load_settings(Settings, warns=False)
    assert (found.auth_audience, found.auth_algorithms) == (("orders", "billing"), ("ES256",))
    assert found.auth_token_types == ("at+jwt",)


@pytest.mark.parametrize(
    "url", ["https://login.example", "https://login.example:8443/a", "http://localhost:9000", "http://[::1]:9000/"]
)
def test_https_and_local_issuers_are_allowed(url: str) -> None:
    assert settings(issuer=url).auth_issuer == url
    assert settings(jwks_url=url).auth_jwks_url == url


@pytest.mark.parametrize(
    "url",
    [
        "http://login.example",
        "http://localhost.evil.example",
        "http://127.0.0.1@evil.example",
        "https://user:password@login.example",
        "https://login.example?a=b",
        "https://login.example#a",
        "https://login.example:port",
        "https://[::1",
        "https://",
        "https://login.example/a b",
        "https://lögin.example",
        "ftp://login.example",
        "login.example",
        "",
    ],
)
def test_other_issuers_are_rejected(url: str) -> None:
    with pytest.raises(ValidationError, match="must be an https URL without user, query and fragment"):
        settings(issuer=url)


def test_http_is_allowed_by_a_setting() -> None:
    assert settings(issuer="http://keycloak.test", allow_http=True).auth_allow_http


@pytest.mark.parametrize("algorithm", ["none", "HS256", "HS512", "ES256K", "rs256", ""])
def test_algorithms_without_public_keys_are_rejected(algorithm: str) -> None:
    with pytest.raises(ValidationError, match="Input should be 'RS256'"):
        settings(algorithms=(algorithm,))


@pytest.mark.parametrize("given", [{"audience": ()}, {"audience": ("",)}, {"token_types": ()}, {"algorithms": ()}])
def test_empty_lists_are_rejected(given: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="must have one or more values"):
        settings(**given)


def test_malformed_file_with_api_keys_stops_the_start_with_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "api-keys"
    path.write_text("billing.m4rk3r", encoding="utf-8")
    monkeypatch.setenv("APP_AUTH_ISSUER", "https://login.example/")
    monkeypatch.setenv("APP_AUTH_AUDIENCE", "orders")
    monkeypatch.setenv("APP_AUTH_API_KEYS_FILE", str(path))
    with pytest.raises(SystemExit) as ended:
        load_settings(Settings, warns=False)
    assert ended.value.code == 2
    message = capsys.readouterr().err
    assert "APP_AUTH_API_KEYS_FILE" in message
    assert "line 1 of" in message
    assert "m4rk3r" not in message
