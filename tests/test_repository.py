"""What the repository says of itself."""

import json
import re

from bakery import SOURCE, TEMPLATE

RELEASE = re.compile(r"^## (\d+\.\d+\.\d+) - \d{4}-\d\d-\d\d\n", re.MULTILINE)
# In the order in which the README tells of them.
HEADLINE = ("ours", "ours_100", "usual", "usual_100", "bare_fastapi")


def test_changelog_has_this_version_and_tells_how_to_upgrade_to_each() -> None:
    version = (SOURCE / "src/{{cookiecutter.__package}}/chassis/version.py").read_text()
    _, *releases = RELEASE.split((TEMPLATE / "CHANGELOG.md").read_text())

    numbers, notes = releases[::2], releases[1::2]
    assert f'__version__ = "{numbers[0]}"' in version
    assert [number for number, note in zip(numbers, notes, strict=True) if "\n### Upgrading\n" not in note] == []


def test_readme_has_the_figures_of_the_committed_results() -> None:
    results = json.loads((TEMPLATE / "benchmarks/results/results.json").read_text())
    readme = (TEMPLATE / "README.md").read_text()

    paragraph = readme.partition("What that costs:")[2].partition("\n\n")[0]
    told = [float(figure) for figure in re.findall(r"\b0\.\d+", paragraph)]

    ratios = [results["main"][name]["ratio"]["median"] for name in HEADLINE]
    assert told == [round(ratio, 3 if ratio < 0.1 else 2) for ratio in ratios]
