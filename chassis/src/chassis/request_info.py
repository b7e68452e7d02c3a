"""The facts about a request that the chassis uses: the header fields that it reads, and the progress of the body."""

import asyncio
import re
from time import monotonic

from starlette.types import Message, Receive, Scope, Send

from .problem import Problem
from .response_sender import Respond, ResponseSender

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
        b"x-request-timeout-ms",
    }
)
# Ids that are safe in a header, a log line and a shell. Any other id is replaced by one of ours.
REQUEST_ID = re.compile(rb"[A-Za-z0-9._~:/+=-]{1,128}")
# More digits exceed any limit, and `int` raises for more than 4,300 digits.
MAX_LENGTH_DIGITS = 18
# Which deadline has passed, as metrics name it: that of the service, or that of the caller, after or before the begin.
OWN_DEADLINE, CALLER_DEADLINE, NOT_BEGUN = "deadline", "caller", "not_begun"
BY_CALLER = frozenset({CALLER_DEADLINE, NOT_BEGUN})
# In these versions a request has a body only if a field declares it (RFC 9112, section 6.3). HTTP/2 needs no field.
FRAMED_BY_FIELDS = frozenset({"1.0", "1.1"})


class RequestInfo:
    """The header fields that the chassis reads, the size of the body, and the state of the request.

    Our server notes the fields while it parses them (`note`). Behind another ASGI server, `of` reads them from
    `scope["headers"]` on first use. All layers share one object, which is in the scope.
    """

    __slots__ = (
        "body_bytes",
        "caller_deadline_at",
        "client_has_gone",
        "content_encoding",
        "content_length",
        "context_fields",
        "deadline_at",
        "error",
        "has_body",
        "holds_head",
        "host",
        "is_aborted",
        "is_counted",
        "is_logged",
        "is_queued",
        "max_body_bytes",
        "read_at",
        "receiving_since",
        "rejection",
        "replaces_head",
        "reported",
        "request_id",
        "respond",
        "response",
        "send",
        "subject",
        "timed_out",
        "timed_out_task",
        "timeout_field",
        "traceparent",
        "upload_seconds",
        "user_agent",
    )

    def __init__(self, read_at: float | None = None) -> None:
        self.read_at: float | None = read_at
        """The time at which our server read the request, monotonic seconds; None behind another server."""
        self.host: bytes = b""
        self.user_agent: bytes = b""
        self.request_id: str = ""
        """The client's request id if it is safe, else empty."""
        self.content_encoding: bytes = b""
        """The codings of the body (RFC 9110, section 8.4), as sent."""
        self.content_length: int | None = None
        """The declared size of the body in bytes; None without a valid declaration."""
        self.has_body: bool = False
        """Whether there may be a body (RFC 9112, section 6.3)."""
        self.traceparent: bytes | None = None
        """The field; empty if it was sent more than once, which makes it invalid (W3C Trace Context, section 3.2)."""
        self.timeout_field: bytes | None = None
        """How long the caller still waits, in milliseconds, as sent; empty if it was sent more than once."""
        self.context_fields: dict[str, list[str]] | None = None
        """The values of tracestate and baggage, which only OpenTelemetry's propagators read; None without any."""
        self.body_bytes: int = 0
        """The bytes of the body that the application has received so far."""
        self.upload_seconds: float = 0.0
        """The time that the application has waited for the body."""
        self.receiving_since: float | None = None
        """The start of the current wait for the body, monotonic seconds; None while it does not wait."""
        self.is_counted: bool = False
        """Whether an outer layer counts the body already."""
        self.max_body_bytes: int | None = None
        """The limit that `counting` enforces; None for no limit."""
        self.rejection: Problem | None = None
        """The problem with which the guard rejects the request; the problem layer sends it, and calls no handler."""
        self.reported: int = 0
        """The `id` of the unexpected exception that has been logged and turned into a response; 0 without one."""
        self.timed_out_task: asyncio.Task[object] | None = None
        """The task that was cancelled because the request's deadline had passed."""
        self.timed_out: str = ""
        """`OWN_DEADLINE`, `CALLER_DEADLINE` or `NOT_BEGUN`, when the deadline has passed; empty before."""
        self.deadline_at: float | None = None
        """When the response must have started, monotonic seconds, without `upload_seconds`; None without a limit."""
        self.caller_deadline_at: float | None = None
        """When the caller gives up, monotonic seconds; None if that is not before `deadline_at`."""
        self.is_queued: bool = False
        """Whether the load shedder lets the request wait."""
        self.response: ResponseSender | None = None
        """The response that the deadlines are for, until the request has ended."""
        self.client_has_gone: bool = False
        """Whether the client disconnected before its response was complete, as far as our server knows."""
        self.is_aborted: bool = False
        """Whether our server closes the connection without a response: an injected fault."""
        self.holds_head: bool = False
        """Whether our server holds back the start of a response: none of its bytes are sent yet."""
        self.replaces_head: bool = False
        """Whether the next start of a response replaces the start that is held back."""
        self.subject: str | None = None
        """The user or the machine that has sent the request, for the access line and the span; None if not known."""
        self.error: type[BaseException] | None = None
        """The class of the unexpected exception that failed the request, for spans and metrics."""
        self.send: Send | None = None
        """The `send` of our server while the application runs. Another layer may wrap the `send` that a layer gets."""
        self.respond: Respond | None = None
        """How our server sends a complete JSON response, as long as it has `send`."""
        self.is_logged: bool = False
        """Whether the exception that reaches the server has been logged already."""

    @classmethod
    def of(cls, scope: Scope) -> "RequestInfo":
        """The object in `scope`; created from the headers if there is none yet."""
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

        Never raises: the server rejects an invalid content-length, and the limit of the body is enforced by counting.
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
        elif name == b"x-request-timeout-ms":
            self.timeout_field = value if self.timeout_field is None else b""
        else:
            self.context_fields = fields = self.context_fields or {}
            fields.setdefault(name.decode("latin-1"), []).append(value.decode("latin-1"))

    def counting(self, receive: Receive) -> Receive:
        """`receive` that counts the body in `body_bytes`, and raises a `Problem` of 413 beyond `max_body_bytes`.

        Returns `receive` unchanged if there is no body, or if it is counted already.
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
        """Note that the application starts to wait for the body."""
        self.receiving_since = monotonic()

    def end_waiting(self) -> None:
        """Note that a part of the body has arrived, or that the wait has failed."""
        if self.receiving_since is not None:
            self.upload_seconds += monotonic() - self.receiving_since
            self.receiving_since = None

    def caller_seconds(self) -> float | None:
        """How long the caller waits after it has sent the request; None if it has not said so in a valid way."""
        field = self.timeout_field
        if field is None or len(field) > MAX_LENGTH_DIGITS or not field.isdigit():
            return None
        return int(field) / 1000

    def remaining_seconds(self) -> float | None:
        """The time until the response must start, never negative; None without a deadline, and after the start."""
        if self.deadline_at is None or (self.response is not None and self.response.status):
            return None
        due = self.deadline_at + self.upload_seconds
        if self.caller_deadline_at is not None:
            due = min(due, self.caller_deadline_at)
        return max(0.0, due - monotonic())

    def _timing(self, receive: Receive) -> Receive:
        """`receive` that measures the waits, behind another server. Ours measures them itself."""
        is_complete = False

        async def receive_and_time() -> Message:
            nonlocal is_complete
            if is_complete:  # the application waits for a disconnect now
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
    """413. The connection is closed because the rest of the body is not read (RFC 9110, section 15.5.14)."""
    return Problem(
        413,
        f"The request body is larger than the limit of {max_body_bytes} bytes.",
        headers={"connection": "close"},
        max_body_bytes=max_body_bytes,
    )
