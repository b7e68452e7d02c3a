"""`Outliers`: ejects replicas that do worse than the others, and admits them again when probes succeed."""

from collections.abc import Callable, Sequence
from math import inf
from typing import NamedTuple

from .replicas import ASSUMED_CALLS, RAMP_SECONDS, Outcome, Replica
from .transport import Address

FIRST_SECONDS, MAX_SECONDS = 0.5, 30.0
MAX_LEVEL = 6  # 0.5 * 2 ** 6 is above the maximum
# The longest ejection while fewer than half of the replicas are available.
SHORT_SECONDS = 1.0
NOT_NOW_SECONDS, MAX_NOT_NOW_SECONDS = 1.0, 10.0
# To try an address that rejects connections costs little, and such a call is always repeated.
MAX_UNREACHABLE_SECONDS = 10.0
# A replica that hangs is seldom back sooner, and each probe of it delays a call.
HANG_SECONDS = 2.0
# A replica that drains closes each connection. So does one without keep-alive: the others' time is not lost for it.
DRAIN_RESPONSES = 3
DRAIN_SECONDS, MAX_DRAIN_SECONDS = 5.0, 30.0
DRAINING = "draining"

# Strikes of a replica since its last success. Six of them eject it.
STRIKES = {Outcome.FAILED: 1, Outcome.LOST: 2, Outcome.TIMED_OUT: 3, Outcome.NOT_NOW: 6}
MAX_STRIKES = 6
# A replica with successes in between is ejected from this share of failures on, and this many of them.
FAILURE_RATIO = 0.1
MIN_FAILURES = 5.0
# Nobody is ejected for what the others have, too: the ratio of failures must be this many times theirs.
TIMES_OTHERS = 3.0
# Replicas that are ejected for these reasons are not compared with: they fail whatever the others do.
INCOMPARABLE = frozenset({DRAINING, Outcome.NOT_SENT.value})

# After ejections for these reasons, a probe that fails has taken no time.
CHEAP_TO_PROBE = frozenset({Outcome.FAILED.value, Outcome.NOT_NOW.value})
PROBES = 3
# Calls that cannot be repeated do not probe, unless no other call has come for this long.
PROBE_PATIENCE_SECONDS = 5.0
# Each time that a replica was well for so long, its next ejection is half as long.
IMPROVE_SECONDS = 10.0
# The ramp after an ejection is this many times as long as the ejection, at most that of a new replica.
RAMP_TIMES = 4.0


class Change(NamedTuple):
    """A replica was ejected or admitted. `reason` is that of its ejection."""

    address: Address
    is_ejected: bool
    reason: str


class Outliers:
    """Decides which of the replicas get calls.

    One that cannot be reached is ejected at once. For other reasons, at most half of the replicas are ejected, and only
    those that fail much more often than the others. A single replica is never ejected. When its time is over, a replica
    is probed with one call at a time. Each ejection is longer than the last one, up to 30 seconds; good behaviour makes
    the next one shorter.
    """

    def __init__(self, random: Callable[[], float], on_change: Callable[[Change], None]) -> None:
        self.replicas: Sequence[Replica] = ()
        self.next_probe_at: float = inf
        """When a replica is due for a probe."""
        self._random = random
        self._on_change = on_change
        self._ejected = 0

    def update(self, replicas: Sequence[Replica], now: float) -> None:
        """Judge these replicas. Ejections that would be too many among them end."""
        self.replicas = replicas
        self._ejected = sum(replica.is_ejected for replica in replicas)
        for replica in sorted(replicas, key=lambda replica: replica.until):
            is_unreachable = replica.reason == Outcome.NOT_SENT.value
            is_excess = self._ejected > len(replicas) // 2 and not is_unreachable
            if replica.is_ejected and (is_excess or len(replicas) == 1):
                self._admit(replica, now)
        self._schedule(now)

    def due_probe(self, now: float, is_repeatable: bool) -> Replica | None:
        """The ejected replica that is to be probed next, if one is due."""
        latest = now if is_repeatable else now - PROBE_PATIENCE_SECONDS
        due = [replica for replica in self.replicas if replica.is_ejected and replica.until <= latest]
        return min((replica for replica in due if not replica.is_probed), key=lambda one: one.until, default=None)

    def begun(self, replica: Replica, now: float) -> None:
        """Note a call to an ejected replica. It is the only probe of it, unless no replica is available."""
        if replica.until <= now:
            replica.is_probed = True
            self._schedule(now)

    def succeeded(self, replica: Replica, now: float, closing: bool) -> bool:
        """Note a success of a replica that was ejected, or closes connections. True if it was ejected or admitted."""
        is_draining = self._is_draining(replica, now) if self._closes(replica, closing, now) else False
        if replica.is_ejected:
            replica.is_probed = False
            is_last = self._ejected == len(self.replicas)
            replica.probes_left -= 1
            if is_draining and not is_last:
                self._extend(replica, DRAIN_SECONDS, now)
            elif is_last or replica.probes_left <= 0:
                self._admit(replica, now)
                self._schedule(now)
                return True
            else:
                replica.until = min(replica.until, now)
                self._schedule(now)
            return False
        if is_draining and self._has_room():
            replica.reason = DRAINING
            self._eject(replica, DRAIN_SECONDS, now)
            return True
        if replica.level and now - replica.improved_at > IMPROVE_SECONDS:
            replica.level -= 1
            replica.improved_at = now
        return False

    def failed(self, replica: Replica, outcome: Outcome, now: float, retry_after: float | None) -> bool:
        """Note a failure. True if the replica was ejected or admitted."""
        if replica.is_ejected:
            return self._probe_failed(replica, outcome, now, retry_after)
        if outcome is not Outcome.NOT_SENT and not self._is_outlier(replica, outcome, now):
            return False
        replica.reason = outcome.value
        self._eject(replica, self._seconds(replica, retry_after), now)
        if outcome is not Outcome.NOT_NOW:
            replica.level = min(replica.level + 1, MAX_LEVEL)
        return True

    def abandoned(self, replica: Replica, now: float) -> None:
        """Note that a probe ended without an outcome. The next one waits as if it had failed."""
        if replica.is_probed:
            self._extend(replica, self._seconds(replica, None), now)

    def _is_outlier(self, replica: Replica, outcome: Outcome, now: float) -> bool:
        """Whether a replica fails in a row or often, and more often than the others."""
        replica.strikes += STRIKES[outcome]
        own = _failure_ratio([replica], now)
        if replica.strikes < MAX_STRIKES and (own < FAILURE_RATIO or replica.failures < MIN_FAILURES):
            return False
        others = [one for one in self.replicas if one is not replica and one.reason not in INCOMPARABLE]
        if _failure_ratio(others, now) * TIMES_OTHERS < own:
            return self._has_room()
        available = _failure_ratio([one for one in self.replicas if not one.is_ejected], now)
        for one in others:
            is_cheap = one.reason in CHEAP_TO_PROBE or available >= FAILURE_RATIO
            if one.is_ejected and one.until > now and is_cheap:
                # It was only the first one of those that fail.
                one.until, one.probes_left = now, 1
        self._schedule(now)
        return False

    def _probe_failed(self, replica: Replica, outcome: Outcome, now: float, retry_after: float | None) -> bool:
        """Prolong the ejection, or end it if those that are not ejected are no better. True if it ends."""
        if not replica.is_probed and now < replica.until:
            return False
        replica.reason = outcome.value
        available = [one for one in self.replicas if not one.is_ejected]
        own, others = (_failure_ratio(group, now) for group in ([replica], available))
        if replica.reason not in INCOMPARABLE and available and others * TIMES_OTHERS >= own:
            self._admit(replica, now)
            self._schedule(now)
            return True
        self._extend(replica, self._seconds(replica, retry_after), now)
        replica.level = min(replica.level + 1, MAX_LEVEL)
        return False

    def _closes(self, replica: Replica, closing: bool, now: float) -> bool:
        """Count the responses in a row that close their connection. One is ordinary: connections have an age."""
        if not closing:
            replica.closings = 0
        else:
            if not replica.closings:
                replica.closings_since = now
            replica.closings += 1
        return replica.closings >= DRAIN_RESPONSES

    def _is_draining(self, replica: Replica, now: float) -> bool:
        """Whether a replica closes connections that others keep, and has not done so for long."""
        if now - replica.closings_since > MAX_DRAIN_SECONDS:
            return False
        return any(not one.closings and one.recent_calls(now)[0] >= 1.0 for one in self.replicas if one is not replica)

    def _has_room(self) -> bool:
        return self._ejected + 1 <= len(self.replicas) // 2

    def _seconds(self, replica: Replica, retry_after: float | None) -> float:
        """How long the replica is ejected."""
        seconds = FIRST_SECONDS * 2.0**replica.level
        if replica.reason == Outcome.NOT_NOW.value:
            asked = NOT_NOW_SECONDS if retry_after is None else min(retry_after, MAX_NOT_NOW_SECONDS)
            seconds = max(min(seconds, MAX_NOT_NOW_SECONDS) if replica.is_ejected else 0.0, asked)
        elif replica.reason == Outcome.TIMED_OUT.value:
            seconds = max(seconds, HANG_SECONDS)
        elif replica.reason == Outcome.NOT_SENT.value:
            seconds = min(seconds, MAX_UNREACHABLE_SECONDS)
        return min(seconds, MAX_SECONDS) * (1.0 + self._random() / 4.0)

    def _eject(self, replica: Replica, seconds: float, now: float) -> None:
        replica.is_ejected = True
        replica.out_since = now
        self._ejected += 1
        self._extend(replica, seconds, now)
        self._on_change(Change(replica.address, True, replica.reason))

    def _extend(self, replica: Replica, seconds: float, now: float) -> None:
        replica.is_probed = False
        replica.ejected_at = now
        replica.until = now + seconds
        replica.probes_left = PROBES
        self._schedule(now)

    def _admit(self, replica: Replica, now: float) -> None:
        reason, replica.reason = replica.reason, ""
        replica.is_ejected = replica.is_probed = False
        replica.until = inf
        replica.improved_at = now
        replica.forget_failures()
        ramp = RAMP_SECONDS
        if reason != Outcome.NOT_SENT.value:  # otherwise it is probably a new process
            ramp = min((now - replica.out_since) * RAMP_TIMES, RAMP_SECONDS)
        replica.ramp_began_at = now + ramp - RAMP_SECONDS
        self._ejected -= 1
        self._on_change(Change(replica.address, False, reason))

    def _schedule(self, now: float) -> None:
        """Find the time of the next probe."""
        is_short = (len(self.replicas) - self._ejected) * 2 < len(self.replicas)
        next_probe_at = inf
        for replica in self.replicas:
            if replica.is_ejected and not replica.is_probed:
                if is_short:
                    replica.until = min(replica.until, now + SHORT_SECONDS)
                next_probe_at = min(next_probe_at, replica.until)
        self.next_probe_at = next_probe_at


def _failure_ratio(replicas: Sequence[Replica], now: float) -> float:
    """The share of failures among the calls of the last seconds."""
    calls = [replica.recent_calls(now) for replica in replicas]
    failures = sum(failed for _, failed in calls)
    return failures / (sum(succeeded for succeeded, _ in calls) + failures + ASSUMED_CALLS)
