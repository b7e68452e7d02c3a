"""Writes the settings into the documents of the skeleton: `make settings`.

docs/settings.md and .env.example have all of them. The setting of the example is a section with a condition of Jinja.
README.md has the rows of those that people change most. The tests of a service compare all three with its settings.
"""

import re
import sys
from pathlib import Path

from pydantic import Field

from chassis import ChassisSettings
from chassis.settings_page import OWN, env_example, settings_page, with_present_rows

SKELETON = Path(__file__).parents[1] / "{{cookiecutter.project_slug}}"
EXAMPLE = SKELETON / "src/{{cookiecutter.__package}}/settings.py"
FIELD = re.compile(
    r'^    max_orders: int = Field\((?P<default>[\d_]+), ge=1, description="(?P<meaning>.*)"\)$', re.MULTILINE
)


def settings_of_the_example() -> type[ChassisSettings]:
    """The settings of a service with the example."""
    found = FIELD.search(EXAMPLE.read_text(encoding="utf-8"))
    if found is None:
        sys.exit(f"error: {EXAMPLE} has no line of max_orders; expected {FIELD.pattern}")
    default, meaning = int(found["default"]), found["meaning"]

    class Settings(ChassisSettings):
        max_orders: int = Field(default, ge=1, description=meaning)

    return Settings


def with_condition(text: str, mark: str) -> str:
    """A Jinja template of a document whose own section is there only with the example; `mark` begins each title."""
    before, title, rest = text.partition(f"{mark}{OWN}")
    own, _, after = rest.partition(f"\n{mark}")
    condition = '{% if cookiecutter.example == "orders" -%}'
    return f"{before}{condition}\n{title}{own}\n{{% endif -%}}\n{mark}{after}"


if __name__ == "__main__":
    settings = settings_of_the_example()
    readme = SKELETON / "README.md"
    for path, text in (
        (SKELETON / "docs/settings.md", with_condition(settings_page(settings), "## ")),
        (SKELETON / ".env.example", with_condition(env_example(settings), "# --- ")),
        (readme, with_present_rows(readme.read_text(encoding="utf-8"), ChassisSettings)),
    ):
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8", newline="\n")
