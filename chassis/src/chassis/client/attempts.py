"""`Attempts`: sends a request of a call to one replica, and notes how that ended."""

import asyncio
from http import HTTPStatus
from time import monotonic, time
from typing import TYPE_CHECKING

from .attempt_timeout import AttemptTimeout
from .balancer import Balancer
from .breaker import CircuitBreaker
from .call import Call
from .hedge import Hedge
from .replicas import Outcome, Replica
from .results import AbandonedError, AttemptTimeoutError, NotAdmittedError, Result
from .retries import retry_after_seconds
from .starvation import Starvation
from .telemetry import Attempt, DependencyTelemetry
from .transport import InboundResponse, NotSentError, OutboundRequest, ResponseTooLargeError, TransportError

if TYPE_CHECKING:
    from .transport import Transport

DEADLINE_HEADER = "x-request-timeout-ms"
# Statuses that say "not now". With `Retry-After`, they are backpressure, and no failure.
NOT_NOW = frozenset({HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE})
FAILURES = frozenset({Outcome.FAILED, Outcome.NOT_SENT, Outcome.LOST, Outcome.TIMED_OUT})


class Attempts:
    """Sends requests to replicas. Balancer, circuit breaker and telemetry get to know how each one ended."""

    def __init__(
        self,
        balancer: Balancer,
        breaker: CircuitBreaker,
        starvation: Starvation,
        telemetry: DependencyTelemetry,
        *,
        max_response_bytes: int,
    ) -> None:
        self.transport: Transport | None = None
        """The network; None while the client is not open."""
        self._balancer = balancer
        self._breaker = breaker
        self._starvation = starvation
        self._telemetry = telemetry
        self._metrics = telemetry.metrics
        self.max_response_bytes: int = max_response_bytes

    async def send(
        self, call: Call, replica: Replica, seconds: float, resend_count: int, kind: str, hedge: Hedge | None = None
    ) -> Result:
        """Send the request of `call` to `replica`, for at most `seconds`, unless the circuit breaker is open.

        `kind` is `first`, `retry` or `hedge`, for metrics. Raises `AbandonedError` if `hedge` was faster, and
        `asyncio.CancelledError`. Nothing else is raised for what happens on the network.
        """
        permit = self._breaker.admit()
        if not permit:
            return Result(Outcome.UNKNOWN, error=NotAdmittedError("the circuit breaker is open"))
        self._metrics.attempt(kind)
        observed = self._telemetry.begin(call.method, call.route, call.target, resend_count, call.context)
        headers = {**observed.headers, DEADLINE_HEADER: str(int(seconds * 1000)), **call.headers}
        request = OutboundRequest(call.method, call.target, headers, call.body)
        began = monotonic()
        self._balancer.begin(replica)
        result: Result | None = None
        try:
            result = await self._exchange(call, request, replica, seconds, hedge)
            return result
        finally:
            self._note(result, replica, monotonic() - began, observed, permit)

    async def _exchange(
        self, call: Call, request: OutboundRequest, replica: Replica, seconds: float, hedge: Hedge | None
    ) -> Result:
        if self.transport is None:
            raise RuntimeError("the client is not open; the app opens it when the service starts")
        response: InboundResponse | None = None
        timeout = AttemptTimeout(seconds)
        try:
            with timeout:
                if hedge is not None:
                    hedge.watch(timeout)
                response = await self.transport.send(request, replica.address)
                body = b"" if call.is_stream else await response.read(self.max_response_bytes)
        except TimeoutError:
            if not timeout.is_expired:
                raise
            if hedge is not None and hedge.won is not None:
                raise AbandonedError(hedge.won) from None
            self._starvation.note_late(asyncio.get_running_loop().time() - timeout.due)
            outcome = Outcome.UNKNOWN if self._starvation.is_starved else Outcome.TIMED_OUT
            return Result(outcome, error=AttemptTimeoutError(f"no complete response within {seconds:.3g} seconds"))
        except NotSentError as error:
            return Result(Outcome.UNKNOWN if self._starvation.is_starved else Outcome.NOT_SENT, error=error)
        except ResponseTooLargeError as error:
            return Result(Outcome.OK, response, error=error)
        except TransportError as error:
            return Result(Outcome.LOST, response, error=error)
        finally:
            if hedge is not None:
                hedge.watch(None)
        return _result_of(response, body)

    def _note(self, result: Result | None, replica: Replica, seconds: float, observed: Attempt, permit: int) -> None:
        if result is None:
            self._balancer.end(replica, Outcome.UNKNOWN, seconds)
            self._breaker.release(permit)
            observed.end(error=asyncio.CancelledError(), peer=replica.address)
            return
        response = result.response
        closing = response is not None and response.headers.get("connection", "").lower() == "close"
        self._balancer.end(replica, result.outcome, seconds, retry_after=result.retry_after, closing=closing)
        if result.outcome is Outcome.UNKNOWN:
            self._breaker.release(permit)
        else:
            self._breaker.record(result.outcome in FAILURES, permit)
        version = "" if response is None else response.http_version
        observed.end(status=result.status, http_version=version, error=result.error, peer=replica.address)


def _result_of(response: InboundResponse, body: bytes) -> Result:
    if response.status < HTTPStatus.TOO_MANY_REQUESTS:
        return Result(Outcome.OK, response, body)
    if response.status in NOT_NOW:
        retry_after = retry_after_seconds(response.headers.get("retry-after"), time())
        outcome = Outcome.FAILED if retry_after is None else Outcome.NOT_NOW
        return Result(outcome, response, body, retry_after=retry_after)
    return Result(Outcome.FAILED if response.status >= HTTPStatus.INTERNAL_SERVER_ERROR else Outcome.OK, response, body)
