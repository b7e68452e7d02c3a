"""`Replica`: one address of a dependency, and what its calls have shown; `Outcome`: how an attempt ended."""

from enum import Enum
from math import exp, inf

from .transport import Address

# Older calls count less: the weight of a call falls to 37 % in this time.
MEMORY_SECONDS = 5.0
# And so many calls are counted at most, so that with many calls a second, failures are noticed sooner.
MEMORY_CALLS = 100.0
# Added to each latency, so that small differences between fast replicas do not matter.
FLOOR_SECONDS = 0.001
# The cost of a replica that fails 10 % of its calls is multiplied by 4.
FAILURE_PENALTY = 30.0
# Calls without a failure that are assumed beside those of a replica, so that one failure of one call is no proof.
ASSUMED_CALLS = 5.0
RAMP_SECONDS = 10.0
MIN_RAMP_SHARE = 0.1


class Outcome(Enum):
    """How an attempt ended."""

    OK = "ok"
    """A response other than the following ones."""
    FAILED = "errors"
    """A response with a status of 500 or above."""
    NOT_NOW = "overloaded"
    """429 or 503."""
    NOT_SENT = "unreachable"
    """No connection could be made."""
    LOST = "connections_lost"
    """The connection failed later."""
    TIMED_OUT = "timeouts"
    """There was no response in the time of the attempt."""
    UNKNOWN = "unknown"
    """The attempt was cancelled, or the caller is starved. It is neither a success nor a failure."""


class Replica:
    """One address of a dependency. A balancer makes it; others read `address` and `in_progress`.

    The latency is a peak-sensitive moving average, as in Finagle: a slower call replaces it, faster ones lower it with
    time, and it decays while there are no calls. So a slow replica is avoided at once, and tried again later.
    """

    __slots__ = (
        "address",
        "closings",
        "closings_since",
        "ejected_at",
        "failures",
        "improved_at",
        "in_progress",
        "is_departed",
        "is_ejected",
        "is_near",
        "is_probed",
        "latency",
        "level",
        "observed_at",
        "out_since",
        "probes_left",
        "ramp_began_at",
        "reason",
        "strikes",
        "successes",
        "until",
        "waiting_since",
    )

    def __init__(self, address: Address, *, is_near: bool, latency: float, now: float, is_ramping: bool) -> None:
        """`latency` is assumed until there are calls. A replica that is ramping gets its full share later."""
        self.address: Address = address
        self.is_near: bool = is_near
        self.is_departed: bool = False
        self.in_progress: int = 0
        self.waiting_since: float = now
        """While calls are in progress: when the replica last responded, or got the first one of them."""
        self.latency: float = latency
        self.successes: float = 0.0
        self.failures: float = 0.0
        """Calls of the last seconds; like the latency, they are as of `observed_at`, and decay."""
        self.observed_at: float = now
        self.ramp_began_at: float = now if is_ramping else -inf
        # The rest is that of outliers.py.
        self.strikes: int = 0
        self.closings: int = 0
        self.closings_since: float = now
        self.is_ejected: bool = False
        self.reason: str = ""
        self.level: int = 0
        self.ejected_at: float = -inf
        self.out_since: float = -inf
        self.until: float = inf
        self.is_probed: bool = False
        self.probes_left: int = 0
        self.improved_at: float = now

    def __repr__(self) -> str:
        state = "ejected" if self.is_ejected else "available"
        return f"<Replica {self.address.host} {self.address.port}, {state}, {self.in_progress} in progress>"

    def cost(self, now: float) -> float:
        """The cost of one more call here: seconds, for the calls in progress and this one.

        A replica that hangs has responded to nothing for some time. Its latency is at least that time.
        """
        decay = exp((self.observed_at - now) / MEMORY_SECONDS)
        latency = self.latency * decay
        calls = self.in_progress
        if calls and now - self.waiting_since > latency:
            latency = now - self.waiting_since
        cost = (calls + 1) * (latency + FLOOR_SECONDS)
        if self.failures:
            failures = self.failures * decay
            cost *= 1.0 + FAILURE_PENALTY * failures / (self.successes * decay + failures + ASSUMED_CALLS)
        return cost

    def succeeded(self, now: float, seconds: float) -> None:
        """Note a call that took `seconds`."""
        decay = exp((self.observed_at - now) / MEMORY_SECONDS)
        self.observed_at = self.waiting_since = now
        if seconds < self.latency:
            seconds += (self.latency - seconds) * decay
        self.latency = seconds
        calls = self.successes * decay + 1.0
        if self.failures:
            self.failures *= decay
            excess = (calls + self.failures) / MEMORY_CALLS
            if excess > 1.0:
                calls /= excess
                self.failures /= excess
        self.successes = min(calls, MEMORY_CALLS)

    def failed(self, now: float, seconds: float) -> None:
        """Note a failed call. To fail quickly does not make a replica fast: its latency does not decay meanwhile."""
        latency = max(seconds, self.latency)
        self._age(now)
        self.latency = latency
        self.failures += 1.0

    def was_silent(self, now: float) -> None:
        """Note that all calls were given up without a response.

        The time without one is added to the latency. So a replica that hangs is avoided the longer the more often its
        calls are given up, such as those that were hedged.
        """
        self._age(now)
        self.latency += now - self.waiting_since

    def ramp_share(self, now: float) -> float:
        """The share of its calls that a new replica gets: it grows from 0.1 to 1 in 10 seconds."""
        return max((now - self.ramp_began_at) / RAMP_SECONDS, MIN_RAMP_SHARE)

    def recent_calls(self, now: float) -> tuple[float, float]:
        """The successes and the failures of the last seconds."""
        decay = exp((self.observed_at - now) / MEMORY_SECONDS)
        return self.successes * decay, self.failures * decay

    def forget_failures(self) -> None:
        """Judge the replica by its next calls."""
        self.successes = self.failures = 0.0
        self.strikes = 0

    def _age(self, now: float) -> None:
        decay = exp((self.observed_at - now) / MEMORY_SECONDS)
        self.observed_at = now
        self.latency *= decay
        self.successes *= decay
        self.failures *= decay
