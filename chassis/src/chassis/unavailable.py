"""`UnavailableError`: a dependency cannot be reached."""


class UnavailableError(Exception):
    """A dependency cannot be reached. A consumer's event waits for it, and this is not counted as a failure.

    A service can subclass it for its own dependencies.
    """

    is_outage: bool = True
    """False for an error that may concern only one request, such as a slow query. Then the event does not wait."""


def is_unavailable(error: BaseException | None) -> bool:
    """Whether an error, or a cause of it, says that a dependency cannot be reached: its traceback says no more."""
    while error is not None:
        if isinstance(error, (OSError, UnavailableError)):  # TimeoutError is an OSError
            return True
        error = error.__cause__
    return False
