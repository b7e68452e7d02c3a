"""`error.type` of the semantic conventions: the reason of a failed request, in spans and metrics."""

from opentelemetry.trace import Span, Status, StatusCode


class OtherError(Exception):
    """Stands for the error types beyond the limit of metrics."""


def error_type(status: int, error: type[BaseException] | None) -> str | None:
    """The class of the exception that ended a request, else the status of a failure; None for a success.

    `status` is 0 without a response, for which the client has not waited.
    """
    if error is OtherError:
        return "_OTHER"
    if error is not None:
        return qualified_name(error)
    return str(status) if status >= 500 else None if status else "client_disconnected"


def qualified_name(error: type[BaseException]) -> str:
    """The name of an exception's class with its module, unless it is built in."""
    module = error.__module__
    return error.__qualname__ if module == "builtins" else f"{module}.{error.__qualname__}"


def record_failure(span: Span, error: BaseException) -> None:
    """Note on a span of work that it has failed."""
    if span.is_recording():
        span.record_exception(error)
        span.set_attribute("error.type", qualified_name(type(error)))
        span.set_status(Status(StatusCode.ERROR))
