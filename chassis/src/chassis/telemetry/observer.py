"""Turns the observations of requests into metrics, spans and access lines."""

import asyncio
import os
import sys
from contextvars import Context, ContextVar, copy_context
from datetime import UTC, datetime
from time import perf_counter
from typing import Any
from weakref import WeakSet

import orjson
from structlog.contextvars import STRUCTLOG_KEY_PREFIX, get_contextvars

from ..request_info import BY_CALLER
from ..worker_slot import WorkerSlot
from .access_line import MEMBERS, access_line, json_text
from .levels import LEVELS
from .logs import C1_LEAD, DELETE, Logs, escape_controls
from .metrics import RequestMetrics
from .observation import CLIENT_CLOSED_REQUEST, Observation
from .query_redaction import QueryRedactor
from .recent_requests import RecentRequests
from .route_template import UNMATCHED, route_template
from .span_attributes import end_span

# Any client can ask for an unknown method or for too little time, and 503 is intended: the service drains, sheds load
# or is not ready.
NO_FAILURE = frozenset({501, 503})
SWITCHING_PROTOCOLS = 101
GATEWAY_TIMEOUT = 504
MAX_VARIABLES = 1000  # of contexts; normally there are less than ten
NO_CONTENT = frozenset({204, 304})  # RFC 9110, section 6.4.1


class Observer:
    """Observes all requests that ended in one turn of the event loop together (docs/performance.md in the template).

    Processors of the access line that the service's owner has added may need the request's context variables. So
    with them each request is observed by itself, before its task ends.
    """

    def __init__(self, logs: Logs, metrics: RequestMetrics) -> None:
        self.active: set[Observation] = metrics.active
        """The requests in progress."""
        self._logs = logs
        self._metrics = metrics
        self._access_log = logs.access_logger()
        self._redact_query = QueryRedactor(logs.redactor.is_secret)
        self._at_once = logs.has_processors
        self._last = b"}" if WorkerSlot.number is None else b',"worker":%d}' % WorkerSlot.number
        self._ended: list[Observation] = []
        self.recent: RecentRequests = RecentRequests()
        """The last requests, for operators."""
        self._without_facts: set[ContextVar[Any]] = set()
        _observers.add(self)
        self.is_stopping: bool = False
        """Whether the server cancels the remaining requests at the end of a graceful shutdown."""

    def end(self, ended: Observation) -> None:
        """Observe a request at the end of this turn; called on the event loop, in the task of the request."""
        if ended not in self.active:
            return  # a task that the request has left behind has completed the response
        self.active.discard(ended)
        ended.seconds = perf_counter() - ended.began
        context = copy_context()
        # Mostly there is one variable: OpenTelemetry's, which the request's middleware has set.
        if len(context) > 1 and not self._without_facts.issuperset(context):
            self._find_facts(context, ended)
        if not self._ended and not self._at_once:
            asyncio.get_running_loop().call_soon(self.observe)
        self._ended.append(ended)
        if self._at_once:
            self.observe()

    def _find_facts(self, context: Context, ended: Observation) -> None:
        """Note what structlog has bound, and which variables are others, so that they are not examined again."""
        if any(variable.name.startswith(STRUCTLOG_KEY_PREFIX) for variable in context):
            ended.bound_facts = get_contextvars()
        elif len(self._without_facts) < MAX_VARIABLES:
            self._without_facts.update(context)

    def begin_empty(self) -> None:
        """Discard the requests that have ended, in a forked child: its parent observes them."""
        self._ended = []

    def observe(self) -> None:
        """Observe the requests that have ended by now."""
        observations, self._ended = self._ended, []
        now = datetime.now(UTC)
        timestamp, timestamp_json = now.timestamp(), orjson.dumps(now, option=orjson.OPT_UTC_Z)
        observe = self._metrics.observe
        lowest_level = self._logs.level
        for observation in observations:
            scope, context, info = observation.scope, observation.context, observation.info
            interrupted = self.is_stopping and info.error is asyncio.CancelledError
            if interrupted:
                info.error = None  # not an error of the service
            method = observation.method
            status = observation.status or observation.final_status
            route = getattr(scope.get("route"), "path_format", None)
            if route is None or scope.get("root_path"):  # nothing matched, or something is mounted
                route = route_template(scope, observation.path, status, observation.rules.find_route)
            request_bytes = info.body_bytes
            # The server does not send the content of these.
            response_bytes = 0 if method == "HEAD" or status in NO_CONTENT else observation.body_bytes
            facts = self._access_log.redact(context.facts) if context.facts else None
            if facts and context.sampled:
                context.span.set_attributes(facts)
            error = info.error
            # 499 means that there was no response, which has no status in metrics and spans.
            sent_status = status if observation.status or status != CLIENT_CLOSED_REQUEST else 0
            exemplar = end_span(observation, route, sent_status, error, self._redact_query) if context.sampled else None
            key = (method, route, sent_status, scope.get("scheme", "http"), error)
            observe(key, observation.seconds, request_bytes, response_bytes, exemplar, timestamp)
            if status < observation.rules.min_logged_status:
                continue
            # The rest of a stream depends on the client, and on what the stream is for.
            is_streamed = observation.is_streamed
            start_seconds = observation.started_at - observation.began if is_streamed else observation.seconds
            level = "info" if status < 500 and error is None else level_of_failure(status, observation)
            line = access_line(observation, timestamp_json, level, status, route, request_bytes, response_bytes)
            if info.subject is not None:
                line += b',"subject":' + json_text(info.subject)
            if facts or error is not None or observation.bound_facts or interrupted or is_streamed:
                line += self._more(observation, facts, interrupted=interrupted)
            line += self._last
            if DELETE in line or C1_LEAD in line:
                line = escape_controls(line)
            if not observation.rules.min_logged_status:  # a failed probe of the admin port is no request of a client
                # Clients can ask for unknown methods, and overload rejects many: they would replace the failures.
                is_rejected = route == UNMATCHED and status in NO_FAILURE
                is_failed = error is not None or (status >= 500 and not is_rejected)
                self.recent.add(line, timestamp, start_seconds, is_failed, status == SWITCHING_PROTOCOLS)
            if LEVELS[level] >= lowest_level:
                self._access_log.json_line(level, line)

    def _more(self, observation: Observation, facts: dict[str, Any] | None, *, interrupted: bool) -> bytes:
        """The facts that most lines do not have, as members of an object in JSON."""
        info = observation.info
        more: dict[str, Any] = {}
        if interrupted:
            more["shutdown"] = True
        if info.error is not None:
            more["error"] = info.error.__qualname__
        if observation.is_streamed:
            more["first_byte_ms"] = int((observation.started_at - observation.began) * 1_000_000) / 1000
        taken = {*MEMBERS, *more} | ({"subject"} if info.subject is not None else set())
        if facts:
            more |= {f"{key}_" if key in taken else key: value for key, value in facts.items()}
        if observation.bound_facts:
            bound = self._access_log.redact(observation.bound_facts)
            more |= {key: value for key, value in bound.items() if key not in taken and key not in more}
        members = self._access_log.json(more)[1:-1]
        return b"," + members if members else b""


def level_of_failure(status: int, observation: Observation) -> str:
    """The level of the line of a request that failed, or whose response is 500 or above."""
    if status < 500:  # the response had started already
        return "error" if observation.info.is_logged else "warning"
    by_caller = status == GATEWAY_TIMEOUT and observation.info.timed_out in BY_CALLER
    return "warning" if status in NO_FAILURE or by_caller else "error"


def _begin_empty_in_child() -> None:
    for observer in _observers:
        observer.begin_empty()


_observers: WeakSet[Observer] = WeakSet()
if sys.platform != "win32":
    os.register_at_fork(after_in_child=_begin_empty_in_child)
