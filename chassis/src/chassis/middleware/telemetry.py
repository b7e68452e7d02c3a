"""One pass over each request: one clock, one status, from which span, metrics and access line are made."""

import asyncio
from collections.abc import Mapping

import structlog
from opentelemetry import context as otel_context
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Receive, Scope, Send
from structlog.typing import FilteringBoundLogger

from ..request_info import REQUEST_INFO, RequestInfo
from ..response_sender import ResponseSender
from ..telemetry import Telemetry
from ..telemetry.known_methods import OTHER_METHOD
from ..telemetry.observation import Observation, ObservationRules
from ..telemetry.route_template import FindRoute
from .failures import is_cancelled_from_outside, is_reported, record_failure
from .security import security_headers as with_defaults

log: FilteringBoundLogger = structlog.get_logger()


class TelemetryMiddleware:
    """Outermost: observes every request and WebSocket, also those that fail.

    A request ends when the server has taken the last part of its response. Later work of the application, such as a
    background task, belongs to the request's trace, and its lines have the request's ids.

    Each has an access line. Without `log_success`, which suits health and metrics endpoints, only responses of 500 and
    above have one. Without `traces` no request makes a span, even if the sampler or the caller asks for one.
    `find_route` names the route of a request that did not reach the router.

    Each response gets `x-request-id`, and those security headers that it does not have itself. `security_headers` are
    names and values that replace or complete `DEFAULT_SECURITY_HEADERS`; an empty value removes a header.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        telemetry: Telemetry,
        log_success: bool = True,
        traces: bool = True,
        security_headers: Mapping[str, str] | None = None,
        find_route: FindRoute | None = None,
    ) -> None:
        self.app: ASGIApp = app
        self._begin = telemetry.tracing.begin if traces else telemetry.tracing.begin_untraced
        self._known_methods = telemetry.known_methods
        self._active = telemetry.observer.active
        self._rules = ObservationRules(
            telemetry.observer.end, with_defaults(security_headers), 0 if log_success else 500, find_route
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        method = scope.get("method", "GET")  # a WebSocket begins as a GET
        if method not in self._known_methods:
            method = OTHER_METHOD
        info: RequestInfo = scope.get(REQUEST_INFO) or RequestInfo.of(scope)
        context = self._begin(info, method, scope["headers"])
        context.info = info
        if info.has_body:
            receive = info.counting(receive)
        respond = info.respond if send is info.send else None
        observation = Observation(scope, method, info, context, send, self._rules, respond)
        self._active.add(observation)
        token = otel_context.attach(context)
        try:
            await self.app(scope, receive, observation)
        except BaseException as raised:
            note_exception(raised, info, observation)
            raise
        finally:
            if not observation.is_complete:
                self._rules.end(observation)
            if info.read_at is None:  # our server runs each request in a context of its own
                otel_context.detach(token)


def note_exception(raised: BaseException, info: RequestInfo, sender: ResponseSender) -> None:
    """Log an exception that escapes to the server, once, while the request's ids are known.

    An exception after a complete response is not a failure of the request. Neither is a client that has gone, nor a
    cancellation by the server at the end of a graceful shutdown, and the server logs how many requests it cancels.
    """
    if isinstance(raised, ClientDisconnect):
        return
    if not sender.is_complete or sender.status >= 500:
        record_failure(raised, info)
    if isinstance(raised, asyncio.CancelledError) and is_cancelled_from_outside():
        return
    if is_reported(raised, info):
        info.is_logged = True
        return
    log.error("unhandled exception", after_response=sender.is_complete, exc_info=raised)
    info.is_logged = True
