"""Places of settings: the environment, `.env` and secret files, readable or not."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import BaseModel, Field, SecretStr

from chassis import ChassisSettings, load_settings


class Database(BaseModel):
    """A model inside of the settings."""

    port: int = Field(5432, description="Port of the database.")
    password: SecretStr | None = Field(None, description="Password of the database.")


class Settings(ChassisSettings):
    """Settings of a service."""

    api_key: SecretStr | None = Field(None, description="Key of the supplier.")
    greeting: str = Field("Hello", description="The first word.")
    regions: list[str] = Field(["north"], description="Names of regions.")
    database: Database = Database.model_validate({})


@pytest.fixture(autouse=True)
def secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty directory of secrets; the working directory is above it, and has no `.env` but the test's own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("APP_SECRETS_DIR", "secrets")
    directory = tmp_path / "secrets"
    directory.mkdir()
    return directory


def rejection(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """The lines with which the start is rejected."""
    with pytest.raises(SystemExit) as caught:
        load_settings(Settings)
    assert caught.value.code == 2
    return capsys.readouterr().err.splitlines()


@pytest.fixture
def _needs_permissions(tmp_path: Path, secrets: Path, ordinary_user: Callable[..., None]) -> None:
    ordinary_user(secrets, tmp_path)


# Secret files.


def test_file_that_is_not_utf_8_is_one_line(secrets: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (secrets / "app_api_key").write_bytes(b"hunter2\xff")
    assert rejection(capsys) == ["error: secrets/app_api_key: not UTF-8 text; save it in UTF-8"]


def test_file_with_a_nul_byte_is_one_line(secrets: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (secrets / "app_api_key").write_bytes(b"hunter2\0")
    assert rejection(capsys) == ["error: secrets/app_api_key: contains a NUL byte; save it as UTF-8 text"]


def test_directory_in_place_of_a_file_is_one_line(secrets: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (secrets / "app_port").mkdir()
    assert rejection(capsys) == ["error: secrets/app_port: not a regular file; put the value into a file of this name"]


def test_pipe_in_place_of_a_file_is_one_line(secrets: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.mkfifo(secrets / "app_port")
    assert rejection(capsys) == ["error: secrets/app_port: not a regular file; put the value into a file of this name"]


def test_link_to_a_missing_file_is_one_line(secrets: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (secrets / "app_port").symlink_to("nowhere")
    assert rejection(capsys) == [
        "error: secrets/app_port: a symbolic link to a file that does not exist; create that file, or remove the link"
    ]


def test_link_to_itself_is_one_line(secrets: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (secrets / "app_port").symlink_to("app_port")
    (line,) = rejection(capsys)
    assert line.startswith("error: secrets/app_port: cannot be read: Too many levels of symbolic links")


def test_endless_file_is_one_line(secrets: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with (secrets / "app_api_key").open("wb") as file:
        file.truncate(2**30)
    assert rejection(capsys) == ["error: secrets/app_api_key: larger than the allowed 1048576 bytes"]


def test_every_unreadable_file_has_its_line(secrets: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (secrets / "app_api_key").mkdir()
    (secrets / "app_port").mkdir()
    assert len(rejection(capsys)) == 2


@pytest.mark.usefixtures("_needs_permissions")
def test_file_without_permission_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    Path("secrets/app_api_key").touch(0)
    assert rejection(capsys) == [
        "error: secrets/app_api_key: cannot be read: Permission denied; allow this user to read it, or remove it"
    ]


@pytest.mark.usefixtures("_needs_permissions")
def test_directory_without_permission_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    Path("secrets").chmod(0)
    (line,) = rejection(capsys)
    assert line.startswith("error: APP_SECRETS_DIR='secrets': the directory cannot be read: Permission denied; ")


def test_file_in_place_of_the_directory_is_one_line(secrets: Path, capsys: pytest.CaptureFixture[str]) -> None:
    secrets.rmdir()
    secrets.touch()
    assert rejection(capsys) == [
        "error: APP_SECRETS_DIR='secrets': not a directory; create it, or set APP_SECRETS_DIR to another directory"
    ]


def test_files_of_kubernetes_are_read_through_their_links(secrets: Path, capsys: pytest.CaptureFixture[str]) -> None:
    version = secrets / "..2026_11_27_07_00_00.1"
    version.mkdir()
    (version / "app_api_key").write_text("mounted\n")
    (secrets / "..data").symlink_to(version.name)
    (secrets / "app_api_key").symlink_to("..data/app_api_key")
    key = load_settings(Settings).api_key
    assert key is not None
    assert key.get_secret_value() == "mounted"
    assert capsys.readouterr().err == ""


def test_file_in_upper_case_is_read(secrets: Path) -> None:
    (secrets / "APP_GREETING").write_text("Hi")
    assert load_settings(Settings).greeting == "Hi"


def test_file_of_a_nested_setting_is_read(secrets: Path) -> None:
    (secrets / "app_database__port").write_text("1234\n")
    assert load_settings(Settings).database.port == 1234


def test_wrong_value_in_a_file_names_the_file(secrets: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (secrets / "app_database__port").write_text("many")
    (line,) = rejection(capsys)
    assert line.startswith("error: APP_DATABASE__PORT='many' in secrets/app_database__port: ")
    assert line.endswith("; Port of the database")


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("app_api_kye", "secrets/app_api_kye is not a setting of this service; did you mean app_api_key?"),
        ("APP_GRETING", "secrets/APP_GRETING is not a setting of this service; did you mean app_greeting?"),
        ("app_zzzzz", "secrets/app_zzzzz is not a setting of this service"),
        ("api_key", "secrets/api_key is ignored; did you mean app_api_key?"),
    ],
)
def test_misspelt_file_is_warned_of(name: str, line: str, secrets: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (secrets / name).write_text("hunter2")
    load_settings(Settings)
    assert capsys.readouterr().err.splitlines() == [f"warning: {line}"]


def test_other_files_are_not_read(secrets: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (secrets / "tls.key").write_bytes(b"\xff")
    (secrets / "rhsm").mkdir()
    load_settings(Settings)
    assert capsys.readouterr().err == ""


def test_directory_may_be_named_in_the_env_file(
    secrets: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("APP_SECRETS_DIR")
    Path(".env").write_text("APP_SECRETS_DIR=secrets\n")
    (secrets / "app_greeting").write_text("Hi")
    assert load_settings(Settings).greeting == "Hi"
    assert capsys.readouterr().err == ""


# Empty values, and values from several places.


@pytest.mark.parametrize("name", ["APP_PORT", "APP_ADMIN_PORT", "APP_GREETING", "APP_REGIONS", "APP_DATABASE__PORT"])
def test_empty_variable_is_not_set(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "")
    assert load_settings(Settings) == Settings.from_values()


def test_empty_line_of_the_env_file_is_not_set() -> None:
    Path(".env").write_text('APP_PORT=\nAPP_ADMIN_PORT=""\nAPP_GREETING\nAPP_DATABASE__PORT=\n')
    assert load_settings(Settings) == Settings.from_values()


def test_empty_file_is_not_set(secrets: Path) -> None:
    for name in ("app_port", "app_api_key", "app_database__port"):
        (secrets / name).write_text(" \n")
    assert load_settings(Settings) == Settings.from_values()


def test_empty_variable_leaves_the_file_its_value(secrets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (secrets / "app_greeting").write_text("Hi")
    monkeypatch.setenv("APP_GREETING", "")
    assert load_settings(Settings).greeting == "Hi"


def test_empty_directory_of_secrets_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APP_SECRETS_DIR", "")
    monkeypatch.setattr("chassis.configuration.sources.DEFAULT_SECRETS_DIR", "nowhere")
    assert load_settings(Settings) == Settings.from_values()


def test_members_of_a_model_may_come_from_several_places(secrets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (secrets / "app_database__password").write_text("hunter2")
    (secrets / "app_database__port").write_text("1")
    monkeypatch.setenv("APP_DATABASE__PORT", "2")
    database = load_settings(Settings).database
    assert database.password is not None
    assert (database.port, database.password.get_secret_value()) == (2, "hunter2")


def test_upper_case_wins_over_lower_case_with_a_warning(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("APP_PORT", "1")
    monkeypatch.setenv("app_port", "2")
    assert load_settings(Settings).port == 1
    assert capsys.readouterr().err == "warning: APP_PORT and app_port are the same setting; APP_PORT is used\n"


def test_numbers_may_have_spaces_around_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APP_PORT", " 80 ")
    assert load_settings(Settings).port == 80


# The file for development.


def test_env_file_that_is_not_utf_8_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    Path(".env").write_text("APP_PORT=1\n", encoding="utf-16")
    assert rejection(capsys) == ["error: .env: not UTF-8 text; save it in UTF-8"]


def test_env_file_may_begin_with_a_byte_order_mark() -> None:
    Path(".env").write_text("APP_PORT=1\n", encoding="utf-8-sig")
    assert load_settings(Settings).port == 1


def test_env_file_that_is_a_directory_is_a_warning(capsys: pytest.CaptureFixture[str]) -> None:
    Path(".env").mkdir()
    load_settings(Settings)
    assert capsys.readouterr().err == "warning: .env is a directory, so no settings are read from it\n"


@pytest.mark.parametrize("text", ["APP_GREETING=1\nAPP_API_KEY hunter2\n", "\nAPP_API_KEY='hunter2\n"])
def test_env_file_with_a_malformed_line_is_one_line(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path(".env").write_text(text)
    (line,) = rejection(capsys)
    assert line == "error: .env, line 2: not NAME=value, or a quote is not closed"


@pytest.mark.usefixtures("_needs_permissions")
def test_env_file_without_permission_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    Path(".env").touch(0)
    assert rejection(capsys) == [
        "error: .env: cannot be read: Permission denied; allow this user to read it, or remove it"
    ]


def test_env_file_that_links_nowhere_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    Path(".env").symlink_to("nowhere")
    assert rejection(capsys) == [
        "error: .env: a symbolic link to a file that does not exist; create that file, or remove the link"
    ]


def test_wrong_value_in_the_env_file_names_it(capsys: pytest.CaptureFixture[str]) -> None:
    Path(".env").write_text("APP_PORT=http\n")
    (line,) = rejection(capsys)
    assert line.startswith("error: APP_PORT='http' in .env: ")


def test_unknown_name_in_the_env_file_is_warned_of(capsys: pytest.CaptureFixture[str]) -> None:
    Path(".env").write_text("APP_PROT=1\nOTHER=x\n")
    load_settings(Settings)
    line = "warning: APP_PROT in .env is not a setting of this service; did you mean APP_PORT?\n"
    assert capsys.readouterr().err == line
