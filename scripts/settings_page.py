"""Writes the settings into the documents of the skeleton: `make settings`.

docs/settings.md and .env.example have all of them. Settings that only some services have are sections with a condition.
README.md has the rows of those that people change most. The tests of a service compare all three with its settings.
"""

import re
import sys
from pathlib import Path

from pydantic import Field

from chassis import ChassisSettings
from chassis.auth import AuthSettings
from chassis.nats import NatsSettings
from chassis.postgres import DatabaseSettings
from chassis.settings_page import OWN, env_example, settings_page, with_present_rows

SKELETON = Path(__file__).parents[1] / "{{cookiecutter.project_slug}}"
EXAMPLE = SKELETON / "src/{{cookiecutter.__package}}/settings.py"
FIELD = re.compile(
    r'^    max_orders: int = Field\((?P<default>[\d_]+), ge=1, description="(?P<meaning>.*)"\)$', re.MULTILINE
)


# The section of each topic that some services have, and its condition.
CONDITIONS = {
    OWN: 'cookiecutter.example == "orders" and cookiecutter.database == "none"',
    "Authentication": 'cookiecutter.auth == "jwt"',
    "Database": 'cookiecutter.database != "none"',
    "Events": 'cookiecutter.events == "nats"',
}


def all_settings() -> type[ChassisSettings]:
    """The settings of a service with all parts."""
    found = FIELD.search(EXAMPLE.read_text(encoding="utf-8"))
    if found is None:
        sys.exit(f"error: {EXAMPLE} has no line of max_orders; expected {FIELD.pattern}")
    default, meaning = int(found["default"]), found["meaning"]

    class Settings(ChassisSettings, AuthSettings, DatabaseSettings, NatsSettings):
        max_orders: int = Field(default, ge=1, description=meaning)

    return Settings


def with_conditions(text: str, mark: str) -> str:
    """A Jinja template of a document whose sections have conditions; `mark` begins each title."""
    for topic, condition in CONDITIONS.items():
        before, title, rest = text.partition(f"{mark}{topic}")
        own, _, after = rest.partition(f"\n{mark}")
        text = f"{before}{{% if {condition} -%}}\n{title}{own}\n{{% endif -%}}\n{mark}{after}"
    return text


if __name__ == "__main__":
    settings = all_settings()
    readme = SKELETON / "README.md"
    for path, text in (
        (SKELETON / "docs/settings.md", with_conditions(settings_page(settings), "## ")),
        (SKELETON / ".env.example", with_conditions(env_example(settings), "# --- ")),
        (readme, with_present_rows(readme.read_text(encoding="utf-8"), settings)),
    ):
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8", newline="\n")
