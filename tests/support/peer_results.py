"""A plugin that leaves out the tests in `PEER_NOT_RUN`, and writes what became of the others to `PEER_RESULTS`."""

import json
import os
from pathlib import Path

import pytest

results: dict[str, str] = {}


def _id(nodeid: str) -> str:
    return nodeid.removeprefix("::")  # of a file outside of pytest's root


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out tests, which are given by file, by name, or by name and parameters."""
    not_run = set(json.loads(os.environ["PEER_NOT_RUN"]))

    def is_left_out(item: pytest.Item) -> bool:
        test = _id(item.nodeid)
        return not not_run.isdisjoint({test, test.partition("[")[0], test.partition("::")[0]})

    config.hook.pytest_deselected(items=[item for item in items if is_left_out(item)])
    items[:] = [item for item in items if not is_left_out(item)]


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Keep why a test failed, in whichever of its phases; tests that are skipped or expected to fail don't count."""
    test = _id(report.nodeid)
    if report.failed:
        lines = report.longreprtext.strip().splitlines()
        message = " ".join(line.strip() for line in lines[-8:])
        results[test] = results.get(test) or message[-400:] or "failed"
    elif report.when == "call" and report.passed:
        results.setdefault(test, "")


def pytest_sessionfinish() -> None:
    """Write the file."""
    Path(os.environ["PEER_RESULTS"]).write_text(json.dumps(results))
