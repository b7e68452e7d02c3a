"""The charts of a run."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from .svg import Drawing

WIDTH = 860
BAR_STEP = 27
PANEL_HEIGHT = 300
LABELS = {
    "bare_asgi": ("bare ASGI", "yardstick"),
    "bare_bodies": ("bare ASGI", "yardstick"),
    "bare_starlette": ("Starlette", "part"),
    "bare_fastapi": ("FastAPI, bare", "bare"),
    "ours": ("ours, observed", "ours"),
    "usual": ("usual stack", "usual"),
}


@dataclass(frozen=True, slots=True)
class Bar:
    """One line of a bar chart: `least` to `most` is what the rounds gave."""

    label: str
    kind: str
    value: float
    least: float
    most: float
    text: str


@dataclass(frozen=True, slots=True)
class Panel:
    """Curves over steps that are drawn evenly; the scale of the values is logarithmic."""

    title: str
    steps: Sequence[str]
    curves: dict[str, list[float]]
    per: Callable[[float], str]


def all_charts(results: dict[str, Any]) -> dict[str, str]:
    """The charts that these results can show, by file name."""
    makers = {
        "main": ("throughput.svg", throughput),
        "parts": ("parts.svg", parts),
        "concurrency": ("concurrency.svg", concurrency),
        "bodies": ("bodies.svg", bodies),
        "routes": ("routes.svg", routes),
    }
    below = conditions(results["about"])
    return {file: str(make(results[name], below)) for name, (file, make) in makers.items() if name in results}


def conditions(about: dict[str, Any]) -> str:
    """When and on what, for the line below a title."""
    versions, machine = about["versions"], about["machine"]
    return (
        f"{about['date'][:10]} · Python {versions['python']} · uvicorn {versions['uvicorn']} · "
        f"{machine['processor']}, {machine['cores']} cores, {machine['memory']} · {about['placement']}"
    )


def throughput(rows: dict[str, Any], below: str) -> Drawing:
    title = "Requests a second on one core, as a share of a bare ASGI function's (higher is better)"
    return bars(
        title,
        below,
        [
            Bar(
                label=row["label"],
                kind=row["group"],
                value=row["ratio"]["median"],
                least=row["ratio"]["min"],
                most=row["ratio"]["max"],
                text=f"{share(row['ratio']['median'])} · {row['rate']['median']:,.0f}/s",
            )
            for row in rows.values()
        ],
    )


def parts(rows: dict[str, Any], below: str) -> Drawing:
    whole = rows["ours"]["cpu_us"]["min"]
    shown = [
        Bar(row["part"], "ours", cost := max(0.0, row["costs_us"]), cost, cost, f"{row['costs_us']:.1f} µs")
        for row in rows.values()
        if row["part"]
    ]
    whole_bar = Bar("a whole request", "yardstick", whole, whole, whole, f"{whole:.1f} µs")
    title = "What each part costs: CPU µs a request, the whole less a run without the part"
    return bars(title, below, [whole_bar, *shown])


def concurrency(rows: dict[str, Any], below: str) -> Drawing:
    steps = list(next(iter(rows.values())))
    return panels(
        "How cost grows with connections",
        below,
        [
            Panel("requests a second", steps, medians(rows, steps, "rate"), thousands),
            Panel("99th percentile of latency, all asking at once", steps, medians(rows, steps, "p99_us"), duration),
        ],
        "connections",
    )


def bodies(rows: dict[str, Any], below: str) -> Drawing:
    names = list(next(iter(rows.values())))
    found = []
    for way, title in (("out ", "requests a second, body sent out"), ("in ", "requests a second, body taken in")):
        steps = [name for name in names if name.startswith(way)]
        shown = [size(int(step.removeprefix(way))) for step in steps]
        found.append(Panel(title, shown, medians(rows, steps, "rate"), thousands))
    return panels("How cost grows with bodies", below, found, "size of the body")


def routes(rows: dict[str, Any], below: str) -> Drawing:
    steps = list(next(iter(rows.values())))
    return panels(
        "How cost grows with routes: the last of so many parametrised routes is asked for",
        below,
        [
            Panel("requests a second", steps, medians(rows, steps, "rate"), thousands),
            Panel("CPU µs a request", steps, medians(rows, steps, "cpu_us"), lambda us: f"{us:g} µs"),
        ],
        "routes",
    )


def bars(title: str, below: str, shown: list[Bar]) -> Drawing:
    """Horizontal bars from nought, with whiskers from the least to the most."""
    left, right, top = 30 + max(len(one.label) for one in shown) * 7.6, 150, 70
    drawing = Drawing(WIDTH, top + BAR_STEP * len(shown) + 16, title, below)
    scale = (WIDTH - left - right) / max(max(one.most, one.value) for one in shown)
    for index, one in enumerate(shown):
        y = top + BAR_STEP * index
        middle = y + 9
        drawing.text(left - 10, y + 14, one.label, "strong" if one.kind == "ours" else "", "end")
        drawing.bar(left, y, one.value * scale, 18, one.kind)
        if one.most > one.least:
            drawing.whisker(left + max(0.0, one.least) * scale, left + max(0.0, one.most) * scale, middle)
        drawing.text(left + max(one.value, one.most) * scale + 10, y + 14, one.text)
    drawing.line(left, top - 6, left, top + BAR_STEP * len(shown), "axis")
    return drawing


def panels(title: str, below: str, shown: Sequence[Panel], x_title: str) -> Drawing:
    """Panels side by side."""
    top, bottom = 100, 46
    drawing = Drawing(WIDTH, top + PANEL_HEIGHT + bottom, title, below)
    step = WIDTH / len(shown)
    for index, panel in enumerate(shown):
        _panel(drawing, panel, step * index + 66, step * index + step - 112, top, top + PANEL_HEIGHT, x_title)
    return drawing


def _panel(drawing: Drawing, panel: Panel, x1: float, x2: float, y1: float, y2: float, x_title: str) -> None:
    values = [value for curve in panel.curves.values() for value in curve if value > 0]
    low, high = math.log10(min(values) * 0.85), math.log10(max(values) * 1.15)

    def y_of(value: float) -> float:
        return y2 - (math.log10(value) - low) / (high - low) * (y2 - y1)

    def x_of(index: int) -> float:
        return x1 + 8 + (x2 - x1 - 16) * index / max(1, len(panel.steps) - 1)

    drawing.text(x1 - 46, y1 - 22, panel.title, "strong")
    for tick in ticks(low, high):
        drawing.line(x1, y_of(tick), x2, y_of(tick), "grid")
        drawing.text(x1 - 8, y_of(tick) + 4, panel.per(tick), "small", "end")
    drawing.line(x1, y2, x2, y2, "axis")
    for index, step in enumerate(panel.steps):
        drawing.text(x_of(index), y2 + 17, step, "small", "middle")
    drawing.text((x1 + x2) / 2, y2 + 35, x_title, "small", "middle")
    ends = {}
    for name, curve in panel.curves.items():
        drawing.curve([(x_of(index), y_of(value)) for index, value in enumerate(curve)], LABELS[name][1])
        ends[name] = y_of(curve[-1])
    for name, y in apart(ends, 15).items():
        drawing.text(x2 + 2, y + 4, LABELS[name][0], "small strong" if name == "ours" else "small")


def ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 of each power of ten between two logarithms; only whole powers when they are far apart."""
    steps = (1, 2, 5) if high - low < 2.8 else (1,)
    every = [step * 10.0**power for power in range(math.floor(low), math.ceil(high) + 1) for step in steps]
    return [tick for tick in every if low <= math.log10(tick) <= high]


def apart(places: dict[str, float], least: float) -> dict[str, float]:
    """Labels moved down where they would overlap."""
    moved: dict[str, float] = {}
    last = -math.inf
    for name, y in sorted(places.items(), key=lambda one: one[1]):
        last = moved[name] = max(y, last + least)
    return moved


def medians(rows: dict[str, Any], steps: Sequence[str], figure: str) -> dict[str, list[float]]:
    return {name: [float(row[step][figure]["median"]) for step in steps] for name, row in rows.items()}


def share(value: float) -> str:
    """A ratio with as many digits as mean something."""
    return f"{value:.2f}" if value >= 0.1 else f"{value:.3f}"


def thousands(value: float) -> str:
    return f"{value / 1000:g}k" if value >= 1000 else f"{value:g}"


def duration(microseconds: float) -> str:
    if microseconds >= 1e6:
        return f"{microseconds / 1e6:g} s"
    return f"{microseconds / 1000:g} ms"


def size(number: int) -> str:
    return f"{number // 1_000_000} MB" if number >= 1_000_000 else f"{number // 1000} kB" if number else "0"
