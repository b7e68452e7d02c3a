"""The goals of the template's speed, beside what a run found."""

from dataclasses import dataclass, replace
from statistics import median
from typing import Any

Results = dict[str, Any]

FLAT_MB = 3.0
MEMORY_AFTER = 100_000


@dataclass(frozen=True, slots=True)
class Goal:
    """What was wanted, what was found, and whether that will do."""

    case: str
    goal: str
    found: str
    met: bool
    sections: tuple[str, ...] = ()


def goals(results: Results) -> list[Goal]:
    """Those that can be told from the sections that were run."""
    makers = {
        "main": _main,
        "routes": _routes,
        "post": _post,
        "latency": _latency,
        "collectors": _collectors,
        "startup": _startup,
        "memory": _memory,
    }
    return [
        replace(goal, sections=(section,))
        for section, make in makers.items()
        if section in results
        for goal in make(results[section])
    ]


def _main(rows: Results) -> list[Goal]:
    found = [
        _at_least("1 % sampled, to the bare function", 0.60, rows["ours"]["ratio"]),
        _at_least("100 % sampled and exported, to the bare function", 0.40, rows["ours_100"]["ratio"]),
    ]
    for ours, usual, share in (("ours", "usual", "1 %"), ("ours_100", "usual_100", "100 %")):
        times = [
            one / other for one, other in zip(rows[ours]["rate"]["rounds"], rows[usual]["rate"]["rounds"], strict=True)
        ]
        middle = median(times)
        text = f"{middle:.1f} times ({min(times):.1f} to {max(times):.1f})"
        found.append(Goal(f"to the usual stack, {share} sampled both", "≥ 15 times", text, middle >= 15))
    return found


def _routes(rows: Results) -> list[Goal]:
    most = max(rows["ours"], key=int)
    return [_at_least(f"the last of {most} parametrised routes, to the only one", 0.95, rows["ours"][most]["ratio"])]


def _post(rows: Results) -> list[Goal]:
    return [_at_least("POST with a validated body, 1 % sampled, to bare FastAPI", 2.0, rows["ours"]["ratio"])]


def _latency(rows: Results) -> list[Goal]:
    row = rows["ours at half of ours"]
    ratio, rate = row["p99_ratio"], row["asked_rate"]
    bare = rows["bare_asgi at half of ours"]["p99_us"]["median"]
    text = f"{_range(ratio)}: {row['p99_us']['median']:.0f} µs to {bare:.0f} µs"
    return [
        Goal(f"p99 at half of its peak ({rate:,.0f}/s), to the bare function's", "≤ 1.5", text, ratio["median"] <= 1.5)
    ]


def _collectors(rows: Results) -> list[Goal]:
    _, *others = rows.values()
    worst = min(others, key=lambda row: float(row["ratio"]["median"]))
    return [_at_least(f"the worst collector, which {worst['label']}, to one that answers", 0.9, worst["ratio"])]


def _startup(rows: Results) -> list[Goal]:
    ours, usual = rows["ours"]["seconds"], rows["usual"]["seconds"]
    share = ours["median"] / usual["median"]
    return [
        Goal("start of the process to the first 200 on /readyz", "≤ 0.6 s", f"{_range(ours)} s", ours["median"] <= 0.6),
        Goal("the same, to the usual stack's first answer", "≤ 0.6", f"{share:.2f} of {_range(usual)} s", share <= 0.6),
    ]


def _memory(found: Results) -> list[Goal]:
    after = [point for point in found["ours"] if point["requests"] >= MEMORY_AFTER]
    if not after:
        return []
    first, last = after[0], after[-1]
    strayed = max(abs(point["rss"] - first["rss"]) for point in after)
    return [
        Goal(
            f"resident memory after {first['requests']:,} requests",
            "≤ 75 MB",
            f"{first['rss']:.1f} MB (proportional {first['pss']:.1f} MB)",
            first["rss"] <= 75,
        ),
        Goal(
            f"and from then on to {last['requests']:,}",
            f"flat, ± {FLAT_MB:g} MB",
            f"± {strayed:.1f} MB",
            strayed <= FLAT_MB,
        ),
    ]


def _at_least(case: str, least: float, ratio: dict[str, Any]) -> Goal:
    return Goal(case, f"≥ {least:g}", _range(ratio), ratio["median"] >= least)


def _range(spread: dict[str, Any]) -> str:
    return f"{spread['median']:.2f} ({spread['min']:.2f} to {spread['max']:.2f})"
