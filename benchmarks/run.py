"""Measures the generated service beside its peers: `python -m benchmarks.run --help`, or `make bench`."""

import argparse
import json
import shutil
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from . import charts, machine, report
from .catalogue import Catalogue
from .environment import EnvironmentMaker
from .load import find_wrk, wrk_version
from .plan import FULL, LONG_MEMORY_REQUESTS, QUICK, SECTIONS
from .processes import BenchError, Child, stop_on_signals
from .sections import Sections
from .service import ROOT, make_variants, render
from .serving import Bench

HERE = Path(__file__).parent
WORK = HERE / ".work"


def main() -> int:
    """Run it; the exit status is 0 when everything was measured and every check held."""
    arguments = parse()
    stop_on_signals()
    folder: Path = arguments.output or (WORK / "results" if arguments.quick or arguments.only else HERE / "results")
    if arguments.report:
        write(json.loads((folder / "results.json").read_text()), folder)
        return 0
    began = time.monotonic()
    try:
        with ExitStack() as stack:
            results = measure(arguments, stack)
    except BenchError as error:
        print(f"\nerror: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    results["about"]["minutes"] = round((time.monotonic() - began) / 60, 1)
    write(results, folder)
    print((folder / "RESULTS.md").read_text())
    print(f"written to {folder.resolve()}", file=sys.stderr)
    return 0 if all(one["holds"] for one in results["checks"]) else 1


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="in four minutes, to see that all works; rougher figures")
    parser.add_argument("--long", action="store_true", help="watch the memory over a million requests")
    parser.add_argument("--only", default="", metavar="A,B", help=f"some sections of: {', '.join(SECTIONS)}")
    parser.add_argument("--python", default=sys.executable, help="the Python that all candidates run on, 3.11 or newer")
    parser.add_argument("--uv", default=shutil.which("uv") or "uv", help="where uv is, if it isn't on PATH")
    parser.add_argument(
        "--output",
        type=Path,
        help="folder of the results (else benchmarks/results, or .work/results if not all is run)",
    )
    parser.add_argument("--report", action="store_true", help="write table and charts again from the last results.json")
    arguments = parser.parse_args()
    unknown = sorted({*filter(None, arguments.only.split(","))} - {*SECTIONS})
    if unknown:
        parser.error(f"there is no section {', '.join(unknown)}; there are {', '.join(SECTIONS)}")
    return arguments


def measure(arguments: argparse.Namespace, stack: ExitStack) -> dict[str, Any]:
    """Prepare, measure section by section, and put together what is known of the run."""
    plan = QUICK if arguments.quick else FULL
    if arguments.long:
        plan = replace(plan, memory_requests=LONG_MEMORY_REQUESTS)
    find_wrk()
    if shutil.which(arguments.uv) is None:
        raise BenchError("uv is not installed; give its place with --uv, or use: make bench")
    print("preparing…", file=sys.stderr, flush=True)
    WORK.mkdir(exist_ok=True)
    maker = EnvironmentMaker(arguments.uv, arguments.python, WORK / "venvs")
    tools = maker.tools()
    service = render(tools, WORK / "service")
    variants = make_variants(service, WORK / "service" / "variants")
    environments = maker.all(service, tools)
    cores = machine.Cores.share_out()
    collector = stack.enter_context(Child([tools, HERE / "collector.py"], cores=cores.others, stdout=subprocess.PIPE))
    port = int(collector.read_line())
    catalogue = Catalogue(environments, variants, port)
    sections = Sections(Bench(cores, port, tools, WORK), catalogue, plan)
    for name in SECTIONS:
        if not arguments.only or name in arguments.only.split(","):
            sections.run(name)
    return {
        "about": {
            "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
            "command": command(arguments),
            "plan": plan.name,
            "commit": commit(),
            "machine": machine.facts(),
            "placement": cores.note,
            "versions": {**environments.versions(), "load": wrk_version()},
        },
        **sections.as_json(),
    }


def command(arguments: argparse.Namespace) -> str:
    """What to type to get the same, without this machine's paths."""
    options = [f"--{name}" for name in ("quick", "long") if getattr(arguments, name)]
    options += ["--only", arguments.only] if arguments.only else []
    return f'make bench ARGS="{" ".join(options)}"' if options else "make bench"


def commit() -> str:
    """The template's commit, with a plus when files differ from it."""
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty=+", "--exclude", "*"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip() or "unknown"


def write(results: dict[str, Any], folder: Path) -> None:
    """JSON, table and charts."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    (folder / "RESULTS.md").write_text(report.markdown(results))
    for name, picture in charts.all_charts(results).items():
        (folder / name).write_text(picture)


if __name__ == "__main__":
    sys.exit(main())
