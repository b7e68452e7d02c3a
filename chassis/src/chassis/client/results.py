"""`Result`: how an attempt of a call ended."""

from .replicas import Outcome
from .transport import InboundResponse, TransportError


class NotAdmittedError(TransportError):
    """The circuit breaker is open: nothing was sent."""


class AbandonedError(Exception):
    """The second attempt of the call was faster."""

    def __init__(self, result: "Result") -> None:
        super().__init__()
        self.result: Result = result
        """That of the second attempt."""


class AttemptTimeoutError(TransportError):
    """There was no complete response in the time of the attempt. Whether the request was processed is unknown."""


class Result:
    """How an attempt ended: with a response, or with an error, or with both if its body could not be read."""

    __slots__ = ("body", "error", "outcome", "response", "retry_after", "status")

    def __init__(
        self,
        outcome: Outcome,
        response: InboundResponse | None = None,
        body: bytes = b"",
        error: TransportError | None = None,
        retry_after: float | None = None,
    ) -> None:
        """`retry_after` is in seconds, by the `Retry-After` of the response."""
        self.outcome: Outcome = outcome
        self.response: InboundResponse | None = response
        self.status: int = 0 if response is None else response.status
        """The status of the response; 0 without one."""
        self.body: bytes = body
        self.error: TransportError | None = error
        self.retry_after: float | None = retry_after

    def close(self) -> None:
        """Give the connection back, also if the body was not read."""
        if self.response is not None:
            self.response.close()
