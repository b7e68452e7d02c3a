"""Simulated replicas with a clock of their own, to see which calls a balancer sends where."""

import random
from collections import Counter
from collections.abc import Callable, Iterable
from heapq import heappop, heappush
from typing import NamedTuple

from chassis.client.balancer import Balancer
from chassis.client.outliers import Change
from chassis.client.replicas import Outcome, Replica
from chassis.client.transport import Address

LATENCY_SECONDS = 0.01
ATTEMPT_SECONDS = 1.0


class End(NamedTuple):
    """How a call to a simulated replica ends."""

    outcome: Outcome = Outcome.OK
    seconds: float = LATENCY_SECONDS
    retry_after: float | None = None
    closing: bool = False


REFUSED = End(Outcome.NOT_SENT, 0.0002)
HANGS = End(Outcome.TIMED_OUT, ATTEMPT_SECONDS)
Behaviour = Callable[[], End]


def address(number: int) -> Address:
    """The address of a simulated replica."""
    return Address(f"10.0.0.{number}", 8000)


class Simulation:
    """Sends calls at random times, and counts those of each replica by its number."""

    def __init__(self, replicas: int, *, seed: int = 1, near: Iterable[str] = ()) -> None:
        self.now = 1000.0
        self.random = random.Random(seed)  # noqa: S311 - a simulation that can be repeated
        self.changes: list[tuple[float, Change]] = []
        self.balancer = Balancer(
            near,
            on_change=lambda change: self.changes.append((self.now, change)),
            clock=lambda: self.now,
            random=self.random.random,
        )
        self.behaviours: dict[Address, Behaviour] = {}
        self.calls: Counter[Address] = Counter()
        self._ends: list[tuple[float, int, Replica, End, float]] = []
        self._count = 0
        self.scale(replicas)

    def scale(self, replicas: int) -> None:
        """Have so many replicas."""
        self.balancer.update(address(number) for number in range(replicas))

    def set(self, number: int, behaviour: Behaviour | End | None) -> None:
        """Change how a replica behaves. None: it is well."""
        if isinstance(behaviour, End):
            end = behaviour
            self.behaviours[address(number)] = lambda: end
        elif behaviour is None:
            del self.behaviours[address(number)]
        else:
            self.behaviours[address(number)] = behaviour

    def replica(self, number: int) -> Replica:
        """One of the current replicas."""
        return next(one for one in self.balancer.replicas if one.address == address(number))

    def shares(self, seconds: float, *, per_second: float = 100.0) -> list[float]:
        """Send calls for some time; returns the share of each of the current replicas."""
        self.calls.clear()
        until = self.now + seconds
        while True:
            arrival = self.now + self.random.expovariate(per_second)
            self._run_until(min(arrival, until))
            if arrival >= until:
                break
            self.call()
        total = max(self.calls.total(), 1)
        return [self.calls[one.address] / total for one in self.balancer.replicas]

    def call(self) -> None:
        """Begin one call, without retries."""
        replica = self.balancer.pick()
        assert replica is not None
        self.balancer.begin(replica)
        self.calls[replica.address] += 1
        behaviour = self.behaviours.get(replica.address)
        end = End() if behaviour is None else behaviour()
        if end.outcome is Outcome.OK:
            end = end._replace(seconds=end.seconds * self.random.lognormvariate(0, 0.3))
        self._count += 1
        heappush(self._ends, (self.now + end.seconds, self._count, replica, end, self.now))

    def _run_until(self, time: float) -> None:
        while self._ends and self._ends[0][0] <= time:
            self.now, _, replica, end, began = heappop(self._ends)
            self.balancer.end(replica, end.outcome, self.now - began, end.retry_after, end.closing)
        self.now = time
