"""One pass over each request: one clock, one status, from which span, metrics and access line are made."""

import logging
import re
from collections.abc import Awaitable
from datetime import UTC, datetime
from time import perf_counter
from typing import Any

from opentelemetry import context as otel_context
from opentelemetry.trace import StatusCode
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..spans import RequestContext, RequestSpan
from ..telemetry import Telemetry
from ..tracing import Headers

# RFC 9110, section 9, and RFC 5789; any other method is folded into one (semantic conventions).
KNOWN_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"})
OTHER_METHOD = "_OTHER"
UNMATCHED = "unmatched"
CLIENT_CLOSED_REQUEST = 499  # nginx's number for a client that left before the answer began

OBSERVED_HEADERS = frozenset(
    {b"traceparent", b"tracestate", b"baggage", b"x-request-id", b"content-length", b"transfer-encoding"}
)

# Safe to put into a header, a log line and a shell; anything else is replaced by an id of ours.
REQUEST_ID = re.compile(rb"[A-Za-z0-9._~:/+=-]{1,128}")


class TelemetryMiddleware:
    """Outermost: observes every request and WebSocket, whatever happens inside.

    An access line for each, unless `log_success` is off, when only answers of 500 and above are
    logged, as befits health and metrics calls.
    """

    def __init__(self, app: ASGIApp, *, telemetry: Telemetry, log_success: bool = True) -> None:
        self.app = app
        self._tracing = telemetry.tracing
        self._requests = telemetry.metrics.requests
        self._access_log = telemetry.logs.access_logger()
        # The least status that is logged.
        self._logged_from = 0 if log_success and telemetry.logs.level <= logging.INFO else 500

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return

        began = perf_counter()
        method = scope.get("method", "GET")  # a WebSocket begins as a GET
        if method not in KNOWN_METHODS:
            method = OTHER_METHOD
        request, has_body = self._begin(scope["headers"])
        id_header = (b"x-request-id", request.request_id.encode())
        status = 0
        response_bytes = 0
        request_bytes = 0

        # Plain functions that return the inner awaitable: a coroutine of their own would cost as much
        # as all else they do.
        def send_observed(message: Message) -> Awaitable[None]:
            nonlocal status, response_bytes
            kind = message["type"]
            if kind == "http.response.body":
                if method == "HEAD":  # the server leaves the content out
                    message = {**message, "body": b""}
                response_bytes += len(message.get("body", b""))
            elif kind in ("http.response.start", "websocket.http.response.start"):
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), id_header]
            elif kind == "websocket.accept":
                status = 101
                message["headers"] = [*message.get("headers", ()), id_header]
            elif kind == "websocket.close" and not status:
                status = 403  # what the server answers when the handshake is refused
            return send(message)

        async def receive_observed() -> Message:
            nonlocal request_bytes
            message = await receive()
            request_bytes += len(message.get("body", b""))
            return message

        active = self._requests.active
        active[method] = active.get(method, 0) + 1
        token = otel_context.attach(request)
        error: BaseException | None = None
        try:
            await self.app(scope, receive_observed if has_body else receive, send_observed)
        except BaseException as raised:
            error = raised
            raise
        finally:
            otel_context.detach(token)
            active[method] -= 1
            if not status:
                status = 500 if isinstance(error, Exception) else CLIENT_CLOSED_REQUEST
            seconds = perf_counter() - began
            route = route_template(scope)
            exemplar = None
            if request.sampled:
                exemplar = end_span(request, scope, method, route, status, error)
            self._requests.observe(method, route, status, seconds, request_bytes, response_bytes, exemplar)
            if status >= self._logged_from:
                # 503 is said on purpose, by what drains, sheds or isn't ready; other 5xx are failures.
                level = "info" if status < 500 else "warning" if status == 503 else "error"
                line = {
                    "timestamp": datetime.now(UTC),
                    "level": level,
                    "event": "request",
                    "method": scope.get("method", "GET"),
                    "route": route,
                    "path": scope["path"],
                    "status": status,
                    "duration_ms": round(seconds * 1000, 3),
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

    def _begin(self, headers: Headers) -> tuple[RequestContext, bool]:
        """The request's context, and whether it has a body (RFC 9112, 6.3), from one look at its headers."""
        traceparent: bytes | None = None
        request_id = ""
        propagated = has_body = False
        for name, value in headers:
            if name not in OBSERVED_HEADERS:
                continue
            if name == b"content-length" or name == b"transfer-encoding":
                has_body = True
            elif name == b"traceparent":
                propagated = propagated or traceparent is not None  # a second one, which needs a closer look
                traceparent = value
            elif name == b"x-request-id":
                if REQUEST_ID.fullmatch(value):
                    request_id = value.decode("ascii")
            else:
                propagated = True
        return self._tracing.begin(headers, traceparent, request_id, propagated=propagated), has_body


def route_template(scope: Scope) -> str:
    """The template that matched, with what it is mounted under; one name for all that match nothing."""
    route = scope.get("route")
    if route is None:
        return UNMATCHED
    template: str | None = getattr(route, "path_format", None)
    return UNMATCHED if template is None else f"{scope.get('root_path', '')}{template}"


def end_span(
    request: RequestContext, scope: Scope, method: str, route: str, status: int, error: BaseException | None
) -> str | None:
    """Finish the span of a sampled request; its trace id, when it was recorded."""
    span = request.span
    if not isinstance(span, RequestSpan):
        return None
    # Semantic conventions for HTTP spans, server: required attributes, and the recommended ones at hand.
    span.update_name(method if route == UNMATCHED else f"{method} {route}")
    attributes: dict[str, Any] = {
        "http.request.method": method,
        "url.scheme": scope.get("scheme", "http"),
        "url.path": scope["path"],
        "http.response.status_code": status,
        "network.protocol.version": scope.get("http_version", "1.1"),
    }
    if method == OTHER_METHOD:
        attributes["http.request.method_original"] = scope["method"]
    if route != UNMATCHED:
        attributes["http.route"] = route
    if client := scope.get("client"):
        attributes["client.address"] = client[0]
    for name, value in scope["headers"]:
        if name == b"user-agent":
            attributes["user_agent.original"] = value.decode("latin-1")
        elif name == b"host":
            address, colon, port = value.decode("latin-1").rpartition(":")
            if colon and port.isdigit():
                attributes["server.address"] = address
                attributes["server.port"] = int(port)
            else:
                attributes["server.address"] = value.decode("latin-1")
    if status >= 500:
        attributes["error.type"] = type(error).__qualname__ if error is not None else str(status)
        span.set_status(StatusCode.ERROR)
    span.set_attributes(attributes)
    span.end()
    return request.trace_id
