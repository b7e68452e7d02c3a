"""Errors as RFC 9457 problem documents."""

from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any

import orjson
from opentelemetry import context as otel_context
from starlette.exceptions import HTTPException
from starlette.types import Send

from .context import request_context
from .response_sender import send_response

# RFC 9110 renamed these reason phrases; Python has the new ones from 3.13 on.
RENAMED: dict[int, str] = {
    413: "Content Too Large",
    414: "URI Too Long",
    416: "Range Not Satisfiable",
    422: "Unprocessable Content",
}
PROBLEM_JSON = b"application/problem+json"


class Problem(HTTPException):
    """An expected error. Raise it in a handler or middleware, and the client gets a problem document.

    The document has `type`, `title`, `status`, `detail` (RFC 9457, section 3.1), `trace_id`, and the extension members
    in `members` (section 3.2). Clients see all of it, so put no internals into it.
    """

    def __init__(
        self,
        status: int,
        detail: str | None = None,
        *,
        type: str = "about:blank",  # noqa: A002 - the member's name in RFC 9457
        title: str | None = None,
        headers: Mapping[str, str] | None = None,
        **members: Any,
    ) -> None:
        super().__init__(status, detail or "", headers)
        self.type: str = type
        self.title: str | None = title
        self.members: dict[str, Any] = members


ProblemOf = int | Callable[[Any], HTTPException]
"""How an exception is mapped: the status of its problem document, or a function that returns the `Problem`."""


async def send_problem(send: Send, error: HTTPException) -> None:
    """Respond with the problem document of `error`, a `Problem` or a plain `HTTPException` of Starlette."""
    title = phrase(error.status_code)
    document: dict[str, Any] = {"type": "about:blank", "title": title, "status": error.status_code}
    if error.detail and error.detail != title:
        document["detail"] = error.detail
    if isinstance(error, Problem):
        document["type"] = error.type
        document["title"] = error.title or title
        document |= error.members
    request = request_context(otel_context.get_current())
    if request is not None:
        document["trace_id"] = request.trace_id
    body = orjson.dumps(document, default=str)
    given = {name.lower().encode("latin-1"): value.encode("latin-1") for name, value in (error.headers or {}).items()}
    fields = {b"content-type": PROBLEM_JSON} | given | {b"content-length": b"%d" % len(body)}
    headers = list(fields.items())
    await send_response(send, error.status_code, headers, body)


def phrase(status: int) -> str:
    """The reason phrase of a status (RFC 9110, section 15), or `Unknown`."""
    try:
        return RENAMED.get(status) or HTTPStatus(status).phrase
    except ValueError:
        return "Unknown"
