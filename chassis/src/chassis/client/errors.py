"""The errors of calls to other services, and the problem documents that they become."""

from http import HTTPStatus

from ..problem import Problem
from ..unavailable import UnavailableError

RETRIES_EXHAUSTED_HEADER = "x-retries-exhausted"
"""In a response: the call has been repeated below, and must not be repeated above. Else each layer multiplies them."""


class DependencyError(UnavailableError):
    """A call to another service failed. Unless a handler catches it, its client gets `status` with a problem document.

    The text names the dependency and the reason, without addresses, since clients read it.
    """

    status: int = HTTPStatus.BAD_GATEWAY

    def __init__(self, dependency: str, reason: str, *, retry_after: int | None = None) -> None:
        """`retry_after` is in seconds."""
        super().__init__(f"The dependency {dependency!r} {reason}.")
        self.dependency: str = dependency
        self.reason: str = reason
        self.retry_after: int | None = retry_after

    def problem(self) -> Problem:
        """The problem document, with the name of the dependency, and `Retry-After` where it is known."""
        headers = {RETRIES_EXHAUSTED_HEADER: "1"}
        if self.retry_after is not None:
            headers["retry-after"] = str(self.retry_after)
        return Problem(self.status, str(self), headers=headers, dependency=self.dependency)


class DependencyTimeoutError(DependencyError):
    """The call was not complete in its time, or in that of the request that it belongs to: 504."""

    status: int = HTTPStatus.GATEWAY_TIMEOUT


class DependencyUnavailableError(DependencyError):
    """The dependency was not asked, or could not be reached: no connection, breaker open, too many calls: 503."""

    status: int = HTTPStatus.SERVICE_UNAVAILABLE


class BadResponseError(DependencyError):
    """The response was incomplete, too large, or not what the caller can read: 502."""

    is_outage: bool = False
