"""A plugin that writes what became of each test to the file in `PEER_RESULTS`."""

import json
import os
from pathlib import Path

import pytest

results: dict[str, str] = {}


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Keep why a test failed, in whichever of its phases; tests that are skipped or expected to fail don't count."""
    test = report.nodeid.removeprefix("::")  # of a file outside of pytest's root
    if report.failed:
        lines = report.longreprtext.strip().splitlines()
        message = " ".join(line.strip() for line in lines[-8:])
        results[test] = results.get(test) or message[-400:] or "failed"
    elif report.when == "call" and report.passed:
        results.setdefault(test, "")


def pytest_sessionfinish() -> None:
    """Write the file."""
    Path(os.environ["PEER_RESULTS"]).write_text(json.dumps(results))
