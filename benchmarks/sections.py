"""What is measured: each section runs its candidates interleaved, round by round, and gives its part of the results."""

import sys
from collections import defaultdict
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from http import HTTPStatus
from typing import Any

from .catalogue import Candidate, Catalogue
from .checks import Finding, check_answer, check_each_line, check_validation, findings
from .load import ITEM, NEW_ITEM, Request
from .plan import Plan
from .processes import BenchError
from .serving import Bench, Loaded, Running
from .statistics_of import ratios, spread

Results = dict[str, Any]
SHARED_READ_SECONDS = 0.01


class Sections:
    """All sections over one plan; `run` calls one by name."""

    def __init__(self, bench: Bench, catalogue: Catalogue, plan: Plan) -> None:
        self._bench = bench
        self._catalogue = catalogue
        self._plan = plan
        self.findings: list[Finding] = []
        self.results: Results = {}
        self._foreign: dict[str, float] = {}

    def run(self, name: str) -> None:
        """Measure one section; what it finds is in `results` and `findings`."""
        section: Callable[[], Results] = getattr(self, f"_{name}")
        print(f"{name}:", end=" ", file=sys.stderr, flush=True)
        self._bench.foreign.clear()
        self.results[name] = section()
        self._foreign[name] = round(max(self._bench.foreign), 3)
        print(file=sys.stderr)

    def _main(self) -> Results:
        for name in ("ours", "ours_100"):
            candidate = self._catalogue.named(name)
            self.findings += check_each_line(self._bench, candidate, seconds=self._plan.warm_up_seconds)
        candidates = self._catalogue.main()
        loads = self._rounds(candidates, ITEM, self._plan.rounds, self._plan.seconds)
        return {one.name: self._row(one, loads[one.name], loads["bare_asgi"]) for one in candidates}

    def _parts(self) -> Results:
        parts = self._catalogue.parts()
        loads = self._rounds([one for one, _ in parts], ITEM, self._plan.rounds, self._plan.seconds)
        rows = {}
        for candidate, part in parts:
            row = self._row(candidate, loads[candidate.name], None)
            whole = [one.cpu_us for one in loads["ours"]]
            without = [one.cpu_us for one in loads[candidate.name]]
            # Others on the machine only add to what is measured, so what is least has least of them in it.
            costs = min(whole) - min(without)
            # One by one with the whole of the same round, to see how far they stray.
            by_round = spread([one - other for one, other in zip(whole, without, strict=True)])
            rows[candidate.name] = row | {"part": part, "costs_us": round(costs, 2), "costs_by_round_us": by_round}
        return rows

    def _post(self) -> Results:
        candidates = [self._catalogue.named(name) for name in ("bare_fastapi", "ours", "usual")]
        loads = self._few_rounds(candidates, NEW_ITEM)
        return {one.name: self._row(one, loads[one.name], loads["bare_fastapi"]) for one in candidates}

    def _latency(self) -> Results:
        """Each at half of its own peak, and the bare function at the same rate."""
        names = ("ours", "usual")
        found: dict[str, list[dict[str, Any]]] = defaultdict(list)
        rates: dict[str, float] = {}
        for number in range(self._plan.latency_rounds):
            for name in names if number < self._plan.few_rounds else names[:1]:
                rate = rates.setdefault(name, self._peak(name) / 2)
                for which in (name, "bare_asgi"):
                    found[f"{which} at {name}"].append(self._at(self._catalogue.named(which), rate))
        rows: Results = {}
        for name in names:
            for which in (name, "bare_asgi"):
                reports = found[f"{which} at {name}"]
                rows[f"{which} at half of {name}"] = {
                    "rate": spread([one["rate"] for one in reports]),
                    "asked_rate": round(rates[name], 1),
                    "p50_us": spread([one["latency_us"]["p50"] for one in reports]),
                    "p95_us": spread([one["latency_us"]["p95"] for one in reports]),
                    "p99_us": spread([one["latency_us"]["p99"] for one in reports]),
                    "p99.9_us": spread([one["latency_us"]["p99.9"] for one in reports]),
                    "sent_late_p99_us": spread([one["sent_late_us"]["p99"] for one in reports]),
                    "left_out": spread([one["left_out"] for one in reports]),
                }
            own, bare = (rows[f"{which} at half of {name}"]["p99_us"]["rounds"] for which in (name, "bare_asgi"))
            rows[f"{name} at half of {name}"]["p99_ratio"] = ratios(own, bare)
        return rows

    def _routes(self) -> Results:
        names = ("bare_starlette", "bare_fastapi", "ours")
        rows: Results = {name: {} for name in names}
        first: dict[str, list[Loaded]] = {}
        candidates = [
            (name, number, self._catalogue.named(name).with_other_routes(number - 1))
            for number in self._plan.routes
            for name in names
        ]
        loads: dict[tuple[str, int], list[Loaded]] = defaultdict(list)
        for _ in range(self._plan.few_rounds):
            for name, number, candidate in candidates:
                loads[name, number].append(self._once(candidate, ITEM, self._plan.growth_seconds))
        for (name, number), found in loads.items():
            first.setdefault(name, found)
            rows[name][str(number)] = self._figures(found) | {"ratio": _rate_ratios(found, first[name])}
        return rows

    def _concurrency(self) -> Results:
        # A thousand connections that ask again at once are an overload, and load control would turn some away.
        ours = self._catalogue.named("ours").with_env(APP_QUEUE_SECONDS="60")
        others = [self._catalogue.named(name) for name in ("bare_asgi", "bare_fastapi", "usual")]
        loads: dict[tuple[str, int], list[Loaded]] = defaultdict(list)
        for _ in range(self._plan.growth_rounds):
            for candidate in (*others[:2], ours, others[2]):
                with Running(self._bench, candidate) as running:
                    check_answer(running)
                    running.load(seconds=self._plan.warm_up_seconds)
                    for number in self._plan.connections:
                        seconds = self._plan.growth_seconds
                        loads[candidate.name, number].append(running.load(connections=number, seconds=seconds))
                    self.findings += findings(candidate, running.finish())
                _dot()
        return _grown(loads, self._figures)

    def _bodies(self) -> Results:
        sizes = self._plan.body_bytes
        requests = {f"out {size}": Request(f"/blob/{size}") for size in sizes}
        requests |= {f"in {size}": Request("/blob", size) for size in sizes}
        loads: dict[tuple[str, str], list[Loaded]] = defaultdict(list)
        for _ in range(self._plan.growth_rounds):
            for candidate in self._catalogue.bodies():
                with Running(self._bench, candidate) as running:
                    for name, request in requests.items():
                        check_answer(running, request)
                        loads[candidate.name, name].append(running.load(request, seconds=self._plan.growth_seconds))
                    self.findings += findings(candidate, running.finish())
                _dot()
        return _grown(loads, self._figures)

    def _collectors(self) -> Results:
        candidates = self._catalogue.collectors()
        loads = self._few_rounds(candidates, ITEM)
        return {one.name: self._row(one, loads[one.name], loads[candidates[0].name]) for one in candidates}

    def _computing(self) -> Results:
        """Each alone, and while one request computes in a thread."""
        seconds = self._plan.few_seconds
        alone: dict[str, list[Loaded]] = defaultdict(list)
        beside: dict[str, list[Loaded]] = defaultdict(list)
        candidates = self._catalogue.computing()
        for _ in range(self._plan.few_rounds):
            for candidate in candidates:
                with Running(self._bench, candidate) as running:
                    check_answer(running)
                    running.load(seconds=self._plan.warm_up_seconds)
                    alone[candidate.name].append(running.load(seconds=seconds))
                    with ThreadPoolExecutor() as threads:
                        # Longer than the load, so that it computes from the load's begin to its end.
                        computing = threads.submit(running.ask, Request(f"/computing/{seconds + 1}"))
                        beside[candidate.name].append(running.load(seconds=seconds))
                        if computing.done() or computing.result()[0] != HTTPStatus.OK:
                            raise BenchError(f"{candidate.name} didn't compute as long as it was asked to")
                    self.findings += findings(candidate, running.finish())
                _dot()
        return {
            one.name: {
                **self._row(one, beside[one.name], alone[one.name]),
                "alone": self._figures(alone[one.name]),
            }
            for one in candidates
        }

    def _startup(self) -> Results:
        candidates = [self._catalogue.named(name) for name in ("bare_asgi", "bare_fastapi", "ours", "usual")]
        seconds: dict[str, list[float]] = defaultdict(list)
        memory: dict[str, list[float]] = defaultdict(list)
        for _ in range(self._plan.starts):
            for candidate in candidates:
                with Running(self._bench, candidate) as running:
                    seconds[candidate.name].append(running.startup_seconds)
                    memory[candidate.name].append(running.server.memory_mb()["pss"])
                _dot()
        return {
            one.name: {"label": one.label, "seconds": spread(seconds[one.name]), "pss_mb": spread(memory[one.name])}
            for one in candidates
        }

    def _memory(self) -> Results:
        """Our memory after each so many requests; the usual stack's after one load, for comparison."""
        points = []
        ours = self._catalogue.named("ours")
        with Running(self._bench, ours) as running:
            points.append({"requests": 0, **running.server.memory_mb()})
            done = 0
            while done < self._plan.memory_requests:
                done += running.load(seconds=1).answered.requests
                points.append({"requests": done, **running.server.memory_mb()})
                _dot()
            self.findings += findings(ours, running.finish())
        usual = self._catalogue.named("usual")
        with Running(self._bench, usual) as running:
            done = running.load(seconds=self._plan.seconds).answered.requests
            theirs = {"requests": done, **running.server.memory_mb()}
        return {"ours": points, "usual": [theirs]}

    def _few_rounds(self, candidates: Iterable[Candidate], request: Request) -> dict[str, list[Loaded]]:
        return self._rounds(candidates, request, self._plan.few_rounds, self._plan.few_seconds)

    def _rounds(
        self, candidates: Iterable[Candidate], request: Request, rounds: int, seconds: int
    ) -> dict[str, list[Loaded]]:
        """All candidates once in each round, each in a process of its own every time."""
        loads: dict[str, list[Loaded]] = defaultdict(list)
        every = list(candidates)
        for _ in range(rounds):
            for candidate in every:
                loads[candidate.name].append(self._once(candidate, request, seconds))
        return loads

    def _once(self, candidate: Candidate, request: Request, seconds: int) -> Loaded:
        with Running(self._bench, candidate) as running:
            if request is NEW_ITEM:
                check_validation(running)
            check_answer(running, request)
            running.load(request, seconds=self._plan.warm_up_seconds)
            loaded = running.load(request, seconds=seconds)
            self.findings += findings(candidate, running.finish())
        _dot()
        return loaded

    def _at(self, candidate: Candidate, rate: float) -> dict[str, Any]:
        # A reader that wakes for every line would interrupt the client where it has no core of its own.
        shared = self._bench.cores.others == self._bench.cores.load
        with Running(self._bench, candidate, read_every_seconds=SHARED_READ_SECONDS if shared else 0.0) as running:
            check_answer(running)
            running.load(seconds=self._plan.warm_up_seconds)
            report = running.load_at(rate, seconds=self._plan.latency_seconds)
            self.findings += findings(candidate, running.finish())
        _dot()
        return report

    def _peak(self, name: str) -> float:
        if "main" in self.results:
            return float(self.results["main"][name]["rate"]["median"])
        return self._once(self._catalogue.named(name), ITEM, self._plan.seconds).answered.rate

    def _figures(self, loads: list[Loaded]) -> Results:
        return {
            "rate": spread([one.answered.rate for one in loads]),
            "cpu_us": spread([one.cpu_us for one in loads]),
            "p50_us": spread([one.answered.p50_us for one in loads]),
            "p99_us": spread([one.answered.p99_us for one in loads]),
            "busy": spread([one.busy for one in loads]),
            "foreign": spread([one.foreign for one in loads]),
        }

    def _row(self, candidate: Candidate, loads: list[Loaded], to: list[Loaded] | None) -> Results:
        row = {"label": candidate.label, "group": candidate.group, **self._figures(loads)}
        if to is None:
            return row
        by_cpu = ratios([one.cpu_us for one in to], [one.cpu_us for one in loads])
        return row | {"ratio": _rate_ratios(loads, to), "cpu_ratio": by_cpu}

    def as_json(self) -> Results:
        """Everything that was found."""
        return {**self.results, "foreign": self._foreign, "checks": [asdict(one) for one in self.findings]}


def _rate_ratios(loads: list[Loaded], to: list[Loaded]) -> Any:
    return ratios([one.answered.rate for one in loads], [one.answered.rate for one in to])


def _grown(loads: dict[tuple[str, Any], list[Loaded]], figures: Callable[[list[Loaded]], Results]) -> Results:
    rows: Results = defaultdict(dict)
    for (name, what), found in loads.items():
        rows[name][str(what)] = figures(found)
    return dict(rows)


def _dot() -> None:
    print(".", end="", file=sys.stderr, flush=True)
