"""The README says what is so."""

import re
from pathlib import Path

from {{ cookiecutter.__package }}.chassis.settings import DEFAULT_SECRETS_DIR
from {{ cookiecutter.__package }}.settings import Settings

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def shown(default: object) -> str:
    """A default as the README shows it."""
    if default in (None, "", ()):
        return ""
    return f"`{default}`"


def test_settings_table_equals_the_class() -> None:
    table = README.partition("| variable | default | meaning |\n|---|---|---|\n")[2].partition("\n\n")[0]
    expected = [
        f"| `APP_{name.upper()}` | {shown(field.default)} | {field.description} |".replace("|  |", "| |")
        for name, field in Settings.model_fields.items()
    ]
    assert table.splitlines() == expected


def test_secrets_directory_is_the_one_that_is_read() -> None:
    assert f"default `{DEFAULT_SECRETS_DIR}`" in README


def test_every_path_that_is_named_is_there() -> None:
    root = Path(__file__).parents[1]
    package = Settings.__module__.partition(".")[0]
    for name in re.findall(r"^[├└]── (\S+)", README, re.MULTILINE):
        assert (root / "src" / package / name).exists(), name
