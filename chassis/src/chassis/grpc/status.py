"""Statuses of HTTP to status codes of gRPC, so that one table of domain errors serves both."""

from collections.abc import Mapping
from http import HTTPStatus
from math import ceil

from grpc import StatusCode
from starlette.exceptions import HTTPException

# google/rpc/code.proto names the HTTP status of each code. If a status has several codes, this is the most general one.
CODES: Mapping[int, StatusCode] = {
    400: StatusCode.INVALID_ARGUMENT,
    401: StatusCode.UNAUTHENTICATED,
    403: StatusCode.PERMISSION_DENIED,
    404: StatusCode.NOT_FOUND,
    405: StatusCode.UNIMPLEMENTED,
    408: StatusCode.DEADLINE_EXCEEDED,
    409: StatusCode.ABORTED,
    410: StatusCode.NOT_FOUND,
    413: StatusCode.RESOURCE_EXHAUSTED,
    415: StatusCode.INVALID_ARGUMENT,
    416: StatusCode.OUT_OF_RANGE,
    422: StatusCode.INVALID_ARGUMENT,
    429: StatusCode.RESOURCE_EXHAUSTED,
    499: StatusCode.CANCELLED,
    500: StatusCode.INTERNAL,
    501: StatusCode.UNIMPLEMENTED,
    502: StatusCode.UNAVAILABLE,
    503: StatusCode.UNAVAILABLE,
    504: StatusCode.DEADLINE_EXCEEDED,
}
# The HTTP status of each code, by google/rpc/code.proto: for the lists of requests, which have both kinds.
STATUSES: Mapping[StatusCode, int] = {
    StatusCode.OK: 200,
    StatusCode.CANCELLED: 499,
    StatusCode.UNKNOWN: 500,
    StatusCode.INVALID_ARGUMENT: 400,
    StatusCode.DEADLINE_EXCEEDED: 504,
    StatusCode.NOT_FOUND: 404,
    StatusCode.ALREADY_EXISTS: 409,
    StatusCode.PERMISSION_DENIED: 403,
    StatusCode.RESOURCE_EXHAUSTED: 429,
    StatusCode.FAILED_PRECONDITION: 400,
    StatusCode.ABORTED: 409,
    StatusCode.OUT_OF_RANGE: 400,
    StatusCode.UNIMPLEMENTED: 501,
    StatusCode.INTERNAL: 500,
    StatusCode.UNAVAILABLE: 503,
    StatusCode.DATA_LOSS: 500,
    StatusCode.UNAUTHENTICATED: 401,
}
# For RPC spans and metrics, these codes are errors of the server (semantic conventions for gRPC).
SERVER_ERRORS = frozenset(
    {
        StatusCode.UNKNOWN,
        StatusCode.DEADLINE_EXCEEDED,
        StatusCode.UNIMPLEMENTED,
        StatusCode.INTERNAL,
        StatusCode.UNAVAILABLE,
        StatusCode.DATA_LOSS,
    }
)
MAX_DETAILS = 1000  # characters; clients reject trailers of more than 8 KiB
PUSHBACK = "grpc-retry-pushback-ms"  # gRFC A6: when a client may retry

Metadata = tuple[tuple[str, str | bytes], ...]


def code_of(status: int) -> StatusCode:
    """The code for a status of HTTP."""
    code = CODES.get(status)
    if code is not None:
        return code
    return StatusCode.INTERNAL if status >= HTTPStatus.INTERNAL_SERVER_ERROR else StatusCode.FAILED_PRECONDITION


def details_of(problem: HTTPException) -> str:
    """The text of a problem for the client."""
    title = getattr(problem, "title", None)
    return (problem.detail or title or "")[:MAX_DETAILS]


def pushback_of(problem: HTTPException) -> Metadata:
    """Metadata that says when to retry, from `Retry-After` in seconds; empty without it."""
    for name, value in (problem.headers or {}).items():
        if name.lower() == "retry-after":
            try:
                return ((PUSHBACK, str(ceil(float(value) * 1000))),)
            except (OverflowError, ValueError):  # a date
                return ()
    return ()
