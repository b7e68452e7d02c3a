"""The guides and the runbook name the metrics and messages of calls to other services as the core does."""

import re

from bakery import SOURCE, TEMPLATE
from client_metrics import client_metrics

DOCS = TEMPLATE / "chassis/docs"


def test_guide_lists_the_metrics_of_calls() -> None:
    exposed = set(re.findall(r"^# TYPE (dependency_\w+)", client_metrics(), re.MULTILINE))
    cells = re.findall(r"^\| (.*?) \|", (DOCS / "metrics.md").read_text(encoding="utf-8"), re.MULTILINE)
    documented = {name for cell in cells for name in re.findall(r"`(dependency_\w+)`", cell)}

    assert {re.sub("_total$", "", name) for name in documented} == {
        re.sub("_total$", "", name) for name in exposed if not name.endswith("_created")
    }


def test_runbook_quotes_messages_of_the_core() -> None:
    source = "".join(path.read_text(encoding="utf-8") for path in (TEMPLATE / "chassis/src").rglob("*.py"))
    runbook = (SOURCE / "docs/runbook.md").read_text(encoding="utf-8")
    section = runbook.partition("## DependencyFails")[2].partition("{%- if cookiecutter.database")[0]
    quoted = set(re.findall(r"`([a-z]+(?: [a-z]+)+)`", section))

    assert {"call failed", "circuit breaker changed", "replica ejected"} <= quoted
    assert [message for message in quoted if message not in source] == []
