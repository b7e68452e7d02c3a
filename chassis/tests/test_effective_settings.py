"""The settings as they are in effect: values, sources, and no secrets."""

from pathlib import Path

import pytest
from pydantic import BaseModel, Field, SecretStr

from chassis import ChassisSettings, load_settings
from chassis.configuration.effective import EffectiveSetting, effective_settings


class Depot(BaseModel):
    """A group of settings."""

    host: str = "localhost"
    port: int = 5432
    password: SecretStr = SecretStr("")


class Settings(ChassisSettings):
    """Settings of a service."""

    greeting: str = Field("Hello", description="The first word\n    of a greeting.")
    depot: Depot = Field(Depot(), description="The depot.")
    spare: Depot | None = None
    limits: dict[str, int] = Field({})
    headers: dict[str, str] = Field({})
    endpoints: tuple[str, ...] = ()
    api_key: SecretStr | None = None
    ticket_signing_key: str = ""
    supplier: str = "https://supplier.example"
    letter_hook: str = "https://letters.example/default"
    renamed: int = Field(3, validation_alias="DEPOT_COUNT")


@pytest.fixture(autouse=True)
def _empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No `.env` but the test's own."""
    monkeypatch.chdir(tmp_path)


def loaded() -> dict[str, EffectiveSetting]:
    """The settings of the environment, by variable."""
    return {setting.variable: setting for setting in effective_settings(load_settings(Settings))}


def test_each_setting_has_its_value_default_and_description() -> None:
    greeting = loaded()["APP_GREETING"]
    assert greeting == EffectiveSetting(
        "APP_GREETING", "Hello", "default", "Hello", False, False, "The first word of a greeting."
    )


def test_setting_that_may_change_is_live() -> None:
    settings = loaded()
    assert settings["APP_LOG_LEVEL"].is_live
    assert not settings["APP_PORT"].is_live


def test_values_are_in_the_notation_of_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APP_LIMITS__NORTH", "5")
    settings = loaded()
    values = {name: settings[f"APP_{name}"].value for name in ("ADMIN_PORT", "TRACE_ADMIN", "CORS_METHODS", "LIMITS")}
    assert values == {
        "ADMIN_PORT": "",
        "TRACE_ADMIN": "false",
        "CORS_METHODS": "GET,HEAD,POST,PUT,PATCH,DELETE",
        "LIMITS": '{"north": 5}',
    }


def test_source_is_the_place_where_the_value_was_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    (secrets / "app_depot__password").write_text("hunter2\n")
    Path(".env").write_text("APP_DEPOT__PORT=1\nAPP_GREETING=Hi\n")
    monkeypatch.setenv("APP_SECRETS_DIR", str(secrets))
    monkeypatch.setenv("app_greeting", "Good day")
    monkeypatch.setenv("DEPOT_COUNT", "4")
    monkeypatch.setenv("APP_LIMITS__NORTH", "5")
    names = ("APP_GREETING", "APP_DEPOT__PORT", "APP_DEPOT__PASSWORD", "APP_DEPOT__HOST", "DEPOT_COUNT", "APP_LIMITS")
    settings = loaded()
    assert [settings[name].source for name in names] == [
        "environment",
        ".env",
        str(secrets / "app_depot__password"),
        "default",
        "environment",
        "environment",
    ]


def test_member_that_the_json_of_its_group_gives_has_the_source_of_the_group(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APP_DEPOT", '{"port": 7}')
    settings = loaded()
    assert (settings["APP_DEPOT__PORT"].value, settings["APP_DEPOT__PORT"].source) == ("7", "environment")
    assert settings["APP_DEPOT__HOST"].source == "default"


def test_values_of_code_have_the_source_code() -> None:
    settings = {one.variable: one for one in effective_settings(Settings.from_values(port=1, depot=Depot(port=2)))}
    sources = {name: settings[name].source for name in ("APP_PORT", "APP_DEPOT__PORT", "APP_HOST")}
    assert sources == {"APP_PORT": "code", "APP_DEPOT__PORT": "code", "APP_HOST": "default"}


def test_group_that_is_set_has_its_members_and_one_that_is_not_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [name for name in loaded() if "SPARE" in name] == ["APP_SPARE"]
    monkeypatch.setenv("APP_SPARE__HOST", "spare")
    assert [name for name in loaded() if "SPARE" in name] == [
        "APP_SPARE__HOST",
        "APP_SPARE__PORT",
        "APP_SPARE__PASSWORD",
    ]


def test_secrets_are_masked_and_unset_ones_are_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APP_DEPOT__PASSWORD", "hunter2")
    settings = loaded()
    password, key = settings["APP_DEPOT__PASSWORD"], settings["APP_API_KEY"]
    assert (password.value, password.is_secret, key.value, key.is_secret) == ("[secret]", True, "", True)


def test_text_with_the_name_of_a_key_is_a_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APP_TICKET_SIGNING_KEY", "hunter2")
    assert loaded()["APP_TICKET_SIGNING_KEY"].value == "[secret]"


def test_keys_to_redact_in_logs_are_secrets_here_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APP_LOG_REDACT", "greeting,limits")
    monkeypatch.setenv("APP_LIMITS__NORTH", "5")
    settings = loaded()
    assert (settings["APP_GREETING"].value, settings["APP_GREETING"].default) == ("[secret]", "")
    assert settings["APP_LIMITS"].value == "[secret]"


@pytest.mark.parametrize(
    ("variable", "text", "shown"),
    [
        ("APP_SUPPLIER", "https://ann:hunter2@depot.example/x", "https://ann:[secret]@depot.example/x"),
        ("APP_SUPPLIER", "https://ann:hunter2/@2@depot.example", "https://ann:[secret]@depot.example"),
        ("APP_SUPPLIER", "https://depot.example?token=hunter2&x=1", "https://depot.example?token=[secret]&x=1"),
        ("APP_SUPPLIER", "https://hunter2@depot.example/x", "https://[secret]@depot.example/x"),
        ("APP_SUPPLIER", "postgresql://ann@depot.example/x", "postgresql://ann@depot.example/x"),
        ("APP_SUPPLIER", "https://a.example/b?sv=1&sig=hunter2", "https://a.example/b?sv=1&sig=[secret]"),
        ("APP_SUPPLIER", "https://a.example?X-Amz-Signature=hunter2#c", "https://a.example?X-Amz-Signature=[secret]#c"),
        ("APP_SUPPLIER", "AccountName=a;AccountKey=hunter2", "AccountName=a;AccountKey=[secret]"),
        ("APP_HEADERS", '{"via": "https://a.example?sig=hunter2"}', '{"via": "https://a.example?sig=[secret]"}'),
        ("APP_SUPPLIER", "https://hooks.slack.com/services/T1/B2/hunter2", "https://hooks.slack.com/[secret]"),
        ("APP_SUPPLIER", "https://discord.com/api/webhooks/1/hunter2?a=b", "https://discord.com/[secret]"),
        ("APP_SUPPLIER", "https://a.webhook.office.com/b/hunter2 x", "https://a.webhook.office.com/[secret] x"),
        ("APP_SUPPLIER", "https://api.telegram.org/bot1:hunter2/send", "https://api.telegram.org/[secret]"),
        ("APP_ENDPOINTS", "https://hooks.a/1,https://b/2", "https://hooks.a/[secret],https://b/2"),
        ("APP_HEADERS", '{"to": "https://hooks.a/hunter2", "b": "c"}', '{"to": "https://hooks.a/[secret]", "b": "c"}'),
        ("APP_LETTER_HOOK", "https://chat.example:8443/hunter2", "https://chat.example:8443/[secret]"),
        ("APP_LETTER_HOOK", "https://a:b@chat.example?key=hunter2", "https://a:[secret]@chat.example/[secret]"),
        ("APP_LETTER_HOOK", "https://chat.example/", "https://chat.example/"),
        ("APP_SUPPLIER", "https://depot.example:8080/x", "https://depot.example:8080/x"),
        ("APP_ENDPOINTS", "a://b:hunter2@c,d://e:hunter2@f", "a://b:[secret]@c,d://e:[secret]@f"),
        ("APP_HEADERS", '{"x-api-key": "hunter2", "accept": "*"}', '{"x-api-key": "[secret]", "accept": "*"}'),
        ("APP_HEADERS", '{"via": "a://b:hunter2@c"}', '{"via": "a://b:[secret]@c"}'),
    ],
)
def test_secrets_inside_of_values_are_masked(
    variable: str, text: str, shown: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, text)
    assert loaded()[variable].value == shown


def test_default_of_a_webhook_is_masked() -> None:
    assert loaded()["APP_LETTER_HOOK"].default == "https://letters.example/[secret]"


def test_settings_from_other_sources_are_equal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APP_GREETING", "Hi")
    assert load_settings(Settings) == Settings.from_values(greeting="Hi")
