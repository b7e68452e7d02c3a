"""What is known of a request from one look at its header section, and of its body while it is read."""

import re

from starlette.types import Message, Receive, Scope

from .problem import Problem

REQUEST_INFO = "chassis.request"  # the key in an ASGI scope

# The fields that the chassis itself reads, in lower case.
NOTED_FIELDS = frozenset(
    {
        b"baggage",
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


class RequestInfo:
    """The fields that the chassis reads of a request, each found once, and the size of the body that was read.

    Our server notes the fields while it parses them (`note`). Behind another ASGI server, `of` looks for them in
    `scope["headers"]` on first use.
    """

    __slots__ = (
        "body_bytes",
        "content_length",
        "has_body",
        "has_more_context",
        "host",
        "max_body_bytes",
        "read_at",
        "request_id",
        "traceparent",
        "user_agent",
    )

    def __init__(self, read_at: float | None = None) -> None:
        self.read_at = read_at
        """When our server read the request, monotonic seconds; None behind another server."""
        self.host = b""
        self.user_agent = b""
        self.request_id = ""
        """The client's, if it is safe to repeat; else empty."""
        self.content_length: int | None = None
        self.has_body = False
        """Whether there is a body (RFC 9112, section 6.3)."""
        self.traceparent: bytes | None = None
        self.has_more_context = False
        """Whether there is a tracestate, baggage or a second traceparent, which OpenTelemetry's propagators read."""
        self.body_bytes = 0
        """Of the body, as far as the application has read it."""
        self.max_body_bytes: int | None = None

    @classmethod
    def of(cls, scope: Scope) -> "RequestInfo":
        """The one that the server put into `scope`, else a new one from its headers."""
        info = scope.get(REQUEST_INFO)
        if isinstance(info, cls):
            return info
        info = scope[REQUEST_INFO] = cls()
        for name, value in scope["headers"]:
            if name in NOTED_FIELDS:
                info.note(name, value)
        return info

    def note(self, name: bytes, value: bytes) -> None:
        """Note a field of `NOTED_FIELDS`; `name` is in lower case."""
        if name == b"host":
            self.host = value
        elif name == b"user-agent":
            self.user_agent = value
        elif name == b"content-length":
            self.has_body = True
            self.content_length = int(value)
        elif name == b"transfer-encoding":
            self.has_body = True
        elif name == b"traceparent":
            self.has_more_context = self.has_more_context or self.traceparent is not None
            self.traceparent = value
        elif name == b"x-request-id":
            if REQUEST_ID.fullmatch(value):
                self.request_id = value.decode("ascii")
        else:
            self.has_more_context = True

    def counting(self, receive: Receive) -> Receive:
        """`receive` that counts the body in `body_bytes`, and raises a `Problem` of 413 beyond `max_body_bytes`."""
        if not self.has_body:
            return receive

        async def receive_and_count() -> Message:
            message = await receive()
            if message["type"] == "http.request":
                self.body_bytes += len(message.get("body", b""))
                if self.max_body_bytes is not None and self.body_bytes > self.max_body_bytes:
                    raise body_too_large(self.max_body_bytes)
            return message

        return receive_and_count


def body_too_large(max_body_bytes: int) -> Problem:
    """413; the connection is closed because the rest of the body is not read (RFC 9110, section 15.5.14)."""
    return Problem(
        413,
        f"The request's body is larger than {max_body_bytes} bytes.",
        headers={"connection": "close"},
        max_body_bytes=max_body_bytes,
    )
