"""The table: a run's results as Markdown."""

from collections import Counter
from collections.abc import Iterable
from typing import Any

from .charts import LABELS, all_charts, duration, share, size
from .goals import Goal, goals

Results = dict[str, Any]
NOISY_SHARE = 0.03
STARVED_SHARE = 0.9


def markdown(results: Results) -> str:
    """Everything that was found, in the order in which it is asked for."""
    about = results["about"]
    charts = all_charts(results)
    parts = ["# Results\n", _about(about), _warnings(results)]
    if found := goals(results):
        noisy = {name for name, worst in results["foreign"].items() if worst > NOISY_SHARE}
        rows = (
            [goal.case, goal.goal, goal.found, verdict(goal, rough=bool(noisy & {*goal.sections}))] for goal in found
        )
        parts.append("## Goals\n\n" + table(["case", "goal", "found, median (least to most)", ""], rows))
    sections = {
        "main": ("Throughput", _main, "throughput.svg"),
        "parts": ("Cost by part", _parts, "parts.svg"),
        "post": ("POST with a validated body", _main, ""),
        "latency": ("Latency at half of the peak rate", _latency, ""),
        "routes": ("Routes", _grown, "routes.svg"),
        "concurrency": ("Connections", _grown, "concurrency.svg"),
        "bodies": ("Bodies", _bodies, "bodies.svg"),
        "collectors": ("A collector that doesn't answer, 100 % sampled", _main, ""),
        "computing": ("Beside a request that computes in a thread", _computing, ""),
        "startup": ("Start", _startup, ""),
        "memory": ("Memory", _memory, ""),
    }
    for name, (title, make, chart) in sections.items():
        if name in results:
            picture = f"![{title}]({chart})\n\n" if chart in charts else ""
            parts.append(f"## {title}\n\n{picture}{make(results[name])}")
    parts.append(_checks(results["checks"]))
    return "\n".join(part for part in parts if part)


def verdict(goal: Goal, *, rough: bool) -> str:
    """Met or missed, and whether the machine was quiet enough to say so."""
    return ("met" if goal.met else "**missed**") + (", rough" if rough else "")


def table(head: list[str], rows: Iterable[list[str]]) -> str:
    """A table whose first column is text and whose others are figures."""
    rule = ["---", *["---:"] * (len(head) - 1)]
    return "".join(f"| {' | '.join(row)} |\n" for row in (head, rule, *rows))


def _about(about: Results) -> str:
    machine = about["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    return (
        f"`{about['command']}`, the {about['plan']} plan, {about['date']}, {about['minutes']} minutes, "
        f"template at `{about['commit']}`.\n"
        f"{machine['processor']}, {machine['cores']} cores, {machine['memory']} of memory, {machine['system']}; "
        f"{about['placement']}.\n\n{versions}.\n"
    )


def _warnings(results: Results) -> str:
    """Whether the machine was quiet enough in every section, and the load strong enough in those at full speed."""
    foreign = results["foreign"]
    noisy = [f"{name} {worst:.0%}" for name, worst in foreign.items() if worst > NOISY_SHARE]
    said = f"Others took at most {max(foreign.values()):.0%} of the server's core."
    if noisy:
        said = (
            "**The machine was not quiet.** Others took, at the worst moment of a section, this share of the "
            f"server's core: {', '.join(noisy)}. Figures of these sections are rough."
        )
    rows = [row for name in ("main", "parts", "post") for row in results.get(name, {}).values()]
    starved = {row["label"]: None for row in rows if _least_used(row) < STARVED_SHARE}
    if starved:
        said += f"\n\n**The load was too weak** at times, so that the server's core idled, for: {'; '.join(starved)}."
        if _least_used(results.get("main", {}).get("bare_asgi")) < STARVED_SHARE:
            said += " Ratios to the bare function of such a round are too high."
    return said + "\n"


def _least_used(row: Results | None) -> float:
    """The share of its core's time that the server and others used, in the round where it was least."""
    if row is None:
        return 1.0
    return min(float(one + other) for one, other in zip(row["busy"]["rounds"], row["foreign"]["rounds"], strict=True))


def _main(rows: Results) -> str:
    head = ["candidate", "requests/s", "least to most", "ratio", "least to most", "CPU µs/request", "ratio by CPU"]
    return table(
        head,
        (
            [
                f"**{row['label']}**" if row["group"] == "ours" else row["label"],
                f"{row['rate']['median']:,.0f}",
                f"{row['rate']['min']:,.0f} to {row['rate']['max']:,.0f}",
                share(row["ratio"]["median"]),
                f"{share(row['ratio']['min'])} to {share(row['ratio']['max'])}",
                f"{row['cpu_us']['median']:.1f}",
                share(row["cpu_ratio"]["median"]),
            ]
            for row in rows.values()
        ),
    )


def _parts(rows: Results) -> str:
    return table(
        ["part", "costs, CPU µs/request", "round by round", "requests/s without it"],
        (
            [
                row["part"] or row["label"],
                f"{row['costs_us']:.1f}" if row["part"] else f"({row['cpu_us']['min']:.1f} in all)",
                _by_round(row["costs_by_round_us"]) if row["part"] else "",
                f"{row['rate']['median']:,.0f}",
            ]
            for row in rows.values()
        ),
    )


def _by_round(costs: Results) -> str:
    return f"{costs['median']:.1f} ({costs['min']:.1f} to {costs['max']:.1f})"


def _latency(rows: Results) -> str:
    return table(
        ["", "requests/s", "p50", "p95", "p99", "p99.9", "p99 least to most", "sent late, p99", "left out"],
        (
            [
                name.replace("bare_asgi", "bare function").replace("usual", "usual stack"),
                f"{row['rate']['median']:,.0f}",
                *(f"{row[one]['median']:,.0f} µs" for one in ("p50_us", "p95_us", "p99_us", "p99.9_us")),
                f"{row['p99_us']['min']:,.0f} to {row['p99_us']['max']:,.0f}",
                f"{row['sent_late_p99_us']['median']:,.0f} µs",
                f"{row['left_out']['median']:.1%}",
            ]
            for name, row in rows.items()
        ),
    )


def _grown(rows: Results) -> str:
    steps = list(next(iter(rows.values())))
    return table(
        ["requests/s (p99)", *steps],
        (
            [LABELS[name][0], *(f"{row[one]['rate']['median']:,.0f} ({_p99(row[one])})" for one in steps)]
            for name, row in rows.items()
        ),
    )


def _p99(row: Results) -> str:
    return duration(float(f"{row['p99_us']['median']:.2g}"))


def _bodies(rows: Results) -> str:
    steps = list(next(iter(rows.values())))
    shown = [f"{way} {size(int(number))}" for way, number in (step.split() for step in steps)]
    return table(
        ["requests/s", *shown],
        ([LABELS[name][0], *(f"{row[one]['rate']['median']:,.0f}" for one in steps)] for name, row in rows.items()),
    )


def _computing(rows: Results) -> str:
    return table(
        ["candidate", "requests/s alone", "beside it", "ratio", "least to most", "p99 alone", "beside it"],
        (
            [
                f"**{row['label']}**" if name == "ours" else row["label"],
                f"{row['alone']['rate']['median']:,.0f}",
                f"{row['rate']['median']:,.0f}",
                share(row["ratio"]["median"]),
                f"{share(row['ratio']['min'])} to {share(row['ratio']['max'])}",
                f"{row['alone']['p99_us']['median'] / 1000:,.1f} ms",
                f"{row['p99_us']['median'] / 1000:,.1f} ms",
            ]
            for name, row in rows.items()
        ),
    )


def _startup(rows: Results) -> str:
    return table(
        ["process to first answer", "seconds", "least to most", "proportional memory"],
        (
            [
                row["label"],
                f"{row['seconds']['median']:.2f}",
                f"{row['seconds']['min']:.2f} to {row['seconds']['max']:.2f}",
                f"{row['pss_mb']['median']:.1f} MB",
            ]
            for row in rows.values()
        ),
    )


def _memory(found: Results) -> str:
    points = [(LABELS["ours"][0], point) for point in thinned(found["ours"])]
    points += [(LABELS["usual"][0], point) for point in found["usual"]]
    return table(
        ["memory", "after requests", "resident", "proportional"],
        ([label, f"{one['requests']:,}", f"{one['rss']:.1f} MB", f"{one['pss']:.1f} MB"] for label, one in points),
    )


def thinned(points: list[Results]) -> list[Results]:
    """At most eight of many points, the first and the last among them."""
    step = max(1, -(-len(points) // 8))
    return [point for index, point in enumerate(points) if index % step == 0 or index == len(points) - 1]


def _checks(found: list[Results]) -> str:
    subjects = Counter((one["candidate"], one["subject"]) for one in found)
    held = Counter((one["candidate"], one["subject"]) for one in found if one["holds"])
    wrong = [one for one in found if not one["holds"]]
    said = (
        "## Checks\n\nEach candidate gave the same answer before it was timed, and no answer was an error. "
        "wrk counts the answers that it has read, so a server may have one more for each connection and load.\n\n"
    )
    rows = [[f"{name}: {subject}", f"{held[name, subject]} of {count}"] for (name, subject), count in subjects.items()]
    said += table(["comparison", "held"], rows)
    if wrong:
        said += "\nThose that did not hold:\n\n" + table(
            ["comparison", "expected", "found"],
            ([f"{one['candidate']}: {one['subject']}", one["expected"], str(one["found"])] for one in wrong),
        )
    return said
