"""`error.type` of the semantic conventions: the reason of a failed request, in spans and metrics."""


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
