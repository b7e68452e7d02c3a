"""What is measured. Each section runs its candidates in turn, round by round, and returns its rows."""

import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from statistics import median
from typing import Any

from . import clients
from .candidates import Candidate, Candidates
from .database import database
from .measure import SHARED_PAUSE_SECONDS, VALID, Checks, Load, Running, load_in_turn

SECTIONS = (
    *("main", "wire", "post", "latency", "collectors", "memory", "database", "auth", "clients", "outbound", "workers"),
    "against",
)
FIGURES = ("rate", "cpu_us", "start_seconds", "rss_mb", "idle")  # of a load
MEMORY_POINTS = 8
MEMORY_AFTER = 100_000
BUSY_SHARE = 0.6  # of the server's core, where latency is measured
FIRST_RATE = 1_000.0
RATE_SECONDS = 1.25
SLICE_SECONDS = 0.5

Row = dict[str, Any]
Rows = dict[str, Row]


@dataclass(frozen=True, slots=True)
class Plan:
    """Rounds and seconds of a run. A part of a second is CPU time of the server."""

    rounds: int
    few_rounds: int
    seconds: float
    warm_up_seconds: float
    latency_rounds: int
    latency_slices: int
    latency_tries: int
    memory_requests: int
    short_seconds: float  # of a load whose rate is of no interest


FULL = Plan(5, 3, 2, 1, 3, 20, 3, 1_000_000, 1)
QUICK = Plan(2, 1, 1, 1, 1, 10, 3, 150_000, 1)
SMOKE = Plan(1, 1, 0.2, 0, 1, 1, 1, 1_000, 0.2)


def figure(values: Sequence[float]) -> dict[str, float]:
    """Median, least, most and number of the values of all rounds."""
    numbers = {"median": median(values), "least": min(values), "most": max(values)}
    return {**{name: float(f"{value:.5g}") for name, value in numbers.items()}, "rounds": len(values)}


def ratio(values: Sequence[float], to: Sequence[float]) -> dict[str, float]:
    """Of the values of the same round, because the speed of a machine drifts."""
    return figure([value / other for value, other in zip(values, to, strict=True)])


class Sections:
    """All sections over one plan."""

    def __init__(self, candidates: Candidates, collector_port: int, plan: Plan, checks: Checks) -> None:
        self._candidates = candidates
        self._collector_port = collector_port
        self._plan = plan
        self._checks = checks
        self._others: list[float] = []

    def run(self, name: str) -> dict[str, Any]:
        """Measure one section: its rows, and the largest share of the server's core that other processes took."""
        print(f"{name}:", end=" ", file=sys.stderr, flush=True)
        self._others = [0.0]
        section: Callable[[], Rows] = getattr(self, f"_{name}")
        try:
            return {"rows": section(), "others": max(self._others)}
        finally:
            print(file=sys.stderr)

    def _main(self) -> Rows:
        return self._rounds(self._candidates.main(), self._plan.rounds)

    def _wire(self) -> Rows:
        """Each pair is compared with its own bare function."""
        rows: Rows = {}
        for chosen in self._candidates.wire():
            rows |= self._rounds(chosen, self._plan.few_rounds)
        return rows

    def _post(self) -> Rows:
        every = self._candidates.main()
        chosen = {name: one for name, one in every.items() if name in ("bare_fastapi", "ours", "usual")}
        return self._rounds(chosen, self._plan.few_rounds, VALID)

    def _collectors(self) -> Rows:
        return self._rounds(self._candidates.collectors(), self._plan.few_rounds)

    def _database(self) -> Rows:
        with database() as url:
            return self._rounds(self._candidates.database(url), self._plan.few_rounds)

    def _clients(self) -> Rows:
        names = tuple(clients.OURS if self._plan is SMOKE else clients.LABELS)
        collector = f"http://127.0.0.1:{self._collector_port}"
        found = clients.measure(self._candidates.clients, names, self._plan.rounds, self._plan.seconds, collector)
        return {
            name: {
                "label": clients.LABELS[name],
                "cpu_us": figure(values),
                "cpu_ratio": ratio(found["aiohttp"], values),
            }
            for name, values in found.items()
        }

    def _outbound(self) -> Rows:
        with clients.upstream() as url:
            return self._rounds(self._candidates.outbound(url), self._plan.few_rounds)

    def _workers(self) -> Rows:
        """The first rows have one process. CPU time is that of all processes, the supervisor's included."""
        rows = self._rounds(self._candidates.workers(), self._plan.few_rounds, figures=(*FIGURES, "pss_mb"))
        for row in rows.values():
            del row["idle"], row["ratio"]
        return rows

    def _auth(self) -> Rows:
        """More rounds of the first two than of the others, because they differ by few percent."""
        every = self._candidates.auth()
        open_one, cached, *others = every
        rows = self._rounds({name: every[name] for name in (open_one, *others)}, self._plan.few_rounds)
        rows |= self._rounds({name: every[name] for name in (open_one, cached)}, 2 * self._plan.rounds - 1)
        return {name: rows[name] for name in every}

    def _against(self) -> Rows:
        """The other commit and the working tree at 1 %, then both at 100 %."""
        rows: Rows = {}
        for pair in self._candidates.before_and_now():
            rows |= self._rounds(pair, 2 * self._plan.rounds - 1)
        return rows

    def _latency(self) -> Rows:
        """Each at the rate that keeps its core busy for the same share of the time, in turn in short slices."""
        every, plan = self._candidates.main(), self._plan
        found: dict[str, list[dict[str, Any]]] = {"bare_asgi": [], "ours": []}
        ratios: dict[str, list[float]] = {"p95_ratio": [], "p99_ratio": []}
        for _ in range(plan.latency_rounds):
            with ExitStack() as stack:
                servers = [
                    stack.enter_context(self._running(every[name], pause=SHARED_PAUSE_SECONDS)) for name in found
                ]
                for running in servers:
                    running.load(plan.short_seconds)
                loads = [(running, self._rate_at(running, BUSY_SHARE)) for running in servers]
                reports = load_in_turn(loads, plan.latency_slices, SLICE_SECONDS)
                for running in servers:
                    running.finish()
            slices = [report.pop("slices") for report in reports]
            for key, values in ratios.items():
                percent = key[1:3]
                values += [mine[percent] / bare[percent] for bare, mine in zip(*slices, strict=True) if bare and mine]
            for of_rounds, (_, rate), report in zip(found.values(), loads, reports, strict=True):
                of_rounds.append({"asked_rate": rate, **report})
        rows: Rows = {
            name: {
                "label": every[name].label,
                **{key: figure([one[key] for one in of_rounds]) for key in of_rounds[0] if key != "requests"},
            }
            for name, of_rounds in found.items()
        }
        # Nothing is compared if all slices were disturbed.
        rows["ours"] |= {key: figure(values) for key, values in ratios.items() if values}
        return rows

    def _rate_at(self, running: Running, share: float) -> float:
        """The rate that keeps the core busy for that share. Requests are cheaper at high rates, so it tries again."""
        rate = FIRST_RATE
        for _ in range(self._plan.latency_tries):
            [found] = load_in_turn([(running, rate)], 1, RATE_SECONDS)
            rate *= share / max(found["busy"], 1 / FIRST_RATE)
        return rate

    def _memory(self) -> Rows:
        """After each short load; a few of the points are kept."""
        points: list[Row] = []
        requests = 0
        with self._running(self._candidates.main()["ours"]) as running:
            while True:
                points.append({"label": "ours, observed", "requests": requests, **running.server.memory_mb()})
                if requests >= self._plan.memory_requests:
                    break
                requests += running.load(self._plan.short_seconds).requests
            running.finish()
        step = -(-len(points) // MEMORY_POINTS)
        rows = {f"point {n}": point for n, point in enumerate(points) if n % step == 0 or point is points[-1]}
        after = [point["rss_mb"] for point in points if point["requests"] >= MEMORY_AFTER] or [points[-1]["rss_mb"]]
        rows["flat"] = {"label": "largest change from 100,000 requests on", "rss_mb": round(max(after) - min(after), 1)}
        return rows

    def _rounds(
        self,
        chosen: Mapping[str, Candidate],
        rounds: int,
        body: str | None = None,
        figures: Sequence[str] = FIGURES,
    ) -> Rows:
        """All candidates once in each round, in a new process every time; each is compared with the first."""
        loads: dict[str, list[Load]] = {name: [] for name in chosen}
        for number in range(rounds):
            for name in sorted(chosen, key=list(chosen).index, reverse=bool(number % 2)):
                loads[name].append(self._once(chosen[name], body))
        to = next(iter(loads.values()))
        return {
            name: {
                "label": candidate.label,
                "kind": candidate.kind,
                **{key: figure([getattr(load, key) for load in loads[name]]) for key in figures},
                "ratio": ratio([load.rate for load in loads[name]], [load.rate for load in to]),
                "cpu_ratio": ratio([load.cpu_us for load in to], [load.cpu_us for load in loads[name]]),
            }
            for name, candidate in chosen.items()
        }

    def _once(self, candidate: Candidate, body: str | None) -> Load:
        with self._running(candidate) as running:
            if body:
                running.check_validation()
            if candidate.verifies:
                running.check_rejection()
            if self._plan.warm_up_seconds:
                running.load(self._plan.warm_up_seconds, body)
            load = running.load(self._plan.seconds, body)
            running.finish()
        return load

    def _running(self, candidate: Candidate, *, pause: float = 0.0) -> Running:
        print(".", end="", file=sys.stderr, flush=True)
        return Running(candidate, self._collector_port, self._checks, self._others, pause=pause)
