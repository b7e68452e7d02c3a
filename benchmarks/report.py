"""The results as Markdown and as a chart. Both can be made from an incomplete results.json."""

from html import escape
from typing import Any

Results = dict[str, Any]
TITLES = {
    "main": "Throughput",
    "post": "POST with a validated body",
    "wire": "Requests as real clients send them",
    "latency": "Latency at 60 % of a core",
    "collectors": "Collectors, 100 % sampled",
    "memory": "Memory",
    "database": "One row of PostgreSQL by its primary key",
    "clients": "A call to another service, by HTTP client",
    "outbound": "A request with one outbound call",
    "auth": "Bearer tokens, the same for each request",
    "workers": "Worker processes, on all cores together with the load",
    "against": "Beside another commit",
}
COLUMNS = {
    "requests": ("requests", "{:,.0f}"),
    "asked_rate": ("requests/s", "{:,.0f}"),
    "rate": ("requests/s", "{:,.0f}"),
    "ratio": ("ratio", "{:#.3g}"),
    "cpu_us": ("CPU µs/request", "{:.1f}"),
    "cpu_ratio": ("ratio by CPU", "{:#.3g}"),
    "p50_us": ("p50 µs", "{:,.0f}"),
    "p95_us": ("p95 µs", "{:,.0f}"),
    "p99_us": ("p99 µs", "{:,.0f}"),
    "p95_ratio": ("p95 ratio", "{:.2f}"),
    "p99_ratio": ("p99 ratio", "{:.2f}"),
    "busy": ("busy", "{:.0%}"),
    "sent_late_us": ("sent late µs", "{:,.1f}"),
    "left_out": ("left out", "{:.1%}"),
    "start_seconds": ("start", "{:.2f} s"),
    "rss_mb": ("resident", "{:.1f} MB"),
    "pss_mb": ("proportional", "{:.1f} MB"),
}
NOISY_SHARE = 0.03
IDLE_SHARE = 0.1
# Between two commits, smaller differences are those of the machine.
SAME_SPEED, SAME_SIZE = 0.03, 0.05
COLOURS = {"yardstick": "#57606a", "bare": "#9aa4af", "part": "#e3b27c", "usual": "#c2601a", "ours": "#1663c7"}
WIDTH, LABEL_WIDTH, TEXT_WIDTH, BAR_STEP, TOP = 860, 290, 150, 27, 70


def markdown(results: Results) -> str:
    """All sections that there are, the goals, the checks and the errors."""
    about, sections = results["about"], results["sections"]
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    parts = [
        "# Results",
        f"`{about['command']}`, {about['date']}, {about['minutes']} minutes, template at `{about['commit']}`.",
        f"{'. '.join(about['machine'].values())}. {versions}.",
        "A figure is the median of the rounds, with the least and the most in brackets.",
    ]
    parts += [f"**{name} was not measured:** {error}" for name, error in results["errors"].items()]
    noisy = [f"{name} {found['others']:.0%}" for name, found in sections.items() if found["others"] > NOISY_SHARE]
    if noisy:
        parts.append(f"**The machine was not quiet**: others took up to this share of the core: {', '.join(noisy)}.")
    rows = [row for found in sections.values() for row in found["rows"].values()]
    if weak := {row["label"]: None for row in rows if row.get("idle", {}).get("most", 0) > IDLE_SHARE}:
        parts.append(f"**The load was too weak** at times to keep the core busy, for: {'; '.join(weak)}.")
    if found := goals(sections):
        parts.append("## Goals\n\n" + table(["case", "goal", "found", ""], found))
    for name, title in TITLES.items():
        if name in sections:
            chart = f"![{title}](throughput.svg)\n\n" if name == "main" else ""
            parts.append(f"## {title}\n\n{chart}{_added(sections[name])}{_rows(sections[name]['rows'])}")
    held = [[subject, str(count)] for subject, count in results["checks"]["held"].items()]
    parts.append("## Checks\n\n" + table(["comparison", "held"], held))
    if failed := results["checks"]["failed"]:
        parts.append("**Failed:**\n\n" + "\n".join(f"- {one}" for one in failed))
    return "\n\n".join(part.rstrip("\n") for part in parts) + "\n"


def table(heads: list[str], rows: list[list[str]]) -> str:
    """The first column is text, the others are figures."""
    rule = ["---", *["---:"] * (len(heads) - 1)]
    return "".join(f"| {' | '.join(row)} |\n" for row in (heads, rule, *rows))


def _added(section: Results) -> str:
    """When and where a section was measured that is not of the same run as the others."""
    if "date" not in section:
        return ""
    place = f" {section['processor']}." if "processor" in section else ""
    return f"Measured on {section['date']}, template at `{section['commit']}`.{place}\n\n"


def _rows(rows: dict[str, Results]) -> str:
    used = [name for name in COLUMNS if any(name in row for row in rows.values())]
    return table(
        ["", *(COLUMNS[name][0] for name in used)],
        [[row["label"], *(cell(row.get(name), COLUMNS[name][1]) for name in used)] for row in rows.values()],
    )


def cell(value: Any, form: str) -> str:
    if not isinstance(value, dict):
        return "" if value is None else form.format(value)
    middle, least, most = (form.format(value[name]) for name in ("median", "least", "most"))
    return middle if least == most else f"{middle} ({least} to {most})"


def goals(sections: Results) -> list[list[str]]:
    """The goals of the sections that there are: case, goal, what was found, and whether it is met."""
    found: list[list[str]] = []
    rows = {name: section["rows"] for name, section in sections.items()}

    def goal(case: str, value: float, form: str, *, least: float | None = None, most: float | None = None) -> None:
        met = (least is None or value >= least) and (most is None or value <= most)
        wanted = f"≥ {form.format(least)}" if least is not None else f"≤ {form.format(most)}"
        found.append([case, wanted, form.format(value), "met" if met else "**missed**"])

    if "usual_100" in rows.get("main", {}):
        main = {name: row["ratio"]["median"] for name, row in rows["main"].items()}
        goal("1 % sampled, to the bare function", main["ours"], "{:.2f}", least=0.85)
        goal("100 % sampled and exported, to the bare function", main["ours_100"], "{:.2f}", least=0.55)
        goal("to the usual stack, 1 % sampled both", main["ours"] / main["usual"], "{:.1f}", least=15)
        goal("to the usual stack, 100 % sampled both", main["ours_100"] / main["usual_100"], "{:.1f}", least=15)
        starts = {name: rows["main"][name]["start_seconds"]["median"] for name in ("ours", "usual")}
        goal("start to the first 200 on /readyz", starts["ours"], "{:.2f} s", most=0.2)
        goal("start, to the usual stack's", starts["ours"] / starts["usual"], "{:.2f}", most=0.5)
    if "ours_real" in rows.get("wire", {}):
        real = rows["wire"]["ours_real"]["ratio"]["median"]
        goal("eleven headers and a traceparent, to the bare function", real, "{:.2f}", least=0.8)
    if "bare_fastapi" in rows.get("post", {}):
        goal("POST, to bare FastAPI", rows["post"]["ours"]["ratio"]["median"], "{:.2f}", least=2)
    if "p95_ratio" in rows.get("latency", {}).get("ours", {}):
        goal("p95, to the bare function's", rows["latency"]["ours"]["p95_ratio"]["median"], "{:.2f}", most=1.5)
    if "p99_ratio" in rows.get("latency", {}).get("ours", {}):
        goal("p99, to the bare function's", rows["latency"]["ours"]["p99_ratio"]["median"], "{:.2f}", most=1.5)
    if "collectors" in rows:
        worst = min(row["ratio"]["median"] for row in rows["collectors"].values())
        goal("the worst collector, to one that responds", worst, "{:.2f}", least=0.9)
    if "memory" in rows:
        resident = max(row["rss_mb"] for row in rows["memory"].values())
        goal("resident memory", resident, "{:.1f} MB", most=55)
        goal("its change from 100,000 requests on", rows["memory"]["flat"]["rss_mb"], "{:.1f} MB", most=3)
    if "usual_orm" in rows.get("database", {}):
        cpu = {name: row["cpu_ratio"]["median"] for name, row in rows["database"].items()}
        goal("a row with asyncpg, to the bare function with asyncpg, by CPU", cpu["ours_asyncpg"], "{:.2f}", least=0.7)
        times = cpu["ours_asyncpg"] / cpu["usual_orm"]
        goal("a row with asyncpg, to the usual stack with the ORM, by CPU", times, "{:.1f}", least=10)
        goal("the same with the ORM", cpu["ours_orm"] / cpu["usual_orm"], "{:.1f}", least=3)
    if "app_client" in rows.get("clients", {}):
        cpu_us = rows["clients"]["app_client"]["cpu_us"]["median"]
        goal("a call by app.client, with policy, spans and metrics", cpu_us, "{:.0f} µs", most=100)
        to_aiohttp = rows["clients"]["app_client"]["cpu_ratio"]["median"]
        goal("the same, to aiohttp alone, by CPU", to_aiohttp, "{:.2f}", least=0.5)
    if "usual_httpx" in rows.get("outbound", {}):
        cpu = {name: row["cpu_ratio"]["median"] for name, row in rows["outbound"].items()}
        goal(
            "a request with one outbound call, to the usual stack, by CPU",
            cpu["ours_calls"] / cpu["usual_httpx"],
            "{:.1f}",
            least=5,
        )
    if "auth" in rows:
        to_open = rows["auth"]["cached"]["ratio"]["median"]
        goal("a cached token, to the same service without authentication", to_open, "{:.2f}", least=0.9)
    if "ours_2" in rows.get("workers", {}):
        cpu_us = {name: row["cpu_us"]["median"] for name, row in rows["workers"].items()}
        goal(
            "two workers: CPU time of a request, to one process",
            cpu_us["ours_2"] / cpu_us["ours_1"],
            "{:.2f}",
            most=1.1,
        )
    pairs = rows.get("against", {})
    for suffix in ("", "_100"):
        if f"now{suffix}" not in pairs:
            continue
        before, now = (pairs[f"{name}{suffix}"] for name in ("before", "now"))
        case = f"{now['label']}, to before"
        goal(f"{case}: rate", now["ratio"]["median"], "{:.2f}", least=1 - SAME_SPEED)
        goal(f"{case}: least CPU", now["cpu_us"]["least"] / before["cpu_us"]["least"], "{:.2f}", most=1 + SAME_SPEED)
        for key, what in (("start_seconds", "start"), ("rss_mb", "resident memory")):
            goal(f"{case}: {what}", now[key]["median"] / before[key]["median"], "{:.2f}", most=1 + SAME_SIZE)
    return found


def chart(results: Results) -> str:
    """Throughput as horizontal bars in SVG, which GitHub shows beside the table; empty without that section."""
    rows = results["sections"].get("main", {"rows": {}})["rows"].values()
    if not rows:
        return ""
    about, height = results["about"], TOP + BAR_STEP * len(rows) + 12
    title = "Requests a second on one core, as a share of a bare ASGI function's (higher is better)"
    conditions = f"{about['date'][:10]} · Python {about['versions']['python']} · {about['machine']['processor']}"
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img">',
        "<style>text{font:13px system-ui,sans-serif;fill:#24292f}</style>",
        f'<rect width="{WIDTH}" height="{height}" rx="8" fill="#fff"/>',
        f'<text x="20" y="30" style="font-size:16px;font-weight:600">{escape(title)}</text>',
        f'<text x="20" y="49">{escape(conditions)}</text>',
    ]
    scale = (WIDTH - LABEL_WIDTH - TEXT_WIDTH) / max(row["ratio"]["most"] for row in rows)
    for index, row in enumerate(rows):
        y, share = TOP + BAR_STEP * index, row["ratio"]
        least, most = (LABEL_WIDTH + share[name] * scale for name in ("least", "most"))
        fill = f'fill="{COLOURS[row["kind"]]}"'
        text = f"{share['median']:#.2g} · {row['rate']['median']:,.0f}/s"
        lines += [
            f'<text x="{LABEL_WIDTH - 10}" y="{y + 14}" text-anchor="end">{escape(row["label"])}</text>',
            f'<rect x="{LABEL_WIDTH}" y="{y}" width="{share["median"] * scale:.1f}" height="18" {fill}/>',
            f'<path d="M{least:.1f} {y + 9}H{most:.1f}" stroke="#24292f"/>',
            f'<text x="{most + 10:.1f}" y="{y + 14}">{text}</text>',
        ]
    return "\n".join([*lines, "</svg>\n"])
