"""Statements of the repository about itself."""

import re

from bakery import TEMPLATE

RELEASE = re.compile(r"^## (\d+\.\d+\.\d+) - \d{4}-\d\d-\d\d\n", re.MULTILINE)


def test_changelog_has_this_version_and_tells_how_to_upgrade_to_each() -> None:
    version = (TEMPLATE / "chassis/src/chassis/version.py").read_text()
    _, *releases = RELEASE.split((TEMPLATE / "CHANGELOG.md").read_text())

    numbers, notes = releases[::2], releases[1::2]
    assert f'__version__ = "{numbers[0]}"' in version
    assert [number for number, note in zip(numbers, notes, strict=True) if "\n### Upgrading\n" not in note] == []
