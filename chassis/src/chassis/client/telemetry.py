"""Spans, metrics and log lines of calls to one dependency."""

import asyncio
from functools import partial

import structlog
from opentelemetry.context import Context
from pydantic import ValidationError
from structlog.typing import FilteringBoundLogger

from ..context import request_context
from ..telemetry import Telemetry
from ..telemetry.client_spans import Call, SentRequest
from ..telemetry.error_type import qualified_name
from ..telemetry.known_methods import OTHER_METHOD
from ..telemetry.plain_values import text
from ..telemetry.query_redaction import QueryRedactor
from .errors import DependencyError
from .metrics import DependencyCallKey, DependencyMetrics
from .origin import Origin
from .response import UnexpectedStatusError
from .transport import Address

log: FilteringBoundLogger = structlog.get_logger()

MAX_FIELDS = 5

Attempt = Call
"""One attempt of a call: `headers` propagate its context, and `end` observes it."""


class DependencyTelemetry:
    """Observes the calls to one dependency, by OpenTelemetry's semantic conventions for HTTP clients."""

    def __init__(self, dependency: str, telemetry: Telemetry, origin: Origin) -> None:
        """`origin` is that of the base URL, whatever replica an attempt is sent to."""
        self.metrics: DependencyMetrics = DependencyMetrics(dependency, telemetry)
        self._dependency = dependency
        self._calls = telemetry.client
        self._known_methods = telemetry.known_methods
        self._host = origin.host
        self._port = origin.port
        self._origin = f"{origin.scheme}://{origin.authority}"

    def begin(self, method: str, route: str, target: str, resend_count: int, context: Context) -> Attempt:
        """Begin an attempt in `context`.

        `route` is the path as written in the code, `target` what is sent. `resend_count` is the number of attempts of
        the call before this one.
        """
        url = partial(self._shown_url, target)
        request = SentRequest(method, self._host, self._port, url, route, resend_count, self._dependency)
        return self._calls.begin(request, context)

    def _shown_url(self, target: str, redact_query: QueryRedactor) -> str:
        path, question_mark, query = target.partition("?")
        return f"{self._origin}{path}{question_mark}{redact_query(query.encode()) if query else ''}"

    def end_call(
        self,
        method: str,
        route: str,
        seconds: float,
        context: Context,
        *,
        status: int,
        error: BaseException | None,
        attempts: int,
    ) -> None:
        """Note that a call of `context` has ended, with its last status (0 without one), and log it if it has failed.

        A call that was cancelled, such as by a client that has disconnected, has not failed.
        """
        known = method if method in self._known_methods else OTHER_METHOD
        key = DependencyCallKey(self._dependency, known, "" if error is None else _error_type(error))
        request = request_context(context)
        self.metrics.durations.observe(
            key, seconds, request.trace_id if request is not None and request.sampled else None
        )
        if error is None or isinstance(error, asyncio.CancelledError):
            return
        facts: dict[str, object] = {"dependency": self._dependency, "method": method, "route": route}
        if status:
            facts["status"] = status
        if not isinstance(error, UnexpectedStatusError):
            facts["error"] = _reason(error)
        log.warning("call failed", **facts, attempts=attempts, seconds=round(seconds, 3))

    def breaker_changed(self, state: str) -> None:
        """Count and log that the circuit breaker is now `closed`, `half-open` or `open`."""
        if state == "open":
            self.metrics.breaker_opened()
        write = log.warning if state == "open" else log.info
        write("circuit breaker changed", dependency=self._dependency, state=state)

    def replica_ejected(self, replica: Address, reason: str) -> None:
        """Count and log that a replica is not asked for some seconds."""
        self.metrics.ejected(reason)
        log.warning(
            "replica ejected",
            dependency=self._dependency,
            replica=_shown_address(replica),
            reason=reason,
        )

    def replica_admitted(self, replica: Address) -> None:
        """Log that a replica that was ejected is asked again."""
        log.info("replica admitted", dependency=self._dependency, replica=_shown_address(replica))


def _error_type(error: BaseException) -> str:
    return str(error.response.status) if isinstance(error, UnexpectedStatusError) else qualified_name(type(error))


def _reason(error: BaseException) -> str:
    """The reason of a failure with its cause, without the values that a response had."""
    reason = error.reason if isinstance(error, DependencyError) else f"{qualified_name(type(error))}: {text(error)}"
    cause = error.__cause__
    if cause is None:
        return reason
    if isinstance(cause, ValidationError):
        faults = cause.errors(include_url=False, include_context=False, include_input=False)
        places = [f"{'.'.join(map(str, fault['loc'])) or 'body'}: {fault['type']}" for fault in faults[:MAX_FIELDS]]
        return f"{reason}: {', '.join(places)}{', …' if len(faults) > MAX_FIELDS else ''}"
    return f"{reason}: {text(cause) or qualified_name(type(cause))}"


def _shown_address(address: Address) -> str:
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
