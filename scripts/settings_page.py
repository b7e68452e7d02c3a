"""Writes docs/settings.md of the skeleton from the settings of the chassis: `make settings`.

The settings of the example are a section with a condition of Jinja. The tests of a service compare its page with
its settings.
"""

import re
import sys
from pathlib import Path

from pydantic import Field

from chassis import ChassisSettings
from chassis.settings_page import OWN, settings_page

SKELETON = Path(__file__).parents[1] / "{{cookiecutter.project_slug}}"
EXAMPLE = SKELETON / "src/{{cookiecutter.__package}}/settings.py"
FIELD = re.compile(
    r'^    max_orders: int = Field\((?P<default>[\d_]+), ge=1, description="(?P<meaning>.*)"\)$', re.MULTILINE
)


def page() -> str:
    """The page as a Jinja template."""
    found = FIELD.search(EXAMPLE.read_text(encoding="utf-8"))
    if found is None:
        sys.exit(f"error: {EXAMPLE} has no line that matches {FIELD.pattern}; update the pattern in this script")

    class Settings(ChassisSettings):
        max_orders: int = Field(int(found["default"]), ge=1, description=found["meaning"])

    before, title, rest = settings_page(Settings).partition(f"## {OWN}\n")
    own, _, after = rest.partition("\n## ")
    condition = '{% if cookiecutter.example == "orders" -%}'
    return f"{before}{condition}\n{title}{own}\n{{% endif -%}}\n## {after}"


if __name__ == "__main__":
    path = SKELETON / "docs/settings.md"
    path.parent.mkdir(exist_ok=True)
    path.write_text(page(), encoding="utf-8", newline="\n")
