"""Turns the observations of requests into metrics, spans and access lines."""

import asyncio
from datetime import UTC, datetime

from .logs import Logs
from .metrics import RequestMetrics
from .observation import Observation
from .route_template import route_template
from .span_attributes import end_span


class Observer:
    """Observes all requests that ended in one turn of the event loop together, which takes half the time.

    Processors of the access line that the service's owner has added may need the request's context variables. So
    with them each request is observed by itself, before its task ends.
    """

    def __init__(self, logs: Logs, metrics: RequestMetrics) -> None:
        self.active: set[Observation] = metrics.active
        """The requests in progress."""
        self._logs = logs
        self._metrics = metrics
        self._access_log = logs.access_logger()
        self._at_once = logs.has_processors
        self._ended: list[Observation] = []

    def add(self, ended: Observation) -> None:
        """Observe a request at the end of this turn; called on the event loop."""
        if not self._ended and not self._at_once:
            asyncio.get_running_loop().call_soon(self.observe)
        self._ended.append(ended)
        if self._at_once:
            self.observe()

    def observe(self) -> None:
        """Observe the requests that have ended by now."""
        observations, self._ended = self._ended, []
        now = datetime.now(UTC)
        timestamp = now.timestamp()
        observe = self._metrics.observe
        for observation in observations:
            scope, context, response = observation.scope, observation.context, observation.response
            method = observation.method
            seconds = observation.seconds
            status = response.status or observation.status
            route = getattr(scope.get("route"), "path_format", None)
            if route is None or scope.get("root_path"):  # nothing matched, or something is mounted
                route = route_template(scope, observation.path, status, observation.find_route)
            request_bytes = observation.info.body_bytes
            # The server leaves out the content of a response to HEAD.
            response_bytes = response.body_bytes if method != "HEAD" else 0
            exemplar = end_span(observation, route, status) if context.sampled else None
            observe(method, route, status, seconds, request_bytes, response_bytes, exemplar, timestamp)
            if status < observation.min_logged_status:
                continue
            # 503 is intended: the service drains, sheds load or is not ready. Any other 5xx is a failure.
            level = "info" if status < 500 else "warning" if status == 503 else "error"
            client = scope.get("client")
            line = {
                "timestamp": now,
                "level": level,
                "event": "request",
                "method": scope.get("method", "GET"),
                "route": route,
                "path": observation.path,
                "status": status,
                "duration_ms": int(seconds * 1_000_000) / 1000,  # faster than `round`
                "request_bytes": request_bytes,
                "response_bytes": response_bytes,
                "client": client[0] if client else None,
                "request_id": context.request_id,
                "trace_id": context.trace_id,
                "span_id": context.span_id,
            }
            if observation.error is not None:
                line["error"] = observation.error.__qualname__
            self._access_log.line(level, line)
