"""The errors of events, and their problem."""

from ..delivery import RejectedError
from ..problem import Problem
from ..unavailable import UnavailableError


class EventsError(Exception):
    """An error of publishing or consuming events."""


class EventsUnavailableError(EventsError, UnavailableError):
    """The server cannot be reached, or did not acknowledge in time. The response is 503.

    The event may have been stored or not. Publish it again with the same message id, and it is stored once.
    """


class EventRejectedError(EventsError, RejectedError):
    """The event can never be stored as it is: it is too large, its subject is invalid, or the stream rejects it."""


class DeadLetterError(EventsError):
    """Raise it in a consumer for a message that can never be processed. Its text is the reason in the dead letters."""


def unavailable_problem(error: EventsUnavailableError) -> Problem:
    """503. The cause is in the log and not in the response."""
    return Problem(503, "The event could not be published; retry later.", headers={"retry-after": "1"})
