"""How long everything takes: a full run, and a quick one that shows that the benchmark works."""

from dataclasses import dataclass

SECTIONS = (
    "main",
    "parts",
    "post",
    "latency",
    "routes",
    "concurrency",
    "bodies",
    "collectors",
    "computing",
    "startup",
    "memory",
)


@dataclass(frozen=True, slots=True)
class Plan:
    """Rounds and seconds, many for the first table, few for the others; wrk takes whole seconds only."""

    name: str
    rounds: int
    few_rounds: int
    growth_rounds: int
    seconds: int
    few_seconds: int
    growth_seconds: int
    warm_up_seconds: int
    latency_rounds: int
    latency_seconds: float
    starts: int
    memory_requests: int
    connections: tuple[int, ...] = (1, 16, 64, 256, 1024)
    body_bytes: tuple[int, ...] = (0, 1_000, 100_000, 1_000_000)
    routes: tuple[int, ...] = (1, 10, 100, 500)


FULL = Plan(
    name="full",
    rounds=5,
    few_rounds=3,
    growth_rounds=1,
    seconds=2,
    few_seconds=2,
    growth_seconds=1,
    warm_up_seconds=1,
    latency_rounds=9,
    latency_seconds=2.5,
    starts=7,
    memory_requests=300_000,
)

QUICK = Plan(
    name="quick",
    rounds=2,
    few_rounds=1,
    growth_rounds=1,
    seconds=1,
    few_seconds=1,
    growth_seconds=1,
    warm_up_seconds=1,
    latency_rounds=2,
    latency_seconds=2.5,
    starts=3,
    memory_requests=150_000,
    connections=(1, 64, 1024),
    routes=(1, 500),
)
LONG_MEMORY_REQUESTS = 1_000_000
