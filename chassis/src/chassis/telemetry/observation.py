"""What is told of a request that has ended: its metrics, its span, its access line."""

import asyncio
from datetime import UTC, datetime
from typing import Any

from opentelemetry.trace import StatusCode
from starlette.routing import BaseRoute, Mount
from starlette.types import Scope

from ..context import RequestContext
from ..response_sender import ResponseSender
from .logs import Logs
from .metrics import RequestMetrics
from .spans import RememberedAttributes, RequestSpan

UNMATCHED = "unmatched"
REST = "/{path}"  # how Starlette calls what follows a mount
CLIENT_CLOSED_REQUEST = 499  # nginx's number for a client that left before the answer began

MAX_REMEMBERED = 1024
MAX_REMEMBERED_BYTES = 500

Facts = tuple[str, str, str, int, str | None, str, str, str | None, bytes, bytes]
remembered_attributes: dict[Facts, RememberedAttributes] = {}

# Scope, path, context, answer, method for labels, seconds, bytes of the request, least status that is logged, error.
Ended = tuple[Scope, str, RequestContext, ResponseSender, str, float, int, int, BaseException | None]


class EndedRequests:
    """Observes all requests that ended in one turn of the event loop together, which takes half the time.

    Processors of the access line that people have added may want the request's context variables, so
    with them each request is observed by itself, before its task ends.
    """

    def __init__(self, logs: Logs, metrics: RequestMetrics) -> None:
        self._logs = logs
        self._metrics = metrics
        self._access_log = logs.access_logger()
        self._at_once = logs.has_processors
        self._ended: list[Ended] = []

    def add(self, *ended: *Ended) -> None:
        """Observe a request at the end of this turn; called on the event loop."""
        self._ended.append(ended)
        if self._at_once:
            self.observe()
        elif len(self._ended) == 1:
            asyncio.get_running_loop().call_soon(self.observe)

    def observe(self) -> None:
        """Observe what has ended by now."""
        ended, self._ended = self._ended, []
        now = datetime.now(UTC)
        seconds_now = now.timestamp()
        for scope, path, request, outgoing, method, seconds, request_bytes, logged_from, error in ended:
            status = outgoing.status or (500 if isinstance(error, Exception) else CLIENT_CLOSED_REQUEST)
            # To HEAD the server leaves the content out.
            response_bytes = outgoing.body_bytes if method != "HEAD" else 0
            route = route_template(scope)
            exemplar = (
                end_span(request, scope, path, method, route, status, seconds, error) if request.sampled else None
            )
            self._metrics.observe(method, route, status, seconds, request_bytes, response_bytes, exemplar, seconds_now)
            if status < logged_from:
                continue
            # 503 is said on purpose, by what drains, sheds or isn't ready; other 5xx are failures.
            level = "info" if status < 500 else "warning" if status == 503 else "error"
            line = {
                "timestamp": now,
                "level": level,
                "event": "request",
                "method": scope.get("method", "GET"),
                "route": route,
                "path": path,
                "status": status,
                "duration_ms": int(seconds * 1_000_000) / 1000,  # `round` takes four times as long
                "request_bytes": request_bytes,
                "response_bytes": response_bytes,
                "client": client[0] if (client := scope.get("client")) else None,
                "request_id": request.request_id,
                "trace_id": request.trace_id,
                "span_id": request.span_id,
            }
            if error is not None:
                line["error"] = type(error).__qualname__
            self._access_log.line(level, line)


def route_template(scope: Scope) -> str:
    """The template that matched, with what it is mounted under; one name for all that match nothing."""
    route = scope.get("route")
    if route is None:
        return UNMATCHED
    template: str | None = getattr(route, "path_format", None)
    if template is None:
        return UNMATCHED
    root: str = scope.get("root_path", "")
    return template_below(root, scope, route, template) if root else template


def template_below(root: str, scope: Scope, route: BaseRoute, template: str) -> str:
    """The template of what is mounted at `root`, where parameters have names instead of values."""
    if isinstance(route, Mount):
        # What is mounted has matched nothing, or has no routes of Starlette's kind. Litestar tells its template.
        template = scope.get("path_template") or REST
        if route.path_regex.match(f"{root}/"):
            return route.path_format.removesuffix(REST) + template
    names = {str(value): f"{{{name}}}" for name, value in scope.get("path_params", {}).items()}
    return "/".join(names.get(segment, segment) for segment in root.split("/")) + template


def end_span(
    request: RequestContext,
    scope: Scope,
    path: str,
    method: str,
    route: str,
    status: int,
    seconds: float,
    error: BaseException | None,
) -> str | None:
    """Finish the span of a sampled request; its trace id, when it was recorded."""
    span = request.span
    if not isinstance(span, RequestSpan):
        return None
    span.update_name(method if route == UNMATCHED else f"{method} {route}")
    span.set_attribute("url.path", path)
    span.described = described(scope, method, route, status, error)
    if status >= 500:
        span.set_status(StatusCode.ERROR)
    span.end_after(seconds)
    return request.trace_id


def described(scope: Scope, method: str, route: str, status: int, error: BaseException | None) -> RememberedAttributes:
    """The attributes that the span has in common with others."""
    host = user_agent = b""
    for name, value in scope["headers"]:
        if name == b"user-agent":
            user_agent = value
        elif name == b"host":
            host = value
    client = scope.get("client")
    facts: Facts = (
        method,
        scope.get("method", "GET"),
        route,
        status,
        error if error is None else type(error).__qualname__,
        scope.get("scheme", "http"),
        scope.get("http_version", "1.1"),
        client[0] if client else None,
        host,
        user_agent,
    )
    found = remembered_attributes.get(facts)
    if found is None:
        found = RememberedAttributes(attributes_of(*facts))
        if len(host) + len(user_agent) <= MAX_REMEMBERED_BYTES:
            if len(remembered_attributes) >= MAX_REMEMBERED:
                remembered_attributes.clear()
            remembered_attributes[facts] = found
    return found


def attributes_of(
    method: str,
    original_method: str,
    route: str,
    status: int,
    error: str | None,
    scheme: str,
    http_version: str,
    client: str | None,
    host: bytes,
    user_agent: bytes,
) -> dict[str, Any]:
    """Semantic conventions for HTTP spans, server: the required attributes, and the recommended ones at hand."""
    found: dict[str, Any] = {
        "http.request.method": method,
        "url.scheme": scheme,
        "http.response.status_code": status,
        "network.protocol.version": http_version,
    }
    if method != original_method:
        found["http.request.method_original"] = original_method
    if route != UNMATCHED:
        found["http.route"] = route
    if client:
        found["client.address"] = client
    if user_agent:
        found["user_agent.original"] = user_agent.decode("latin-1")
    if host:
        address, colon, port = host.decode("latin-1").rpartition(":")
        if colon and port.isdigit():
            found["server.address"] = address
            found["server.port"] = int(port)
        else:
            found["server.address"] = host.decode("latin-1")
    if status >= 500:
        found["error.type"] = error or str(status)
    return found
