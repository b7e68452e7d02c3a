"""What the repository says of itself."""

import re
from urllib.parse import unquote

import pytest

from bakery import TEMPLATE

RELEASE = re.compile(r"^## (\d+\.\d+\.\d+) - \d{4}-\d\d-\d\d\n", re.MULTILINE)


def test_changelog_has_this_version_and_tells_how_to_upgrade_to_each() -> None:
    version = (TEMPLATE / "chassis/src/chassis/version.py").read_text()
    _, *releases = RELEASE.split((TEMPLATE / "CHANGELOG.md").read_text())

    numbers, notes = releases[::2], releases[1::2]
    assert f'__version__ = "{numbers[0]}"' in version
    assert [number for number, note in zip(numbers, notes, strict=True) if "\n### Upgrading\n" not in note] == []


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md", "chassis/README.md"])
def test_documents_link_to_files_that_are_there(document: str) -> None:
    path = TEMPLATE / document
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", path.read_text())
    named = re.findall(r"`((?:tests|chassis|scripts|hooks|benchmarks)/[\w./-]*\w)`", path.read_text())
    assert [link for link in links if not (path.parent / unquote(link)).exists()] == []
    assert [name for name in named if not (TEMPLATE / name).exists()] == []
