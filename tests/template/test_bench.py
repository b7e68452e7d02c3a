"""The benchmark runs, and the documents state its figures."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bakery import TEMPLATE, run
from gateway_bench import HEALTHY, markdown
from running import needs

pytestmark = pytest.mark.long

RESULTS = TEMPLATE / "benchmarks/results/results.json"
# In the order of the table in docs/performance.md.
HEADLINE = ("ours", "ours_100", "usual", "usual_100", "bare_fastapi")
# "SIGTERM, replaced" is no failure.
GATEWAY_FAULTS = (
    *("SIGKILL", "SIGSTOP, SIGCONT", "1 s latency"),
    *("30 % errors", "30 % resets", "full accept queue"),
)
CLIENTS = (
    *("pyreqwest", "aiohttp", "transport", "app_client", "app_client_100"),
    *("httpx2", "niquests", "http_client", "httpx"),
)
WITH_POSTGRESQL = ("bare_asyncpg", "ours_asyncpg", "ours_orm", "bare_orm", "usual_orm")
WIRE = ("bare_real", "ours_real", "ours_real_100", "bare_two", "ours_two", "bare_new", "ours_new")
WORKERS = ("ours_1", "ours_2", "usual_1", "usual_2", "gunicorn_2", "granian_1", "granian_2")
OUTBOUND = ("bare_aiohttp", "ours_calls", "bare_fastapi_aiohttp", "bare_fastapi_httpx", "usual_httpx")
WITH_TOKENS = ("open", "cached", "verified", "bare_fastapi", "bare_pyjwt")
# For each row of the second table: here with and without, FastAPI with and without.
COSTS = (
    ("ours", "ours_no_line", "part_structlog", "bare_fastapi"),
    ("ours", "bare_asgi", "usual", "bare_fastapi"),
    ("ours_100", "ours", "usual_100", "usual"),
)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of services and environments, which are installed once."""
    return tmp_path_factory.mktemp("work")


def bench(work: Path, results: Path, *options: str) -> subprocess.CompletedProcess[str]:
    places = ("--work", str(work), "--output", str(results))
    return run(sys.executable, "-m", "benchmarks.run", "--smoke", *places, *options, cwd=TEMPLATE)


def test_documents_state_the_committed_figures() -> None:
    rows = json.loads(RESULTS.read_text())["sections"]["main"]["rows"]
    page = (TEMPLATE / "docs/performance.md").read_text()
    readme = (TEMPLATE / "README.md").read_text()

    ratios = [rows[name]["ratio"]["median"] for name in HEADLINE]
    shares = page.partition("| candidate | share |")[2].partition("\n\n")[0]
    stated = [float(figure) for figure in re.findall(r"\b0\.\d+", shares)]
    assert stated == [round(ratio, 3 if ratio < 0.1 else 2) for ratio in ratios]
    ours, usual = ratios[0], ratios[2]
    assert f"**{int(ours / usual)} times** as many requests" in readme
    assert f"handles {int(ours / usual)} times as many requests" in page
    assert f"\n{ours:.2f} of the rate of an empty ASGI function" in readme

    cached = json.loads(RESULTS.read_text())["sections"]["auth"]["rows"]["cached"]["ratio"]["median"]
    assert f"costs {1 - cached:.0%} of the rate".replace("%", " %") in page

    least = {name: row["cpu_us"]["least"] for name, row in rows.items()}
    costs = [(f"{least[a] - least[b]:.1f}", f"{least[c] - least[d]:.0f}") for a, b, c, d in COSTS]
    table = page.partition("| µs of CPU for each request")[2].partition("\n\n")[0]
    assert re.findall(r"\| ([\d.]+) \| ([\d.]+) \|$", table, re.MULTILINE) == costs


@pytest.mark.parametrize(
    ("section", "title", "names"),
    [
        ("database", "With PostgreSQL", WITH_POSTGRESQL),
        ("auth", "With bearer tokens", WITH_TOKENS),
        ("wire", "Requests as clients send them", WIRE),
        ("workers", "Worker processes", WORKERS),
    ],
)
def test_documents_state_the_committed_costs_of(section: str, title: str, names: tuple[str, ...]) -> None:
    rows = json.loads(RESULTS.read_text())["sections"][section]["rows"]
    page = (TEMPLATE / "docs/performance.md").read_text()

    stated = re.findall(r"\| ([\d,]+) \|$", page.partition(f"## {title}")[2].partition("\n## ")[0], re.MULTILINE)
    assert stated == [f"{rows[name]['cpu_us']['median']:,.0f}" for name in names]


def test_documents_state_the_committed_costs_of_calls() -> None:
    sections = json.loads(RESULTS.read_text())["sections"]
    page = (TEMPLATE / "docs/performance.md").read_text()
    chapter = page.partition("## Calls to other services")[2].partition("\n## ")[0]

    rows = [*(sections["clients"]["rows"][name] for name in CLIENTS)]
    rows += [*(sections["outbound"]["rows"][name] for name in OUTBOUND)]
    stated = re.findall(r"\| ([\d,]+) \|$", chapter, re.MULTILINE)
    assert stated == [f"{row['cpu_us']['median']:,.0f}" for row in rows]


def test_documents_state_the_committed_figures_of_the_gateway() -> None:
    results = json.loads(RESULTS.with_name("gateway.json").read_text())
    page = (TEMPLATE / "docs/performance.md").read_text()

    rows = page.partition("| fault of one replica |")[2].partition("\n\n")[0].splitlines()[2:]
    stated = [row.strip("| ").split(" | ")[1:] for row in rows]
    for fault, cells in zip((HEALTHY, *GATEWAY_FAULTS), stated, strict=True):
        found = [results[way]["faults"][fault] for way in ("client/direct", "plain/envoy", "naive/haproxy")]
        assert cells == [f"{sum(one['failed'].values())}, {one['p99_ms']:.0f} ms" for one in found]
    assert max(results["client/direct"]["faults"][fault]["retried"] for fault in GATEWAY_FAULTS) < 0.01
    handlers = TEMPLATE / "tests/support/gateway_services/client_offers.py"
    assert f"{len(handlers.read_text().splitlines())} lines of handlers and models" in page


def test_tables_of_the_gateway_are_made_from_the_committed_results() -> None:
    results = json.loads(RESULTS.with_name("gateway.json").read_text())

    assert markdown(results) == RESULTS.with_name("gateway.md").read_text()


def test_report_is_made_from_the_committed_results(work: Path, tmp_path: Path) -> None:
    (tmp_path / "results.json").write_bytes(RESULTS.read_bytes())

    done = bench(work, tmp_path, "--report")

    assert done.returncode == 0, done.stdout
    for name in ("results.json", "RESULTS.md", "throughput.svg"):
        assert (tmp_path / name).read_bytes() == RESULTS.with_name(name).read_bytes(), name


def test_benchmark_measures_every_section(work: Path, tmp_path: Path) -> None:
    needs("wrk")
    sections = (
        *("main", "wire", "post", "latency", "collectors", "memory", "database", "auth", "clients", "outbound"),
        "against",
    )

    done = bench(work, tmp_path, "--only", ",".join(sections), "--against", "HEAD")

    assert done.returncode == 0, done.stdout
    results: dict[str, Any] = json.loads((tmp_path / "results.json").read_text())
    report = (tmp_path / "RESULTS.md").read_text()
    assert tuple(results["sections"]) == sections
    assert results["errors"] == {}
    assert results["checks"]["failed"] == []
    assert min(row["rate"]["least"] for row in results["sections"]["main"]["rows"].values()) > 0
    assert "| ours, the transport of app.client alone |" in report
    assert "| ours, observed, 100 % sampled |" in report
    assert "| ours, SQLAlchemy's ORM, 1 % sampled |" in report
    assert "| ours, each token verified, 1 % sampled |" in report
    assert "| ours, app.client, 1 % sampled |" in report
    assert "| ours, now, 1 % sampled, to before: rate |" in report


def test_section_that_fails_is_recorded_and_the_others_are_measured(work: Path, tmp_path: Path) -> None:
    needs("wrk")

    done = bench(work, tmp_path, "--only", "against,post", "--against", "no-such-commit")

    assert done.returncode == 1
    results: dict[str, Any] = json.loads((tmp_path / "results.json").read_text())
    assert list(results["sections"]) == ["post"]
    assert "no-such-commit" in results["errors"]["against"]
    assert "**against was not measured:** BenchError: " in (tmp_path / "RESULTS.md").read_text()
