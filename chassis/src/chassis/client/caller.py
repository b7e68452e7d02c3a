"""`Caller`: makes a call by the policy of its dependency: deadline, bulkhead, circuit breaker, retries, hedges."""

import asyncio
import math
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from functools import partial
from time import monotonic
from typing import Any

from ..context import request_deadline
from .attempts import Attempts
from .balancer import Balancer
from .breaker import CircuitBreaker
from .bulkhead import Bulkhead, BulkheadFullError
from .call import SAFE_METHODS, Call
from .errors import RETRIES_EXHAUSTED_HEADER, DependencyTimeoutError, DependencyUnavailableError
from .hedge import Hedge
from .hedging import LatencyQuantile
from .metrics import DependencyMetrics
from .replicas import Outcome, Replica
from .resolver import Resolver
from .results import AbandonedError, AttemptTimeoutError, NotAdmittedError, Result
from .retries import RetryBudget, full_jitter, may_retry
from .settings import ClientSettings
from .starvation import MEMORY_SECONDS, Starvation

# A hedge takes CPU as well, so it is no use for calls that are quicker.
MIN_HEDGE_SECONDS = 0.005
HEDGES_PER_SECOND = 0.5
# An attempt with less time could only fail.
MIN_ATTEMPT_SECONDS = 0.001
# A timeout that a starved service sees is repeated when it was not late for so long, or else not at all.
RECOVERY_SECONDS = MEMORY_SECONDS + 0.05
# Of the remaining time of a request: what its handler keeps for its own response.
RESERVED_SECONDS = 0.05
RESERVED_SHARE = 0.1


class Caller:
    """Makes calls to one dependency. All parts are those of one client."""

    def __init__(
        self,
        dependency: str,
        settings: ClientSettings,
        attempts: Attempts,
        balancer: Balancer,
        resolver: Resolver,
        bulkhead: Bulkhead,
        breaker: CircuitBreaker,
        starvation: Starvation,
        metrics: DependencyMetrics,
    ) -> None:
        self._dependency = dependency
        self._attempts = attempts
        self._balancer = balancer
        self._resolver = resolver
        self._bulkhead = bulkhead
        self._breaker = breaker
        self._starvation = starvation
        self._metrics = metrics
        self._budget = RetryBudget(0.0)
        # When a dependency becomes slower, all calls are slower than the quantile for a while. Their hedges must not
        # use the budget up: a retry saves a call, a hedge only time.
        self._hedge_budget = RetryBudget(0.0, floor_per_second=HEDGES_PER_SECOND)
        self._latency = LatencyQuantile()
        self.use_settings(settings)

    def use_settings(self, settings: ClientSettings) -> None:
        """Use the settings for calls that begin from now on."""
        self._max_attempts = settings.max_attempts
        self._attempt_seconds = settings.attempt_timeout_seconds
        self._backoff_seconds = settings.backoff_seconds
        self._hedges = settings.hedge and settings.max_attempts > 1
        self._budget.set_ratio(settings.retry_ratio)
        self._hedge_budget.set_ratio(settings.retry_ratio / 2)

    async def call(self, call: Call) -> Result:
        """Make a call. Returns its last result, which may be a failure.

        Raises a `DependencyError` if nothing is sent: the time of the request has passed, too many calls are in
        progress, the circuit breaker is open, or there is no address.
        """
        ends_at = await self._enter(call)
        try:
            return await self._make(call, ends_at)
        finally:
            self._leave()

    @asynccontextmanager
    async def streaming(self, call: Call) -> AsyncIterator[Result]:
        """Make a call, and yield its last result. The call is in progress until the end of the block."""
        ends_at = await self._enter(call)
        try:
            result = await self._make(call, ends_at)
            try:
                yield result
            finally:
                result.close()
        finally:
            self._leave()

    async def _enter(self, call: Call) -> float:
        """Admit a call, which may wait for others. Returns its deadline, monotonic seconds."""
        seconds = call.seconds
        remaining = request_deadline()
        if remaining is not None:
            # The rest is for the response: with the time of the request, nobody would learn which dependency was slow.
            seconds = min(seconds, remaining - min(RESERVED_SECONDS, remaining * RESERVED_SHARE))
        if seconds < MIN_ATTEMPT_SECONDS:
            self._metrics.rejected("deadline")
            raise DependencyTimeoutError(self._dependency, "was not called, because the request's time is over")
        self._starvation.begin()
        try:
            waits = self._bulkhead.enter()
            if waits is not None:
                async with asyncio.timeout(seconds):
                    await waits
        except BaseException as error:
            self._starvation.end()
            if isinstance(error, (BulkheadFullError, TimeoutError)):
                self._metrics.rejected("bulkhead")
                reason = "has too many calls in progress"
                raise DependencyUnavailableError(self._dependency, reason, retry_after=1) from None
            raise
        call.seconds = seconds
        return call.began + seconds

    def _leave(self) -> None:
        self._bulkhead.leave()
        self._starvation.end()

    async def _make(self, call: Call, ends_at: float) -> Result:
        self._budget.deposit()
        tried: list[Replica] = []
        last: Result | None = None
        while True:
            replica = self._balancer.pick(tried, is_repeatable=call.is_idempotent)
            tried.append(replica or await self._first_replica(ends_at))
            result = await self._attempt(call, tried, ends_at, is_first=last is None)
            if isinstance(result.error, NotAdmittedError):
                # The body of a streamed response has not been read, and cannot be any more.
                if last is None or call.is_stream:
                    raise self._not_admitted()
                return last
            call.attempts, call.status = len(tried), result.status
            if result.error is None and call.expects(result.status):
                return result
            if result.outcome is Outcome.NOT_SENT:
                self._resolver.refresh()
            # Perhaps this service was late, and not the dependency.
            is_suspect = isinstance(result.error, AttemptTimeoutError) and self._starvation.is_starved
            delay = self._delay(call, result, tried, ends_at, RECOVERY_SECONDS if is_suspect else 0.0)
            if delay is None:
                return result
            result.close()
            last = result
            if delay > 0:
                await asyncio.sleep(delay)
            if is_suspect and self._starvation.is_starved:
                self._metrics.denied("starved")
                return result

    def _attempt(
        self, call: Call, tried: list[Replica], ends_at: float, *, is_first: bool
    ) -> Coroutine[Any, Any, Result]:
        # With a single replica, such as the virtual address of a Kubernetes service, there is none for a hedge.
        if is_first and self._hedges and call.method in SAFE_METHODS and len(self._balancer.replicas) > 1:
            return self._hedged(call, tried, ends_at)
        seconds = self._seconds_of_attempt(call, ends_at)
        return self._attempts.send(call, tried[-1], seconds, len(tried) - 1, "first" if is_first else "retry")

    def _not_admitted(self) -> DependencyUnavailableError:
        self._metrics.rejected("breaker")
        retry_after = max(1, math.ceil(self._breaker.seconds_until_probe))
        reason = "is not called now, because its circuit breaker is open"
        return DependencyUnavailableError(self._dependency, reason, retry_after=retry_after)

    def _seconds_of_attempt(self, call: Call, ends_at: float) -> float:
        """The time of an attempt: by default half of that of the call, so that another one has time as well."""
        remaining = max(ends_at - monotonic(), MIN_ATTEMPT_SECONDS)
        return min(self._attempt_seconds or call.seconds / 2, remaining)

    async def _first_replica(self, ends_at: float) -> Replica:
        """Wait for the first address of the dependency."""
        try:
            async with asyncio.timeout(ends_at - monotonic()):
                await self._resolver.ready()
        except TimeoutError:
            pass
        replica = self._balancer.pick(())
        if replica is None:
            raise DependencyUnavailableError(
                self._dependency, "has no address: its name cannot be resolved", retry_after=1
            )
        return replica

    async def _hedged(self, call: Call, tried: list[Replica], ends_at: float) -> Result:
        """Send a request, and once more to another replica when it is slower than 95 % of the calls."""
        self._hedge_budget.deposit()
        began = monotonic()
        seconds = self._seconds_of_attempt(call, ends_at)
        hedge = Hedge(partial(self._second, call, tried, ends_at), call.expects)
        hedge.begin(self._hedge_delay())
        try:
            first = await self._attempts.send(call, tried[0], seconds, 0, "first", hedge)
            result = first if call.expects(first.status) else await hedge.better(first)
            is_second = result is not first
        except AbandonedError as error:
            result, is_second = error.result, True
        except BaseException:
            hedge.end(None)
            raise
        hedge.end(result)
        if is_second:
            self._metrics.hedge_won()
        self._latency.observe(monotonic() - began)
        return result

    def _second(self, call: Call, tried: list[Replica], ends_at: float) -> Coroutine[Any, Any, Result] | None:
        """The second attempt of a hedged call; None while there should be none."""
        if self._starvation.is_starved:
            self._metrics.denied("starved")
            return None
        replica = self._balancer.pick(tried)
        if replica is None or replica in tried:
            return None
        if not (self._hedge_budget.withdraw() and self._budget.withdraw()):
            self._metrics.denied("budget")
            return None
        tried.append(replica)
        return self._attempts.send(call, replica, self._seconds_of_attempt(call, ends_at), 1, "hedge")

    def _hedge_delay(self) -> float | None:
        value = self._latency.value
        return None if value is None else max(value, MIN_HEDGE_SECONDS)

    def _delay(
        self, call: Call, result: Result, tried: list[Replica], ends_at: float, least_seconds: float
    ) -> float | None:
        """The seconds until the next attempt, at least `least_seconds`; None for no further one."""
        headers = {} if result.response is None else result.response.headers
        failure = result.error or result.status
        if not may_retry(failure, is_idempotent=call.is_idempotent, retry_after=result.retry_after):
            return None
        reason = ""
        delay = least_seconds
        if RETRIES_EXHAUSTED_HEADER in headers:
            reason = "exhausted"
        elif len(tried) >= self._max_attempts:
            reason = "attempts"
        else:
            # Another replica is asked at once: it is probably well, and a wait would only slow the call down. If all of
            # them fail at the same moment, all calls are repeated at the same moment. But the retry budget bounds this
            # to a tenth more calls, and the circuit breaker ends it. A second attempt at one replica is random in time.
            if not self._balancer.has_others(tried):
                delay += full_jitter(len(tried), self._backoff_seconds) + (result.retry_after or 0.0)
            if monotonic() + delay + MIN_ATTEMPT_SECONDS >= ends_at:
                reason = "deadline"
            elif not self._budget.withdraw():
                reason = "budget"
        if reason:
            self._metrics.denied(reason)
            return None
        return delay
