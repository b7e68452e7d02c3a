"""What the repository says of itself."""

import json
import re
from urllib.parse import unquote

import pytest

from bakery import TEMPLATE

RELEASE = re.compile(r"^## (\d+\.\d+\.\d+) - \d{4}-\d\d-\d\d\n", re.MULTILINE)
# In the order in which the README tells of them.
HEADLINE = ("ours", "ours_100", "usual", "usual_100", "bare_fastapi")


def test_changelog_has_this_version_and_tells_how_to_upgrade_to_each() -> None:
    version = (TEMPLATE / "chassis/src/chassis/version.py").read_text()
    _, *releases = RELEASE.split((TEMPLATE / "CHANGELOG.md").read_text())

    numbers, notes = releases[::2], releases[1::2]
    assert f'__version__ = "{numbers[0]}"' in version
    assert [number for number, note in zip(numbers, notes, strict=True) if "\n### Upgrading\n" not in note] == []


def test_readme_has_the_figures_of_the_committed_results() -> None:
    results = json.loads((TEMPLATE / "benchmarks/results/results.json").read_text())
    readme = (TEMPLATE / "README.md").read_text()
    costs = {name: row["cpu_us"]["min"] for name, row in results["main"].items()}
    saved = {name: row["costs_us"] for name, row in results["parts"].items()}

    headline = readme.partition("What that costs:")[2].partition("\n\n")[0]
    ratios = [results["main"][name]["ratio"]["median"] for name in HEADLINE]
    told = [float(figure) for figure in re.findall(r"\b0\.\d+", headline)]
    assert told == [round(ratio, 3 if ratio < 0.1 else 2) for ratio in ratios]

    parts = [
        (f"{saved[here]:.1f}", f"{costs[peer] - costs['bare_fastapi']:.0f}")
        for here, peer in (
            ("no_line", "part_structlog"),
            ("no_metrics", "part_prometheus"),
            ("no_spans", "part_opentelemetry"),
            ("no_telemetry", "usual"),
        )
    ]
    parts.append((f"{-saved['ours_100']:.0f}", f"{costs['usual_100'] - costs['usual']:.0f}"))
    table = readme.partition("| µs of the processor")[2].partition("\n\n")[0]
    assert re.findall(r"\| ([\d.]+) \| ([\d.]+) \|$", table, re.MULTILINE) == parts


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md", "chassis/README.md"])
def test_documents_link_to_files_that_are_there(document: str) -> None:
    path = TEMPLATE / document
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", path.read_text())
    named = re.findall(r"`((?:tests|chassis|scripts|hooks|benchmarks)/[\w./-]*\w)`", path.read_text())
    assert [link for link in links if not (path.parent / unquote(link)).exists()] == []
    assert [name for name in named if not (TEMPLATE / name).exists()] == []
