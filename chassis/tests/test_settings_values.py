"""Values of settings that are more than a word: lists, objects, models; and what is said when one is wrong."""

import re
from collections import deque
from collections.abc import Sequence
from enum import StrEnum
from ipaddress import IPv4Network
from pathlib import Path
from typing import Annotated, Any

import pytest
from pydantic import AliasChoices, BaseModel, Field, Json, PostgresDsn, SecretStr, field_validator, model_validator
from pydantic_settings import NoDecode

from chassis import ChassisSettings, load_settings
from chassis.settings import settings_table
from chassis.settings_page import TOPICS, env_example, main, settings_page


class Color(StrEnum):
    """A choice."""

    RED = "red"
    BLUE = "blue"


class Pool(BaseModel):
    """A model inside of a model."""

    size: int = Field(5, ge=1, description="Connections of the pool.")


class Database(BaseModel):
    """A model inside of the settings."""

    host: str = Field(description="Host of the database.")
    port: int = Field(5432, description="Port of the database.")
    password: SecretStr = Field(SecretStr("none"), description="Password of the database.")
    tags: list[str] = Field([], description="Tags of the database.")
    pool: Pool = Field(Pool.model_validate({}), description="The pool.")


class Settings(ChassisSettings):
    """Has a model that needs a value, one that does not, and a `dict`."""

    database: Database = Field(description="The database.")
    replica: Database | None = Field(None, description="A replica of the database.")
    labels: dict[str, str] = Field({}, description="Labels by name.")


@pytest.fixture(autouse=True)
def _empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No `.env`."""
    monkeypatch.chdir(tmp_path)


def rejection(kind: type[ChassisSettings], capsys: pytest.CaptureFixture[str]) -> list[str]:
    """The lines with which the start is rejected."""
    with pytest.raises(SystemExit) as caught:
        load_settings(kind)
    assert caught.value.code == 2
    return capsys.readouterr().err.splitlines()


# Lists.


@pytest.mark.parametrize(
    ("annotation", "text", "value"),
    [
        (list[str], "a, b,,", ["a", "b"]),
        (list[str], "a", ["a"]),
        (list[str], '["a,b"]', ["a,b"]),
        (list[str], "[]", []),
        (list[int], "1, 2", [1, 2]),
        (list[int], "3", [3]),
        (set[str], "a,b,a", {"a", "b"}),
        (frozenset[int], "1,2", frozenset({1, 2})),
        (tuple[str, ...], "a,b", ("a", "b")),
        (tuple[str, int], "a,1", ("a", 1)),
        (Sequence[str], "a,b", ["a", "b"]),
        (deque[str], "a,b", deque(["a", "b"])),
        (list[IPv4Network], "10.0.0.0/8,192.168.0.0/16", [IPv4Network("10.0.0.0/8"), IPv4Network("192.168.0.0/16")]),
        (list[Color], "red,blue", [Color.RED, Color.BLUE]),
        (list[str] | None, "a,b", ["a", "b"]),
        (Annotated[list[str], Field(min_length=2)], "a,b", ["a", "b"]),
        (list[list[int]], "[[1],[2]]", [[1], [2]]),
        (dict[str, int], '{"a": 1}', {"a": 1}),
        (list[str] | str, "a,b", "a,b"),
        (list[int] | int, "1", 1),
        (list[int] | int, "1,2", [1, 2]),
        (Annotated[str, NoDecode], "a,b", "a,b"),
        (Json[list[int]], "[1]", [1]),
    ],
)
def test_lists_are_separated_by_commas_or_are_json(
    annotation: Any, text: str, value: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Listing(ChassisSettings):
        names: annotation

    monkeypatch.setenv("APP_NAMES", text)
    assert load_settings(Listing).names == value
    assert Listing.from_values(names=text).names == value


def test_list_inside_of_a_model_is_separated_by_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APP_DATABASE__HOST", "db")
    monkeypatch.setenv("APP_DATABASE__TAGS", "a, b")
    assert load_settings(Settings).database.tags == ["a", "b"]


def test_wrong_item_of_a_list_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    class Listing(ChassisSettings):
        ports: list[int] = Field([], description="Ports.")

    monkeypatch.setenv("APP_PORTS", "1,two")
    (line,) = rejection(Listing, capsys)
    assert line.startswith("error: APP_PORTS='1,two': 1: Input should be a valid integer")
    assert line.endswith("; Ports")


def test_broken_json_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("APP_DATABASE__HOST", "db")
    monkeypatch.setenv("APP_LABELS", "team=a")
    assert rejection(Settings, capsys) == ["error: APP_LABELS='team=a': not JSON; Labels by name"]


def test_deep_json_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("APP_DATABASE__HOST", "db")
    monkeypatch.setenv("APP_LABELS", "[" * 100_000)
    (line,) = rejection(Settings, capsys)
    assert len(line) < 300


# Models.


def test_members_of_models_are_settings_without_a_warning(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("APP_DATABASE__HOST", "db")
    monkeypatch.setenv("APP_DATABASE__PORT", "1")
    monkeypatch.setenv("app_database__pool__size", "7")
    monkeypatch.setenv("APP_REPLICA__HOST", "db2")
    monkeypatch.setenv("APP_LABELS__TEAM", "a")
    settings = load_settings(Settings)
    assert (settings.database.host, settings.database.port, settings.database.pool.size) == ("db", 1, 7)
    assert settings.replica is not None
    assert settings.replica.host == "db2"
    assert settings.labels == {"team": "a"}
    assert capsys.readouterr().err == ""


def test_default_of_a_model_holds_for_the_members_that_are_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    class Defaults(ChassisSettings):
        database: Database = Database.model_validate({"host": "db", "port": 1})

    monkeypatch.setenv("APP_DATABASE__TAGS", "a")
    database = load_settings(Defaults).database
    assert (database.host, database.port, database.tags) == ("db", 1, ["a"])


@pytest.mark.parametrize(
    ("name", "close"),
    [
        ("APP_DATABASE__PROT", "APP_DATABASE__PORT"),
        ("APP_DATABASE_PORT", "APP_DATABASE__PORT"),
        ("APP_PORT__X", "APP_PORT"),
    ],
)
def test_unknown_member_is_warned_of(
    name: str, close: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("APP_DATABASE__HOST", "db")
    monkeypatch.setenv(name, "1")
    load_settings(Settings)
    assert capsys.readouterr().err == f"warning: {name} is not a setting of this service; did you mean {close}?\n"


def test_wrong_member_is_reported_under_its_own_name(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("APP_DATABASE__HOST", "db")
    monkeypatch.setenv("APP_DATABASE__PORT", "many")
    monkeypatch.setenv("APP_DATABASE__POOL__SIZE", "0")
    first, second = rejection(Settings, capsys)
    assert first.startswith("error: APP_DATABASE__PORT='many': Input should be a valid integer")
    assert first.endswith("; Port of the database")
    assert second.startswith("error: APP_DATABASE__POOL__SIZE='0': Input should be greater than or equal to 1")


def test_wrong_member_of_an_object_in_json_names_the_member_and_hides_the_others(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("APP_DATABASE", '{"host": "db", "port": "many", "password": "hunter2"}')
    (line,) = rejection(Settings, capsys)
    assert line.startswith("error: APP_DATABASE=[secret]: port: Input should be a valid integer")
    assert "hunter2" not in line


def test_missing_member_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert rejection(Settings, capsys) == ["error: APP_DATABASE__HOST is not set: Host of the database"]


def test_missing_member_beside_others_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("APP_DATABASE__PORT", "1")
    assert rejection(Settings, capsys) == ["error: APP_DATABASE__HOST is not set: Host of the database"]


def test_names_of_their_own_are_known_and_reported(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Aliased(ChassisSettings):
        url: int = Field(validation_alias="DATABASE_URL", description="Where the database is.")
        key: int = Field(validation_alias=AliasChoices("APP_KEY", "OLD_KEY"), description="The key.")

    monkeypatch.setenv("APP_KEY", "x")
    first, second = rejection(Aliased, capsys)
    assert first == "error: DATABASE_URL is not set: Where the database is"
    assert second.startswith("error: APP_KEY='x': ")


# Validators, unions, secrets.


def test_validator_of_the_class_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Ordered(ChassisSettings):
        @model_validator(mode="after")
        def _in_order(self) -> "Ordered":
            raise ValueError("low must be\nless than high")

    assert rejection(Ordered, capsys) == ["error: Value error, low must be less than high"]


def test_union_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    class Either(ChassisSettings):
        size: int | bool = Field(1, description="A size.")

    monkeypatch.setenv("APP_SIZE", "big")
    (line,) = rejection(Either, capsys)
    assert " or " in line


@pytest.mark.parametrize(
    ("name", "annotation", "text"),
    [
        ("password", int, "hunter2"),
        ("supplier_api_key", int, "hunter2"),
        ("url", PostgresDsn, "postgresql://ada:hunter2@db:port/x"),
    ],
)
def test_secret_of_a_plain_type_is_not_shown(
    name: str, annotation: Any, text: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kind = type("Plain", (ChassisSettings,), {"__annotations__": {name: annotation}, "__module__": __name__})
    monkeypatch.setenv(f"APP_{name}", text)
    (line,) = rejection(kind, capsys)
    assert "hunter2" not in line


def test_secret_that_a_validator_repeats_is_not_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Talkative(ChassisSettings):
        key: SecretStr

        @field_validator("key", mode="before")
        @classmethod
        def _reject(cls, value: str) -> str:
            raise ValueError(f"{value} is too short")

    monkeypatch.setenv("APP_KEY", "hunter2")
    (line,) = rejection(Talkative, capsys)
    assert "hunter2" not in line


def test_secret_is_not_in_the_exception_of_from_values() -> None:
    class Strict(ChassisSettings):
        key: SecretStr = Field(min_length=20)

    with pytest.raises(ValueError, match="key") as caught:
        Strict.from_values(key="hunter2")
    assert "hunter2" not in str(caught.value)


# The table of the README.


def test_table_shows_nested_settings_and_those_without_a_default() -> None:
    class Documented(Settings):
        url: str = Field(description="Where\nthings are.")
        key: SecretStr = Field(SecretStr("hunter2"), description="A key.")
        regions: list[str] = Field(["a", "b"], description="Regions.")
        color: Color = Field(Color.RED, description="A color.")
        debug: bool = Field(False, description="Debugging.")

    own = [row for row in settings_table(Documented) if row not in settings_table(ChassisSettings)]
    assert own == [
        "| `APP_DATABASE__HOST` | required | Host of the database. |",
        "| `APP_DATABASE__PORT` | `5432` | Port of the database. |",
        "| `APP_DATABASE__PASSWORD` | | Password of the database. |",
        "| `APP_DATABASE__TAGS` | | Tags of the database. |",
        "| `APP_DATABASE__POOL__SIZE` | `5` | Connections of the pool. |",
        "| `APP_REPLICA__HOST` | | Host of the database. |",
        "| `APP_REPLICA__PORT` | `5432` | Port of the database. |",
        "| `APP_REPLICA__PASSWORD` | | Password of the database. |",
        "| `APP_REPLICA__TAGS` | | Tags of the database. |",
        "| `APP_REPLICA__POOL__SIZE` | `5` | Connections of the pool. |",
        "| `APP_LABELS` | | Labels by name. |",
        "| `APP_URL` | required | Where things are. |",
        "| `APP_KEY` | | A key. |",
        "| `APP_REGIONS` | `a,b` | Regions. |",
        "| `APP_COLOR` | `red` | A color. |",
        "| `APP_DEBUG` | `false` | Debugging. |",
    ]


def test_every_setting_of_the_chassis_has_one_topic() -> None:
    topics = [name for names in TOPICS.values() for name in names]
    assert sorted(topics) == sorted(ChassisSettings.model_fields)


def test_page_begins_with_the_settings_of_the_service_and_links_to_opentelemetry() -> None:
    class Documented(ChassisSettings):
        port: int = Field(9000, description="The port.")
        color: Color = Field(Color.RED, description="A color.")

    page = settings_page(Documented)
    own, _, chassis = page.partition("\n## Ports and addresses\n")
    assert "\n## This service\n" in own
    assert "| `APP_COLOR` | `red` | A color. |" in own
    assert "| `APP_PORT` | `9000` | The port. |" in chassis
    assert "OTEL_EXPORTER_OTLP_ENDPOINT" in chassis


def test_example_of_an_env_file_has_defaults_but_no_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Documented(ChassisSettings):
        url: str = Field(description="Where things are.")
        greeting: str = Field('Say "hi" # $HOME \\ \n', description="A text\nin two lines.")
        api_key: SecretStr = Field(SecretStr("hidden"), description="A key.")
        replica: Pool = Pool(size=7)

    example = env_example(Documented)

    lines = example.splitlines()
    assert lines[lines.index("# Where things are.") + 1] == "APP_URL="
    assert lines[lines.index("# A key.") + 1] == "#APP_API_KEY="
    assert "hidden" not in example
    assert "#APP_REPLICA__SIZE=7" in lines
    monkeypatch.chdir(tmp_path)
    Path(".env").write_text(re.sub("^#(?=APP_)", "", example, flags=re.MULTILINE).replace("APP_URL=", "APP_URL=x"))
    assert load_settings(Documented).greeting == Documented.model_fields["greeting"].default


def test_example_of_an_env_file_is_written_beside_the_page(tmp_path: Path) -> None:
    main(["chassis.settings:ChassisSettings", str(tmp_path / "page.md"), str(tmp_path / ".env.example")])

    assert (tmp_path / ".env.example").read_text(encoding="utf-8") == env_example(ChassisSettings)


def test_rows_of_another_document_are_replaced(tmp_path: Path) -> None:
    page, readme = tmp_path / "docs/settings.md", tmp_path / "README.md"
    readme.write_text("| `APP_PORT` | `1` | Old. |\n| `APP_NONE` | | Unknown. |\n", encoding="utf-8")
    main(["chassis.settings:ChassisSettings", str(page), str(readme)])

    assert page.read_text(encoding="utf-8") == settings_page(ChassisSettings)
    (port,) = (row for row in settings_table(ChassisSettings) if row.startswith("| `APP_PORT` |"))
    assert readme.read_text(encoding="utf-8") == f"{port}\n| `APP_NONE` | | Unknown. |\n"


def test_wrong_arguments_of_the_page_are_an_error() -> None:
    with pytest.raises(SystemExit, match="expected arguments"):
        main(["chassis.settings"])


def test_settings_with_conflict_markers_are_an_error_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "conflicted.py").write_text("<<<<<<< ours\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(
        SystemExit, match=r"conflicted\.py, line 1: invalid syntax; correct it, then run: make settings"
    ):
        main(["conflicted:Settings", str(tmp_path / "settings.md")])
