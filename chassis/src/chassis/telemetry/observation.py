"""The facts about one request, from which its metrics, its span and its access line are made."""

from asyncio import CancelledError
from collections.abc import Callable
from time import perf_counter
from typing import NamedTuple

from starlette.types import Scope, Send

from ..context import RequestContext
from ..request_info import RequestInfo
from ..response_sender import DefaultHeaders, Respond, ResponseSender
from .route_template import FindRoute

CLIENT_CLOSED_REQUEST = 499  # nginx's number for a client that disconnected before the response started


class ObservationRules(NamedTuple):
    """The facts that all requests of a port share."""

    end: "Callable[[Observation], None]"
    """Called once, when the response is complete, or when the application has ended without that."""
    default_headers: DefaultHeaders
    min_logged_status: int
    """Responses with a lower status have no access line."""
    find_route: FindRoute | None
    """Finds the route of a request that did not reach the router; None where there is none."""


class Observation(ResponseSender):
    """One request or WebSocket, and its response; made when it begins, and complete when it has ended.

    It is the `ResponseSender` itself, so that a request needs one object less.
    """

    __slots__ = ("began", "bound_facts", "context", "info", "method", "path", "rules", "scope", "seconds")

    def __init__(
        self,
        scope: Scope,
        method: str,
        info: RequestInfo,
        context: RequestContext,
        send: Send,
        rules: ObservationRules,
        respond: Respond | None = None,
    ) -> None:
        """`respond` is that of our server, if `send` is, too."""
        super().__init__(send, context.request_id, rules.default_headers, respond)
        self.scope: Scope = scope
        self.path: str = scope["path"]  # now, since applications that are mounted may change it
        """As the client sent it, decoded."""
        self.method: str = method
        """As metrics and spans name it: one of the known methods, or `_OTHER`."""
        self.info: RequestInfo = info
        self.context: RequestContext = context
        self.rules: ObservationRules = rules
        self.began: float = perf_counter()
        self.seconds: float = 0.0
        """Duration, known at the end."""
        self.bound_facts: dict[str, object] | None = None
        """What the service's owner had bound by structlog's context variables when the request ended."""

    def _end(self) -> None:
        self.rules.end(self)
        self.is_complete = True  # as in the base class, without its call
        if self.on_leave is not None:
            self.on_leave()

    @property
    def error(self) -> type[BaseException] | None:
        """The class of the unexpected exception because of which the request failed."""
        return self.info.error

    @property
    def final_status(self) -> int:
        """Of the response; without one 500 after a failure, and 499 after a cancellation."""
        if self.status:
            return self.status
        failed = self.error is not None and not issubclass(self.error, CancelledError)
        return 500 if failed and not self.info.client_has_gone else CLIENT_CLOSED_REQUEST
