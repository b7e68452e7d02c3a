"""`Result`: how an attempt of a call ended."""

from dataclasses import dataclass

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


@dataclass(slots=True)
class Result:
    """How an attempt ended: with a response, or with an error, or with both if its body could not be read."""

    outcome: Outcome
    response: InboundResponse | None = None
    body: bytes = b""
    error: TransportError | None = None
    retry_after: float | None = None
    """Seconds, by the `Retry-After` of the response."""

    @property
    def status(self) -> int:
        """The status of the response; 0 without one."""
        return 0 if self.response is None else self.response.status

    def close(self) -> None:
        """Give the connection back, also if the body was not read."""
        if self.response is not None:
            self.response.close()
