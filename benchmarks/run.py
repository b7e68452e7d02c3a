"""Measures the generated service beside its peers: `python -m benchmarks.run --help`, or `make bench`.

The results are on disk after each section. A section that fails is recorded with its error, and the run goes on.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
import traceback
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from . import report
from .candidates import Candidates
from .measure import Checks
from .processes import OTHER_CORES, BenchError, Child, machine_facts, run
from .sections import FULL, QUICK, SECTIONS, SMOKE, Sections
from .service import Installer

HERE = Path(__file__).parent
WORK = HERE / ".work"


def main() -> int:
    """Run it; the exit status is 0 if every section was measured and every check held."""
    arguments = parse()
    folder: Path = arguments.output
    if arguments.report:
        write(json.loads((folder / "results.json").read_text()), folder)
        return 0
    try:
        results = measure(arguments)
    except BenchError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"\ninterrupted; the sections before are in {folder}", file=sys.stderr)
        return 130
    print((folder / "RESULTS.md").read_text(), f"written to {folder}", sep="\n")
    return 1 if results["errors"] or results["checks"]["failed"] else 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds, in about four minutes")
    parser.add_argument("--smoke", action="store_true", help="as short as possible: shows only that everything runs")
    parser.add_argument("--only", metavar="A,B", help=f"some sections of: {', '.join(SECTIONS)}")
    parser.add_argument("--against", metavar="COMMIT", help="only compare with another commit of the template")
    parser.add_argument("--python", default=sys.executable, help="the Python of all candidates, 3.11 or newer")
    parser.add_argument("--work", type=Path, default=WORK, help="folder of services and environments")
    parser.add_argument("--output", type=Path, help="folder of the results; else results, or .work/results unless full")
    parser.add_argument("--add", action="store_true", help="put the sections of --only into the results that there are")
    parser.add_argument("--report", action="store_true", help="write table and chart again from results.json")
    arguments = parser.parse_args()
    names = ["against"] if arguments.against else [name for name in SECTIONS if name != "against"]
    arguments.sections = arguments.only.split(",") if arguments.only else names
    if unknown := sorted({*arguments.sections} - {*SECTIONS}):
        parser.error(f"there is no section {', '.join(unknown)}; there are {', '.join(SECTIONS)}")
    if "against" in arguments.sections and not arguments.against:
        parser.error("the section against needs --against COMMIT")
    full = (
        arguments.report
        or arguments.add
        or not (arguments.quick or arguments.smoke or arguments.only or arguments.against)
    )
    arguments.output = arguments.output or (HERE if full else arguments.work) / "results"
    return arguments


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure section by section; the results are written after each."""
    plan = QUICK if arguments.quick else SMOKE if arguments.smoke else FULL
    for program in ("wrk", "uv"):
        if shutil.which(program) is None:
            raise BenchError(f"{program} is not installed; `make bench` installs it on Debian and Ubuntu")
    print("preparing…", file=sys.stderr)
    installer = Installer(arguments.python, arguments.work.resolve(), smoke=arguments.smoke)
    began, checks = time.monotonic(), Checks()
    with Child((sys.executable, HERE / "collector.py"), cores=OTHER_CORES, stdout=subprocess.PIPE) as collector:
        assert collector.process.stdout  # noqa: S101 - it is a pipe
        port = int(collector.process.stdout.readline())
        candidates = Candidates(installer, port, arguments.against, smoke=arguments.smoke)
        sections = Sections(candidates, port, plan, checks)
        about: dict[str, Any] = {
            "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
            "command": command(arguments),
            "commit": run(("sh", "-c", "git describe --always --dirty=+ --exclude '*' || echo unknown")).strip(),
            "machine": machine_facts(),
        }
        results: dict[str, Any] = {"about": about, "errors": {}, "sections": {}}
        if arguments.add:
            results = json.loads((arguments.output / "results.json").read_text())
            checks.held.update(results["checks"]["held"])
            checks.failed += results["checks"]["failed"]
        for name in arguments.sections:
            try:
                results["sections"][name] = sections.run(name)
                if arguments.add:
                    processor = about["machine"]["processor"]
                    results["sections"][name] |= {key: about[key] for key in ("date", "commit")} | {
                        "processor": processor
                    }
            except Exception as error:  # noqa: BLE001 - the other sections are measured nevertheless
                traceback.print_exc()
                results["errors"][name] = f"{type(error).__name__}: {error}"
            if not arguments.add:
                about["minutes"] = round((time.monotonic() - began) / 60, 1)
            results["about"]["versions"] = {**results["about"].get("versions", {}), **candidates.versions()}
            results["checks"] = {"held": dict(checks.held), "failed": checks.failed}
            write(results, arguments.output)
    return results


def command(arguments: argparse.Namespace) -> str:
    """The command for the same run, without the paths of this machine."""
    chosen = [f"--{name}" for name in ("quick", "smoke") if getattr(arguments, name)]
    chosen += [f"--{name} {value}" for name in ("only", "against") if (value := getattr(arguments, name))]
    return f"make bench ARGS='{' '.join(chosen)}'" if chosen else "make bench"


def write(results: dict[str, Any], folder: Path) -> None:
    """Replace the files of the results, each in one step."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(results, indent=1, ensure_ascii=False)
    # Each figure on one line.
    text = re.sub(r"\{[^{}]*\}", lambda found: " ".join(found[0].split()), text)
    files = {
        "results.json": f"{text}\n",
        "RESULTS.md": report.markdown(results),
        "throughput.svg": report.chart(results),
    }
    for name, content in files.items():
        part = folder / f"{name}.part"
        part.write_text(content)
        os.replace(part, folder / name)


if __name__ == "__main__":
    sys.exit(main())
