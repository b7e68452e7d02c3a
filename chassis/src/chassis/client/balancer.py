"""`Balancer`: chooses the replica for each attempt of a call."""

import ipaddress
import random as standard_random
from collections.abc import Callable, Collection, Iterable, Sequence
from math import inf
from time import monotonic

from .outliers import Change, Outliers
from .replicas import MIN_RAMP_SHARE, RAMP_SECONDS, Outcome, Replica
from .transport import Address

# The second choice must be better by this factor, so that replicas that are almost equal share the calls.
TOLERANCE = 1.25
# A third choice must be better by this factor: it is for the case that both of the others are faulty. So must a replica
# of another zone.
CLEARLY_BETTER = 3.0

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def _ignore(change: Change) -> None:
    """The default of `on_change`."""


class Balancer:
    """Chooses between the replicas of one dependency: the better one of two at random ("power of two choices").

    The cost of a replica is its latency, multiplied by its calls in progress and by its failures. New replicas, and
    those that were ejected, get a growing share of their calls. Where `near` has replicas, the better one of two near
    ones is taken, unless one of the others is much better. It is used by one thread; a choice takes about 2 µs.

    Each call of `begin` is followed by one of `end`, whatever happens to the attempt.
    """

    def __init__(
        self,
        near: Iterable[str] = (),
        *,
        on_change: Callable[[Change], None] = _ignore,
        clock: Callable[[], float] = monotonic,
        random: Callable[[], float] = standard_random.random,
    ) -> None:
        """`near` are networks such as `10.1.0.0/16`. Raises `ValueError` if one is none."""
        self._networks: list[Network] = [ipaddress.ip_network(network) for network in near]
        self._outliers = Outliers(random, on_change)
        self._clock = clock
        self._random = random
        self._known: dict[Address, Replica] = {}
        """All replicas that have addresses or calls in progress."""
        self._near: list[Replica] = []
        self._far: list[Replica] = []
        self._ramps_end_at = -inf

    @property
    def replicas(self) -> Sequence[Replica]:
        """The replicas that have addresses."""
        return self._outliers.replicas

    @property
    def ejected(self) -> int:
        """How many of them are ejected."""
        return sum(replica.is_ejected for replica in self.replicas)

    def update(self, addresses: Iterable[Address]) -> None:
        """Use these addresses. Replicas that are missing get no new calls; their calls in progress end as usual."""
        now = self._clock()
        wanted = dict.fromkeys(addresses)
        for replica in self._known.values():
            replica.is_departed = replica.address not in wanted
        self._known = {key: one for key, one in self._known.items() if not one.is_departed or one.in_progress}
        current = {replica.address for replica in self.replicas}
        stays = any(address in current for address in wanted)
        latencies = sorted(replica.latency for replica in self.replicas)
        latency = latencies[len(latencies) // 2] if latencies else 0.0
        for address in wanted:
            if address not in self._known:
                self._known[address] = Replica(
                    address, is_near=self._is_near(address), latency=latency, now=now, is_ramping=stays
                )
        self._outliers.update([self._known[address] for address in wanted], now)
        self._sort(now)

    def pick(self, tried: Collection[Replica] = (), *, is_repeatable: bool = True) -> Replica | None:
        """The replica for the next attempt of a call; None if there are no addresses.

        It is one of `tried` only when no other replica is available. Calls that are not repeatable are seldom sent to
        an ejected replica to see whether it is back.
        """
        now = self._clock()
        if now >= self._outliers.next_probe_at and not tried:
            replica = self._outliers.due_probe(now, is_repeatable)
            if replica is not None:
                return replica
        near, far = self._near, self._far
        if tried:
            untried_near = [replica for replica in near if replica not in tried]
            untried_far = [replica for replica in far if replica not in tried]
            if untried_near or untried_far:
                near, far = untried_near, untried_far
        if not near:
            return self._better_of_two(far, now) if far else None
        replica = self._better_of_two(near, now)
        if far:
            other = self._better_of_two(far, now)
            if self._cost(other, now) * CLEARLY_BETTER < self._cost(replica, now):
                return other
        return replica

    def has_others(self, tried: Collection[Replica]) -> bool:
        """Whether a replica is available that is not one of `tried`."""
        return any(not (replica.is_ejected or replica in tried) for replica in self.replicas)

    def begin(self, replica: Replica) -> None:
        """Note that an attempt begins."""
        if not replica.in_progress:
            replica.waiting_since = self._clock()
        replica.in_progress += 1
        if replica.is_ejected:
            self._outliers.begun(replica, self._clock())

    def end(
        self,
        replica: Replica,
        outcome: Outcome,
        seconds: float,
        retry_after: float | None = None,
        closing: bool = False,
    ) -> None:
        """Note how an attempt ended, `seconds` after it began; for a streamed response, when its headers arrived.

        `retry_after` is the number of seconds in `Retry-After`. `closing` says that the response had
        `Connection: close`.
        """
        now = self._clock()
        if replica.in_progress:
            replica.in_progress -= 1
        if outcome is Outcome.OK:
            replica.succeeded(now, seconds)
            replica.strikes = 0
            if closing or replica.closings or replica.level or replica.is_ejected:
                self._ended_well(replica, now, seconds, closing)
        elif outcome is Outcome.UNKNOWN:
            if not replica.in_progress:
                replica.was_silent(now)
            if now - seconds > replica.ejected_at:
                self._outliers.abandoned(replica, now)
        else:
            if outcome is not Outcome.TIMED_OUT:
                replica.waiting_since = now
            self._ended_badly(replica, outcome, now, seconds, retry_after)

    def _ended_well(self, replica: Replica, now: float, seconds: float, closing: bool) -> None:
        # A call that began before the ejection says nothing about the replica as it is now.
        is_old = replica.is_ejected and now - seconds <= replica.ejected_at
        if not (is_old or replica.is_departed or len(self.replicas) == 1) and self._outliers.succeeded(
            replica, now, closing
        ):
            self._sort(now)

    def _ended_badly(
        self, replica: Replica, outcome: Outcome, now: float, seconds: float, retry_after: float | None
    ) -> None:
        if now - seconds <= replica.ejected_at:
            return
        replica.failed(now, seconds)
        if replica.is_departed or len(self.replicas) == 1:
            return
        if self._outliers.failed(replica, outcome, now, retry_after):
            self._sort(now)

    def _sort(self, now: float) -> None:
        """Prepare the lists that `pick` chooses from. If all replicas are ejected, all are used."""
        usable = [replica for replica in self.replicas if not replica.is_ejected] or list(self.replicas)
        self._near = [replica for replica in usable if replica.is_near]
        self._far = [replica for replica in usable if not replica.is_near]
        self._ramps_end_at = max((replica.ramp_began_at for replica in usable), default=-inf) + RAMP_SECONDS

    def _better_of_two(self, replicas: list[Replica], now: float) -> Replica:
        count = len(replicas)
        if count == 1:
            return replicas[0]
        random = self._random
        index = int(random() * count)
        other = int(random() * (count - 1))
        if other >= index:
            other += 1
        first, second = replicas[index], replicas[other]
        is_ramping = now < self._ramps_end_at
        cost = self._cost(first, now) if is_ramping else first.cost(now)
        other_cost = self._cost(second, now) if is_ramping else second.cost(now)
        if other_cost * TOLERANCE < cost:
            first, cost = second, other_cost
        if count > 2:
            third = replicas[3 - index - other if count == 3 else int(random() * count)]
            third_cost = self._cost(third, now) if is_ramping else third.cost(now)
            if third_cost * CLEARLY_BETTER < cost:
                return third
        return first

    def _cost(self, replica: Replica, now: float) -> float:
        """The cost, which is increased at random while the replica is ramping, so that its share of calls grows.

        A weight as a divisor would keep all calls from it while there are few of them.
        """
        cost = replica.cost(now)
        if now < replica.ramp_began_at + RAMP_SECONDS and self._random() >= replica.ramp_share(now):
            cost /= MIN_RAMP_SHARE
        return cost

    def _is_near(self, address: Address) -> bool:
        if not self._networks:
            return False
        try:
            ip = ipaddress.ip_address(address.host)
        except ValueError:  # a host name
            return False
        return any(ip.version == network.version and ip in network for network in self._networks)
