"""One pass over each request: one clock, one status, from which span, metrics and access line are made."""

import logging
from collections.abc import Mapping
from time import perf_counter

from opentelemetry import context as otel_context
from starlette.types import ASGIApp, Receive, Scope, Send

from ..request_info import REQUEST_INFO, RequestInfo
from ..response_sender import ResponseSender
from ..telemetry import Telemetry
from ..telemetry.observation import Observation
from ..telemetry.route_template import FindRoute
from .security import security_headers as with_defaults

# RFC 9110, section 9, and RFC 5789; any other method is folded into one (semantic conventions).
KNOWN_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"})
OTHER_METHOD = "_OTHER"


class TelemetryMiddleware:
    """Outermost: observes every request and WebSocket, whatever happens inside.

    Each has an access line. Without `log_success`, which suits health and metrics endpoints, only responses of 500
    and above have one. Each response gets `x-request-id`, and the security headers (`security_headers`: names and
    values that replace or complete `DEFAULT_SECURITY_HEADERS`; an empty value leaves one out) where the response
    has no header of that name. `find_route` names the route of a request that did not reach the router.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        telemetry: Telemetry,
        log_success: bool = True,
        security_headers: Mapping[str, str] | None = None,
        find_route: FindRoute | None = None,
    ) -> None:
        self.app: ASGIApp = app
        self._find_route = find_route
        self._begin = telemetry.tracing.begin
        self._active = telemetry.observer.active
        self._end = telemetry.observer.add
        self._default_headers = with_defaults(security_headers)
        self._min_logged_status = 0 if log_success and telemetry.logs.level <= logging.INFO else 500

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        began = perf_counter()
        method = scope.get("method", "GET")  # a WebSocket begins as a GET
        if method not in KNOWN_METHODS:
            method = OTHER_METHOD
        info: RequestInfo = scope.get(REQUEST_INFO) or RequestInfo.of(scope)
        context = self._begin(info, method)
        if info.has_body:
            receive = info.counting(receive)
        headers = ((b"x-request-id", context.request_id.encode()),)
        sender = ResponseSender(send, headers, self._default_headers)
        # The path now, since applications that are mounted may change it.
        observation = Observation(
            scope, scope["path"], method, info, context, sender, self._min_logged_status, self._find_route
        )
        self._active.add(observation)
        token = otel_context.attach(context)
        try:
            await self.app(scope, receive, sender)
        except BaseException as raised:
            observation.error = type(raised)
            raise
        finally:
            otel_context.detach(token)
            self._active.discard(observation)
            observation.seconds = perf_counter() - began
            self._end(observation)
