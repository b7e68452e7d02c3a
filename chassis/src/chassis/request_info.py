"""What the chassis knows of a request: the header fields that it reads, and its body while it is received."""

import asyncio
import re
from time import monotonic

from starlette.types import Message, Receive, Scope, Send

from .problem import Problem

REQUEST_INFO = "chassis.request"  # the key in an ASGI scope

# The fields that the chassis itself reads, in lower case.
NOTED_FIELDS: frozenset[bytes] = frozenset(
    {
        b"baggage",
        b"content-encoding",
        b"content-length",
        b"host",
        b"traceparent",
        b"tracestate",
        b"transfer-encoding",
        b"user-agent",
        b"x-request-id",
    }
)
# Safe in a header, a log line and a shell; anything else is replaced by an id of ours.
REQUEST_ID = re.compile(rb"[A-Za-z0-9._~:/+=-]{1,128}")
# The first digits of a longer number are beyond any limit already; `int` raises for more than 4,300.
MAX_LENGTH_DIGITS = 18
# A request of these has a body only if a field says so (RFC 9112, section 6.3); later versions need no such field.
FRAMED_BY_FIELDS = frozenset({"1.0", "1.1"})


class RequestInfo:
    """The header fields that the chassis reads, each found once, and the size of the body.

    Our server notes the fields while it parses them (`note`). Behind another ASGI server, `of` looks for them in
    `scope["headers"]` on first use. Layers further in find the same object in the scope.
    """

    # Most requests keep these; an attribute of the class costs nothing for each of them.
    host: bytes = b""
    user_agent: bytes = b""
    request_id: str = ""
    """The client's, if it is safe to repeat; else empty."""
    content_encoding: bytes = b""
    """The codings of the body (RFC 9110, section 8.4), as they were sent."""
    content_length: int | None = None
    """The declared size of the body in bytes; None without a valid declaration."""
    has_body: bool = False
    """Whether there may be a body (RFC 9112, section 6.3)."""
    traceparent: bytes | None = None
    """Empty if there are several, which are as good as none (W3C Trace Context, section 3.2)."""
    context_fields: dict[str, list[str]] | None = None
    """The values of tracestate and baggage, which only OpenTelemetry's propagators read; None without any."""
    body_bytes: int = 0
    """Of the body, as far as the application has received it."""
    upload_seconds: float = 0.0
    """For how long the application has waited for the body."""
    receiving_since: float | None = None
    """Since when it waits for it now, monotonic seconds."""
    is_counted: bool = False
    """Whether a layer further out counts the body already."""
    max_body_bytes: int | None = None
    """The limit that `counting` enforces; None for no limit."""
    rejection: Problem | None = None
    """The reason why the guard rejects the request; the problem layer sends it instead of calling a handler."""
    reported: int = 0
    """The `id` of the unexpected exception that has its log line and its response; 0 without one."""
    timed_out_task: asyncio.Task[object] | None = None
    """The task that was cancelled because the request's deadline had passed."""
    client_has_gone: bool = False
    """Whether our server has noticed that the client disconnected before its response was complete."""
    holds_head: bool = False
    """Whether our server holds the head of a response that has started: nothing of it is sent yet."""
    replaces_head: bool = False
    """Whether the next start of a response replaces the one that is held."""
    error: type[BaseException] | None = None
    """The class of the unexpected exception because of which the request failed; spans and metrics name it."""
    send: Send | None = None
    """The `send` of our server, while the application runs: what a layer gets may be that of another layer."""
    is_logged: bool = False
    """Whether the exception that escapes to the server is in the log already."""

    def __init__(self, read_at: float | None = None) -> None:
        self.read_at: float | None = read_at
        """When our server read the request, monotonic seconds; None behind another server."""

    @classmethod
    def of(cls, scope: Scope) -> "RequestInfo":
        """The object that is in `scope` already, else a new one from the headers there."""
        info = scope.get(REQUEST_INFO)
        if isinstance(info, cls):
            return info
        info = scope[REQUEST_INFO] = cls()
        info.has_body = scope["type"] == "http" and scope.get("http_version", "1.1") not in FRAMED_BY_FIELDS
        for name, value in scope["headers"]:
            if name in NOTED_FIELDS:
                info.note(name, value)
        return info

    def note(self, name: bytes, value: bytes) -> None:
        """Note a field of `NOTED_FIELDS`; `name` is in lower case.

        Never raises: a content-length that is not a number is for the server to reject. The body's limit holds
        without it, since the body is counted as well.
        """
        if name == b"host":
            self.host = value
        elif name == b"user-agent":
            self.user_agent = value
        elif name == b"content-length":
            self.has_body = True
            if value.isdigit():
                self.content_length = int(value[:MAX_LENGTH_DIGITS])
        elif name == b"transfer-encoding":
            self.has_body = True
        elif name == b"content-encoding":
            self.content_encoding = b",".join(filter(None, (self.content_encoding, value)))
        elif name == b"traceparent":
            self.traceparent = value if self.traceparent is None else b""
        elif name == b"x-request-id":
            if REQUEST_ID.fullmatch(value):
                self.request_id = value.decode("ascii")
        else:
            self.context_fields = fields = self.context_fields or {}
            fields.setdefault(name.decode("latin-1"), []).append(value.decode("latin-1"))

    def counting(self, receive: Receive) -> Receive:
        """`receive` that counts the body in `body_bytes`, and raises a `Problem` of 413 beyond `max_body_bytes`.

        Returns `receive` as it is when there is no body, and when it counts already.
        """
        if not self.has_body or self.is_counted:
            return receive
        self.is_counted = True
        if self.read_at is None:
            receive = self._timing(receive)

        async def receive_and_count() -> Message:
            message = await receive()
            if message["type"] == "http.request":
                self.body_bytes += len(message.get("body", b""))
                if self.max_body_bytes is not None and self.body_bytes > self.max_body_bytes:
                    raise body_too_large(self.max_body_bytes)
            return message

        return receive_and_count

    def begin_waiting(self) -> None:
        """The application waits for the body from now on."""
        self.receiving_since = monotonic()

    def end_waiting(self) -> None:
        """A part of the body has come, or will not come."""
        if self.receiving_since is not None:
            self.upload_seconds += monotonic() - self.receiving_since
            self.receiving_since = None

    def _timing(self, receive: Receive) -> Receive:
        """`receive` that notes the waits, behind another server; ours does so itself."""
        is_complete = False

        async def receive_and_time() -> Message:
            nonlocal is_complete
            if is_complete:  # what it waits for now is the end of the client
                return await receive()
            self.begin_waiting()
            try:
                message = await receive()
            finally:
                self.end_waiting()
            is_complete = not message.get("more_body", False)
            return message

        return receive_and_time


def body_too_large(max_body_bytes: int) -> Problem:
    """413; the connection is closed because the rest of the body is not read (RFC 9110, section 15.5.14)."""
    return Problem(
        413,
        f"The request body is larger than {max_body_bytes} bytes.",
        headers={"connection": "close"},
        max_body_bytes=max_body_bytes,
    )
