"""Secret files that change while the service runs: read again, applied at once or with a restart, never shown."""

import asyncio
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, Field, SecretStr, field_validator

from chassis import App, ChassisSettings, Live, load_settings
from chassis.configuration import changed_files, sources
from chassis.configuration.reloading import Reloading
from chassis.configuration.sources import given_for
from chassis.testing import Records, record

from .support.secret_volume import SecretVolume


class Supplier(BaseModel):
    """Another service."""

    host: str = Field("localhost", description="Host of the supplier.")
    key: Live[SecretStr | None] = Field(None, description="Key for the supplier.")


class Stock(BaseModel):
    """Limits of the stock."""

    least: int = Field(1, description="Least number in stock.")


class Settings(ChassisSettings):
    """Settings of a service."""

    greeting: Live[str] = Field("Hello", max_length=20, description="The first word.")
    region: str = Field("north", description="Name of the region.")
    api_key: SecretStr | None = Field(None, description="Key of the supplier.")
    pin: Live[SecretStr | None] = Field(None, description="Number of the door.")
    supplier: Supplier = Supplier.model_validate({})
    stock: Live[Stock] = Field(Stock.model_validate({}), description="The stock.")

    @field_validator("pin")
    @classmethod
    def _digits(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not value.get_secret_value().isdigit():
            raise ValueError(f"{value.get_secret_value()} is not a number")
        return value


@pytest.fixture(autouse=True)
def secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty directory of secrets; the working directory is above it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("APP_SECRETS_DIR", "secrets")
    monkeypatch.setattr(changed_files, "SETTLE_SECONDS", 0.0)
    directory = tmp_path / "secrets"
    directory.mkdir()
    return directory


class Service:
    """The settings of a service that runs, without the service."""

    def __init__(self, records: Records, settings: Settings) -> None:
        self.records = records
        self.settings = settings
        self.changes: list[tuple[Settings, Settings]] = []
        self.reloading = Reloading(settings, Settings.from_given, self._changed)

    async def _changed(self, before: Settings, after: Settings) -> None:
        self.changes.append((before, after))
        self.settings = after

    async def refresh(self) -> None:
        await self.reloading.refresh()

    def lines(self, event: str, name: str) -> list[Any]:
        return [line[name] for line in self.records.events(event)]

    @property
    def errors(self) -> list[str]:
        return self.lines("setting not applied; its last value stays in use", "reason")

    @property
    def restarts(self) -> list[str]:
        return self.lines("setting changed; restart the service to apply it", "variable")

    @property
    def ignored(self) -> list[str]:
        return self.lines("setting ignored", "reason")


@pytest.fixture
def log() -> Iterator[Records]:
    with record(App(Settings.from_values(log_format="json"))) as records:
        yield records


def write(secrets: Path, **files: str) -> None:
    for name, text in files.items():
        (secrets / name).write_text(text)


def move(source: Path, target: Path) -> None:
    source.rename(target)


# Which changes are noticed.


async def test_changed_file_is_applied(secrets: Path, log: Records) -> None:
    write(secrets, app_greeting="Hello")
    service = Service(log, load_settings(Settings))
    write(secrets, app_greeting="Good morning\n")
    await service.refresh()
    ((before, after),) = service.changes
    assert (before.greeting, after.greeting) == ("Hello", "Good morning")
    assert service.lines("settings changed", "variables") == [["APP_GREETING"]]


async def test_files_that_have_not_changed_are_not_read(
    secrets: Path, log: Records, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(secrets, app_greeting="Hi")
    service = Service(log, load_settings(Settings))
    monkeypatch.setattr(sources, "_read_text", None)
    await service.refresh()
    assert service.changes == []


async def test_new_file_and_removed_file_are_applied(secrets: Path, log: Records) -> None:
    service = Service(log, load_settings(Settings))
    write(secrets, app_greeting="Hi")
    await service.refresh()
    assert service.settings.greeting == "Hi"
    (secrets / "app_greeting").unlink()
    await service.refresh()
    assert service.settings.greeting == "Hello"


async def test_file_that_is_replaced_with_its_old_time_and_size_is_noticed(secrets: Path, log: Records) -> None:
    write(secrets, app_greeting="one")
    service = Service(log, load_settings(Settings))
    status = (secrets / "app_greeting").stat()
    write(secrets, app_greeting="two")
    os.utime(secrets / "app_greeting", ns=(status.st_atime_ns, status.st_mtime_ns))
    await service.refresh()
    assert service.settings.greeting == "two"


async def test_file_that_is_still_written_is_not_applied(
    secrets: Path, log: Records, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(changed_files, "SETTLE_SECONDS", 0.05)
    write(secrets, app_greeting="Hello")
    service = Service(log, load_settings(Settings))
    service.reloading = Reloading(service.settings, Settings.from_given, service._changed)
    write(secrets, app_greeting="")
    refreshing = asyncio.create_task(service.refresh())
    await asyncio.sleep(0.02)
    write(secrets, app_greeting="Hi")
    await refreshing
    assert [after.greeting for _, after in service.changes] == ["Hi"]


async def test_file_that_changes_while_others_are_read_is_read_again(
    secrets: Path, log: Records, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = Service(log, load_settings(Settings))
    write(secrets, app_greeting="two", app_pin="2")
    read_text = sources._read_text
    later = iter([{"app_greeting": "three", "app_pin": "3"}])

    def read(path: Path, shown: Path, *, must_be_regular: bool = False) -> str:
        text = read_text(path, shown, must_be_regular=must_be_regular)
        for files in later:
            write(secrets, **files)
        return text

    monkeypatch.setattr(sources, "_read_text", read)
    for _ in range(2):
        await service.refresh()
    assert [(after.greeting, after.pin) for _, after in service.changes] == [("three", SecretStr("3"))]


async def test_change_between_start_and_first_look_is_noticed(secrets: Path, log: Records) -> None:
    write(secrets, app_greeting="Hello")
    settings = load_settings(Settings)
    write(secrets, app_greeting="Hi")
    service = Service(log, settings)
    await service.refresh()
    assert service.settings.greeting == "Hi"


async def test_files_are_read_in_another_thread(secrets: Path, log: Records) -> None:
    settings = load_settings(Settings)
    threads: list[threading.Thread] = []

    def make(given: Any) -> Settings:
        threads.append(threading.current_thread())
        return Settings.from_given(given)

    service = Service(log, settings)
    service.reloading = Reloading(settings, make, service._changed)
    write(secrets, app_greeting="Hi")
    await service.refresh()
    assert service.settings.greeting == "Hi"
    assert threading.main_thread() not in threads


# A volume of Kubernetes.


async def test_swapped_volume_is_one_change(secrets: Path, log: Records) -> None:
    volume = SecretVolume(secrets, app_greeting="one", app_pin="1")
    service = Service(log, load_settings(Settings))
    volume.write(app_greeting="two", app_pin="2", app_supplier__key="new")
    await service.refresh()
    ((_, after),) = service.changes
    assert (after.greeting, after.pin, after.supplier.key) == ("two", SecretStr("2"), SecretStr("new"))


async def test_volume_between_the_swap_and_its_new_links_is_complete(secrets: Path, log: Records) -> None:
    volume = SecretVolume(secrets, app_greeting="one")
    service = Service(log, load_settings(Settings))
    volume.swap(volume.prepare(app_pin="2"))  # the link of `app_greeting` leads nowhere, and `app_pin` has none
    await service.refresh()
    assert (service.settings.greeting, service.settings.pin) == ("Hello", SecretStr("2"))
    assert service.errors == []


@pytest.mark.parametrize("removes_old", [False, True])
async def test_generations_are_never_mixed(
    removes_old: bool, secrets: Path, log: Records, monkeypatch: pytest.MonkeyPatch
) -> None:
    volume = SecretVolume(secrets, app_greeting="one", app_pin="1")
    service = Service(log, load_settings(Settings))
    volume.write(app_greeting="two", app_pin="2")
    read_text = sources._read_text
    swapped = False

    def read(path: Path, shown: Path, *, must_be_regular: bool = False) -> str:
        nonlocal swapped
        text = read_text(path, shown, must_be_regular=must_be_regular)
        if not swapped:
            swapped = True
            folder = volume.prepare(app_greeting="three", app_pin="3")
            volume.swap(folder)
            if removes_old:
                volume.clean_up(folder)
        return text

    monkeypatch.setattr(sources, "_read_text", read)
    for _ in range(2):
        await service.refresh()
    assert (service.settings.greeting, service.settings.pin) == ("three", SecretStr("3"))
    pairs = {(after.greeting, after.pin) for _, after in service.changes}
    assert pairs <= {("two", SecretStr("2")), ("three", SecretStr("3"))}
    assert service.errors == []


def test_start_reads_one_generation(secrets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    volume = SecretVolume(secrets, app_greeting="one", app_pin="1")
    read_text = sources._read_text
    generations = iter([{"app_greeting": "two", "app_pin": "2"}])

    def read(path: Path, shown: Path, *, must_be_regular: bool = False) -> str:
        text = read_text(path, shown, must_be_regular=must_be_regular)
        for files in generations:
            volume.write(**files)
        return text

    monkeypatch.setattr(sources, "_read_text", read)
    settings = load_settings(Settings)
    assert (settings.greeting, settings.pin) == ("two", SecretStr("2"))


# Values that are wrong.


async def test_wrong_value_is_one_line_and_the_last_value_stays(secrets: Path, log: Records) -> None:
    write(secrets, app_greeting="Hi")
    service = Service(log, load_settings(Settings))
    write(secrets, app_greeting="x" * 21, app_pin="7")
    await service.refresh()
    (line,) = service.errors
    assert line.startswith(f"APP_GREETING='{'x' * 21}' in secrets/app_greeting: ")
    assert (service.settings.greeting, service.settings.pin) == ("Hi", SecretStr("7"))
    # It is not repeated when another file changes.
    write(secrets, app_pin="8")
    await service.refresh()
    assert len(service.errors) == 1
    assert (service.settings.greeting, service.settings.pin) == ("Hi", SecretStr("8"))
    write(secrets, app_greeting="Hello again")
    await service.refresh()
    assert service.settings.greeting == "Hello again"


async def test_another_wrong_value_is_another_line(secrets: Path, log: Records) -> None:
    service = Service(log, load_settings(Settings))
    for text in ("one", "two"):
        write(secrets, app_pin=text)
        await service.refresh()
    assert len(service.errors) == 2


async def test_removed_file_of_a_required_setting_is_one_line(secrets: Path, log: Records) -> None:
    class Required(Settings):
        token: SecretStr = Field(description="Token of the supplier.")

    (secrets / "app_token").write_text("first")
    service = Service(log, load_settings(Required))
    service.reloading = Reloading(service.settings, Required.from_given, service._changed)
    (secrets / "app_token").unlink()
    write(secrets, app_greeting="Hi")
    await service.refresh()
    assert service.errors == ["APP_TOKEN is not set: Token of the supplier"]
    assert service.settings.greeting == "Hi"


async def test_unreadable_file_is_one_line_and_nothing_changes(secrets: Path, log: Records) -> None:
    write(secrets, app_greeting="Hi")
    service = Service(log, load_settings(Settings))
    write(secrets, app_greeting="Hey")
    (secrets / "app_pin").write_bytes(b"hunter2\xff")
    for _ in range(2):
        await service.refresh()
    assert service.errors == ["secrets/app_pin: not UTF-8 text; save it in UTF-8"]
    assert service.settings.greeting == "Hi"
    write(secrets, app_pin="7")
    await service.refresh()
    assert service.settings.greeting == "Hey"


async def test_missing_directory_is_one_line_and_nothing_changes(secrets: Path, log: Records) -> None:
    write(secrets, app_greeting="Hi")
    service = Service(log, load_settings(Settings))
    away = secrets.with_name("away")
    move(secrets, away)
    for _ in range(2):
        await service.refresh()
    (line,) = service.errors
    assert line.startswith("APP_SECRETS_DIR='secrets': not a directory; ")
    assert service.settings.greeting == "Hi"
    write(away, app_greeting="Hey")
    move(away, secrets)
    await service.refresh()
    assert service.settings.greeting == "Hey"


async def test_exception_of_a_validator_is_one_line(secrets: Path, log: Records) -> None:
    class Odd(Settings):
        @field_validator("greeting")
        @classmethod
        def _fails(cls, value: str) -> str:
            if value == "hunter2":
                raise RuntimeError(value)
            return value

    service = Service(log, load_settings(Odd))
    service.reloading = Reloading(service.settings, Odd.from_given, service._changed)
    write(secrets, app_greeting="hunter2")
    await service.refresh()
    assert service.errors == ["RuntimeError while the settings were checked"]
    assert service.changes == []


async def test_change_applies_when_the_reason_of_its_rejection_is_gone(secrets: Path, log: Records) -> None:
    class WithFile(Settings):
        keys_file: Path | None = None

        @field_validator("keys_file")
        @classmethod
        def _exists(cls, value: Path | None) -> Path | None:
            if value is not None and not value.exists():
                raise ValueError("no such file")
            return value

    keys = secrets.with_name("keys")
    keys.touch()
    write(secrets, app_keys_file=str(keys))
    service = Service(log, load_settings(WithFile))
    service.reloading = Reloading(service.settings, WithFile.from_given, service._changed)
    keys.unlink()
    write(secrets, app_greeting="Hi")
    for _ in range(2):
        await service.refresh()
    assert len(service.errors) == 1
    assert service.settings.greeting == "Hello"
    keys.touch()
    await service.refresh()
    assert service.settings.greeting == "Hi"


async def test_no_value_of_a_secret_is_logged(secrets: Path, log: Records) -> None:
    service = Service(log, load_settings(Settings))
    for text in ("hunter2", "4711", "hunter3", "hunter4\0"):
        write(secrets, app_pin=text, app_api_key=text, app_supplier__key=text, app_stock__least=text)
        await service.refresh()
    write(secrets, app_pin="hunter5", app_api_key="hunter5", app_supplier__key="hunter5", app_stock__least="1")
    await service.refresh()
    pins = [line for line in service.errors if line.startswith("APP_PIN")]
    assert len(pins) == 3
    assert "hunter" not in "".join(pins)
    assert service.restarts
    shown = "".join(str(line) for line in log.lines if "APP_STOCK" not in str(line))
    assert "hunter" not in shown
    assert "4711" not in shown


# Settings that need a restart, and files without effect.


async def test_setting_that_is_not_live_is_a_warning_once_for_each_value(secrets: Path, log: Records) -> None:
    service = Service(log, load_settings(Settings))
    write(secrets, app_region="south", app_api_key="new", app_supplier__host="supplier")
    await service.refresh()
    assert service.restarts == ["APP_REGION", "APP_API_KEY", "APP_SUPPLIER__HOST"]
    assert service.changes == []
    write(secrets, app_greeting="Hi")
    await service.refresh()
    assert len(service.restarts) == 3
    ((_, after),) = service.changes
    assert (after.region, after.api_key, after.greeting) == ("north", None, "Hi")
    write(secrets, app_region="west")
    await service.refresh()
    assert service.restarts[3:] == ["APP_REGION"]
    assert {line["level"] for line in log.events("setting changed; restart the service to apply it")} == {"warning"}


async def test_members_of_a_live_model_are_live(secrets: Path, log: Records) -> None:
    service = Service(log, load_settings(Settings))
    write(secrets, app_stock__least="5")
    await service.refresh()
    assert service.settings.stock.least == 5
    assert service.lines("settings changed", "variables") == [["APP_STOCK__LEAST"]]


async def test_models_without_a_change_stay_the_same_objects(secrets: Path, log: Records) -> None:
    service = Service(log, load_settings(Settings))
    write(secrets, app_supplier__key="new", app_supplier__host="supplier")
    await service.refresh()
    ((before, after),) = service.changes
    assert after.stock is before.stock
    assert (after.supplier.host, after.supplier.key) == ("localhost", SecretStr("new"))


async def test_environment_has_priority_and_the_file_is_a_warning(
    secrets: Path, log: Records, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("APP_GREETING", "Hello")
    service = Service(log, load_settings(Settings))
    write(secrets, app_greeting="Hi")
    await service.refresh()
    assert service.changes == []
    assert service.ignored == [
        "secrets/app_greeting has changed, but APP_GREETING in the environment has priority; remove it there"
    ]


async def test_environment_and_env_file_are_not_read_again(
    secrets: Path, log: Records, monkeypatch: pytest.MonkeyPatch
) -> None:
    env_file = secrets.with_name(".env")
    env_file.write_text("APP_GREETING=Hello\n")
    service = Service(log, load_settings(Settings))
    env_file.write_text("APP_GREETING=Hi\n")
    monkeypatch.setenv("APP_REGION", "south")
    write(secrets, app_pin="1")
    await service.refresh()
    assert service.settings.greeting == "Hello"
    assert service.restarts == []


async def test_misspelt_new_file_is_a_warning_once(secrets: Path, log: Records) -> None:
    service = Service(log, load_settings(Settings))
    write(secrets, app_greting="Hi")
    await service.refresh()
    write(secrets, app_pin="1")
    await service.refresh()
    assert service.ignored == [
        "secrets/app_greting is not a setting of this service; did you mean app_greeting?",
    ]


async def test_changed_settings_know_where_they_are_from(secrets: Path, log: Records) -> None:
    service = Service(log, load_settings(Settings))
    write(secrets, app_greeting="Hi", app_region="south")
    await service.refresh()
    assert given_for(service.settings).find(["APP_REGION"]) is None
    variable = given_for(service.settings).find(["APP_GREETING"])
    assert variable is not None
    assert variable.place == "secrets/app_greeting"
    assert "Hi" not in repr(variable)
