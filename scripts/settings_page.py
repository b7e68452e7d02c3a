"""Writes the settings into the documents of the skeleton: `make settings`.

docs/settings.md has all of them. The setting of the example is a section with a condition of Jinja. README.md has the
rows of those that people change most. The tests of a service compare both with its settings.
"""

import re
import sys
from pathlib import Path

from pydantic import Field

from chassis import ChassisSettings
from chassis.settings_page import OWN, settings_page, with_present_rows

SKELETON = Path(__file__).parents[1] / "{{cookiecutter.project_slug}}"
EXAMPLE = SKELETON / "src/{{cookiecutter.__package}}/settings.py"
FIELD = re.compile(
    r'^    max_orders: int = Field\((?P<default>[\d_]+), ge=1, description="(?P<meaning>.*)"\)$', re.MULTILINE
)


def page() -> str:
    """The page of all settings, as a Jinja template."""
    found = FIELD.search(EXAMPLE.read_text(encoding="utf-8"))
    if found is None:
        sys.exit(f"error: {EXAMPLE} has no line of max_orders; expected {FIELD.pattern}")
    default, meaning = int(found["default"]), found["meaning"]

    class Settings(ChassisSettings):
        max_orders: int = Field(default, ge=1, description=meaning)

    before, title, rest = settings_page(Settings).partition(f"## {OWN}\n")
    own, _, after = rest.partition("\n## ")
    condition = '{% if cookiecutter.example == "orders" -%}'
    return f"{before}{condition}\n{title}{own}\n{{% endif -%}}\n## {after}"


if __name__ == "__main__":
    path = SKELETON / "docs/settings.md"
    path.parent.mkdir(exist_ok=True)
    path.write_text(page(), encoding="utf-8", newline="\n")
    readme = SKELETON / "README.md"
    readme.write_text(
        with_present_rows(readme.read_text(encoding="utf-8"), ChassisSettings), encoding="utf-8", newline="\n"
    )
