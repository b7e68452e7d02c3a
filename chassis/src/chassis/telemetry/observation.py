"""The facts about one request, from which its metrics, its span and its access line are made."""

from asyncio import CancelledError
from dataclasses import dataclass, field

from starlette.types import Scope

from ..context import RequestContext
from ..request_info import RequestInfo
from ..response_sender import ResponseSender
from .route_template import FindRoute

CLIENT_CLOSED_REQUEST = 499  # nginx's number for a client that disconnected before the response started


@dataclass(slots=True, eq=False)
class Observation:
    """One request or WebSocket; made when it begins, and complete when it has ended."""

    scope: Scope
    path: str
    """As the client sent it, decoded."""
    method: str
    """As metrics and spans name it: one of the known methods, or `_OTHER`."""
    info: RequestInfo
    context: RequestContext
    response: ResponseSender
    min_logged_status: int
    """Responses with a lower status have no access line."""
    find_route: FindRoute | None = None
    """Finds the route of a request that did not reach the router; None where there is none."""
    seconds: float = field(default=0.0, init=False)
    """Duration, known at the end."""
    bound_facts: dict[str, object] | None = field(default=None, init=False)
    """What the service's owner had bound by structlog's context variables when the request ended."""

    @property
    def error(self) -> type[BaseException] | None:
        """The class of the unexpected exception because of which the request failed."""
        return self.info.error

    @property
    def status(self) -> int:
        """Of the response; without one 500 after a failure, and 499 after a cancellation."""
        if self.response.status:
            return self.response.status
        failed = self.error is not None and not issubclass(self.error, CancelledError)
        return 500 if failed and not self.info.client_has_gone else CLIENT_CLOSED_REQUEST
