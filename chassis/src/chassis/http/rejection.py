"""Responses to requests that are rejected before they can be dispatched (RFC 9457)."""

import orjson
from starlette.types import Receive, Scope, Send

from ..problem import PROBLEM_JSON, Problem, phrase, send_problem
from ..request_info import REQUEST_INFO, RequestInfo
from .response_head import encode_response_head

SHOWN_TARGET_BYTES = 256  # of the target of a rejected request, which may be very long

Address = tuple[str, int] | None


async def send_rejection(scope: Scope, receive: Receive, send: Send) -> None:
    """The ASGI application that responds with the problem in `scope["state"]["problem"]`."""
    await send_problem(send, scope["state"]["problem"])


def rejection_scope(
    problem: Problem,
    *,
    method: bytes,
    target: bytes,
    headers: list[tuple[bytes, bytes]],
    info: RequestInfo,
    client: Address,
    server: Address,
) -> Scope:
    """Return the ASGI scope of a rejected request: `problem`, and what is known of the request."""
    path = target.partition(b"?")[0][:SHOWN_TARGET_BYTES].decode("latin-1")
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": method.decode("ascii") if target else "_OTHER",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode("latin-1"),
        "query_string": b"",
        "root_path": "",
        "headers": headers,
        "client": client,
        "server": server,
        "state": {"problem": problem},
        REQUEST_INFO: info,
    }


def encode_problem_response(status: int, date_line: bytes) -> bytes:
    """Return a whole response with a problem document, for when no application can respond."""
    body = orjson.dumps({"type": "about:blank", "title": phrase(status), "status": status})
    headers = [(b"content-type", PROBLEM_JSON), (b"content-length", b"%d" % len(body))]
    head = encode_response_head(status, headers, date_line, keep_alive=False)
    return b"".join((*head.lines, body))
