"""One pass over each request: one clock, one status, from which span, metrics and access line are made."""

import logging
import re
from time import perf_counter

from opentelemetry import context as otel_context
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..context import RequestContext
from ..response_sender import ResponseSender
from ..telemetry import Telemetry
from ..telemetry.tracing import Headers

# RFC 9110, section 9, and RFC 5789; any other method is folded into one (semantic conventions).
KNOWN_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"})
OTHER_METHOD = "_OTHER"

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
        self._active = telemetry.metrics.requests.active
        self._ended = telemetry.ended_requests
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
        path: str = scope["path"]  # now, since applications that are mounted may change it
        request, has_body = self._begin(scope["headers"])
        request_bytes = 0
        outgoing = ResponseSender(send)
        outgoing.headers.append((b"x-request-id", request.request_id.encode()))
        if has_body:
            unobserved = receive

            async def receive() -> Message:
                nonlocal request_bytes
                message = await unobserved()
                request_bytes += len(message.get("body", b""))
                return message

        active = self._active
        active[method] = active.get(method, 0) + 1
        token = otel_context.attach(request)
        error: BaseException | None = None
        try:
            await self.app(scope, receive, outgoing)
        except BaseException as raised:
            error = raised
            raise
        finally:
            otel_context.detach(token)
            active[method] -= 1
            seconds = perf_counter() - began
            self._ended.add(scope, path, request, outgoing, method, seconds, request_bytes, self._logged_from, error)

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
