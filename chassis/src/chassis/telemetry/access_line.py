"""The access line of a request as JSON, from its parts: a third of the work of encoding a dictionary."""

from collections.abc import Callable
from functools import lru_cache

import orjson

from .observation import Observation
from .plain_values import text

MEMBERS = (
    "timestamp",
    "level",
    "event",
    "method",
    "route",
    "path",
    "status",
    "duration_ms",
    "request_bytes",
    "response_bytes",
    "client",
    "request_id",
    "trace_id",
    "span_id",
)
"""The members of each line, whose names facts cannot have."""
LEVEL_TEXTS = {"info": b"info", "warning": b"warning", "error": b"error"}


LINE = (
    b'{"timestamp":%b,"level":"%b","event":"request","method":%b,"route":%b,"path":%b,"status":%d,"duration_ms":%b,'
    b'"request_bytes":%d,"response_bytes":%d,"client":%b,"request_id":"%b","trace_id":"%b","span_id":"%b"'
)


def json_text(value: str | None) -> bytes:
    """A text as JSON has it."""
    try:
        return orjson.dumps(value)
    except orjson.JSONEncodeError:  # a lone surrogate
        return orjson.dumps(text(value))


repeated_text: Callable[[str | None], bytes] = lru_cache(maxsize=512)(json_text)
"""The same for texts that many requests have: methods, routes and the addresses of clients."""


def access_line(
    observation: Observation,
    timestamp: bytes,
    level: str,
    status: int,
    route: str,
    request_bytes: int,
    response_bytes: int,
) -> bytes:
    """The line without its last brace, so that more can follow. `timestamp` is JSON."""
    scope, context, request_id = observation.scope, observation.context, observation.request_id
    client = scope.get("client")
    return LINE % (
        timestamp,
        LEVEL_TEXTS[level],
        repeated_text(scope.get("method", "GET")),
        repeated_text(route),
        json_text(observation.path),
        status,
        orjson.dumps(int(observation.seconds * 1_000_000) / 1000),
        request_bytes,
        response_bytes,
        repeated_text(client[0]) if client else b"null",
        # The request id that the client gets may be the application's, which is any text.
        request_id.encode() if request_id == context.request_id else json_text(request_id)[1:-1],
        context.trace_id.encode(),
        context.span_id.encode(),
    )
