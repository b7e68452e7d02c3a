"""The response on its way from the application to the server."""

from collections.abc import Awaitable, Callable, Generator, Iterable, Mapping
from operator import itemgetter, methodcaller
from time import perf_counter

from starlette.types import Message, Send

Header = tuple[bytes, bytes]

NAME = itemgetter(0)
LOWER = methodcaller("lower")
REQUEST_ID = b"x-request-id"
JSON: Header = (b"content-type", b"application/json")
LENGTH = b"content-length"
JSON_NAMES = frozenset({b"content-type", LENGTH})
PROBLEM: Header = (b"content-type", b"application/problem+json")
# A key in a response start message: the whole body follows in the next message. So the headers can be sent with it.
BODY_FOLLOWS = "chassis.body_follows"
# Suffixes of the media types that an API sends to programs.
API_TYPES = (b"json", b"text/plain", b"text/csv", b"text/event-stream", b"openmetrics-text")
CACHE_CONTROL = b"cache-control"
# A browser may keep the response, but asks before each use, so that credentials are checked again.
REVALIDATED: Header = (CACHE_CONTROL, b"private, no-cache")
# With these, the owner has said that the response is not kept, or that everybody may get it (RFC 9111, section 3.5).
DECIDED = (b"no-store", b"no-cache", b"public", b"s-maxage")
VARIES: Header = (b"vary", b"authorization, x-api-key")
# A response with one of these may be cached and validated (RFC 9110, section 8.8).
VALIDATORS = frozenset({b"etag", b"last-modified"})


class Done:
    """An awaitable that is done already."""

    __slots__ = ()

    def __await__(self) -> Generator[None, None, None]:
        return NOTHING


NOTHING: Generator[None, None, None] = (nothing for nothing in list[None]())
DONE = Done()
"""Returned by our server's `send` for a message that the transport has accepted."""


class DefaultHeaders:
    """Headers that are added to responses, unless a response has a header of the same name.

    Names are case-insensitive. A header with an empty value is left out. `files` has the headers for other content than
    that of an API (`API_TYPES`), such as pages, images and scripts. By default they are the same.
    """

    __slots__ = ("files", "has_json_names", "headers", "names", "names_with_id")

    def __init__(self, headers: Mapping[str, str], files: "DefaultHeaders | None" = None) -> None:
        lower = {name.lower(): value for name, value in headers.items()}
        self.headers: tuple[Header, ...] = tuple(
            (name.encode("latin-1"), value.encode("latin-1")) for name, value in lower.items() if value
        )
        self.names: frozenset[bytes] = frozenset(name for name, _ in self.headers)
        if b"cache-control" in self.names:
            self.names |= VALIDATORS  # so that `_complete` notices them
        self.names_with_id: frozenset[bytes] = self.names | {REQUEST_ID}
        self.has_json_names: bool = not self.names.isdisjoint(JSON_NAMES)
        self.files: DefaultHeaders = files or self

    def matching(self, headers: Iterable[Header]) -> "DefaultHeaders":
        """The default headers for a response with `headers`: `self`, or `files`."""
        has_validator = False
        for field, value in headers:
            name = field.lower()
            if name == b"content-type":
                media_type = value.partition(b";")[0].strip().lower()
                return self if media_type.endswith(API_TYPES) else self.files
            has_validator = has_validator or name in VALIDATORS
        # A 304 changes the headers of the file that a browser has cached (RFC 9111, section 3.2).
        return self.files if has_validator else self


NO_HEADERS = DefaultHeaders({})

Respond = Callable[[int, bytes, str, DefaultHeaders, Iterable[Header]], bool]
"""Sends a complete JSON response at once: its status, its content, the request id, the default headers, and others.

Returns False, and sends nothing, where that is not possible; then the response is sent in ASGI's messages.
"""


class ResponseSender:
    """An ASGI `send` that adds headers, and observes the status, the size and the end of the response.

    It never replaces a header of the response. Names are compared without regard to case.

    Adjacent layers share one sender (`ResponseSender.of`). A middleware that wraps `send` ends the sharing: the layers
    inside it observe its input, and the layers outside observe its output.
    """

    __slots__ = (
        "_added",
        "_defaults",
        "_respond",
        "_send",
        "body_bytes",
        "is_complete",
        "is_private",
        "is_streamed",
        "on_leave",
        "request_id",
        "started_at",
        "status",
    )

    def __init__(
        self,
        send: Send,
        request_id: str = "",
        defaults: DefaultHeaders = NO_HEADERS,
        respond: Respond | None = None,
    ) -> None:
        """`request_id`, unless it is empty, and `defaults` are the headers to add.

        `respond` is that of our server, if `send` is, too.
        """
        self._respond = respond if request_id and not defaults.has_json_names else None
        self._send = send
        self._defaults = defaults
        self._added: tuple[Header, ...] = ()
        self.request_id: str = request_id
        """The request id that the client gets. If the application sets the header itself, it is that one."""
        self.status: int = 0
        """0 until the response has started; for a WebSocket 101, or 403 if its handshake is rejected."""
        self.body_bytes: int = 0
        """The bytes of the content that the server has accepted."""
        self.is_complete: bool = False
        """Whether the server has accepted the last part of an HTTP response."""
        self.is_private: bool = False
        """Whether the response is for one user, and caches must not give it to another one: see `private`."""
        self.is_streamed: bool = False
        """Whether the content is sent in several parts."""
        self.started_at: float = 0.0
        """When a response that may be streamed has started, by `perf_counter`; 0 for one that is sent as a whole."""
        self.on_leave: Callable[[], object] | None = None
        """Called when the response is complete. It must not refer to this object: that would be a reference cycle."""

    @classmethod
    def of(cls, send: Send) -> "ResponseSender":
        """`send` itself if the outer layer has made it a `ResponseSender` already, else a new one."""
        return send if isinstance(send, cls) else cls(send)

    # A plain function that returns the inner awaitable, for performance: it needs no coroutine of its own.
    def __call__(self, message: Message) -> Awaitable[None]:
        # The message is copied before it is changed: an application may send the same object for each request.
        message_type = message["type"]
        if message_type == "http.response.body":
            sent = self._send(message)
            if sent is not DONE:
                return self._count_when_sent(sent, message)
            if "body" in message:
                self.body_bytes += len(message["body"])
            if "more_body" not in message or not message["more_body"]:
                self._end()
            elif self.started_at:
                self.is_streamed = True
            return sent
        if message_type in ("http.response.start", "websocket.http.response.start"):
            headers = message.get("headers", ())
            # Sent before the status is set, because our server raises for invalid headers here.
            sent = self._send({**message, "headers": self._complete(headers)})
            self.status = message["status"]
            if BODY_FOLLOWS not in message:
                self.started_at = perf_counter()
            return sent
        if message_type == "websocket.accept":
            message = {**message, "headers": self._complete(message.get("headers", ()))}
            self.status = 101
        elif message_type == "websocket.close" and not self.status:
            self.status = 403  # the server's response when the handshake is rejected
        return self._send(message)

    def send_json(self, status: int, body: bytes) -> bool:
        """Send a complete JSON response. Returns False, and sends nothing, if it must be sent in ASGI's messages."""
        respond = self._respond
        if respond is None or not respond(status, body, self.request_id, self._defaults, self._added):
            return False
        self.status = status
        self.body_bytes = len(body)
        self._end()
        return True

    def add(self, headers: Iterable[Header]) -> None:
        """Add headers to the response, beside those that it has."""
        # A wrapper and no attribute, so that other responses pay nothing for it.
        send = self._send
        headers = tuple(headers)
        self._added += headers

        def send_with_headers(message: Message) -> Awaitable[None]:
            if message["type"] in ("http.response.start", "websocket.accept"):
                message["headers"] = [*message["headers"], *headers]  # the message is a copy already
            return send(message)

        self._send = send_with_headers

    async def _count_when_sent(self, sent: Awaitable[None], message: Message) -> None:
        if self.started_at and message.get("more_body", False):
            self.is_streamed = True
        await sent
        self.body_bytes += len(message.get("body", b""))
        if not message.get("more_body", False):
            self._end()

    def _end(self) -> None:
        self.is_complete = True
        if self.on_leave is not None:
            self.on_leave()

    def _complete(self, headers: Iterable[Header]) -> Iterable[Header]:
        defaults, request_id = self._defaults, self.request_id
        headers = private(headers) if self.is_private else [*headers]
        if JSON not in headers and PROBLEM not in headers:
            defaults = defaults.matching(headers)
        if defaults.names_with_id.isdisjoint(map(LOWER, map(NAME, headers))):  # the most frequent case
            if not request_id:
                return [*headers, *defaults.headers]
            return [*headers, (REQUEST_ID, request_id.encode()), *defaults.headers]
        present = {name.lower(): value for name, value in headers}
        if not VALIDATORS.isdisjoint(present):
            present |= {b"cache-control": b""}
        if REQUEST_ID in present:
            self.request_id = present[REQUEST_ID].decode("latin-1")
        elif request_id:
            headers.append((REQUEST_ID, request_id.encode()))
        headers += [header for header in defaults.headers if header[0] not in present]
        return headers


def private(headers: Iterable[Header]) -> list[Header]:
    """The headers of a response that no cache gives to another user (RFC 9111, sections 3.5 and 4.1).

    JSON and other content of an API has `no-store` by default. A response that may be cached, because it has a
    validator or is a file, gets `private, no-cache`. One that the owner lets browsers cache gets `Vary`.
    """
    headers = [*headers]
    present = {name.lower(): value for name, value in headers}
    directives = present.get(CACHE_CONTROL)
    if directives is not None:
        is_decided = any(word in directives.lower() for word in DECIDED)
        return headers if is_decided else [*headers, VARIES]
    media_type = present.get(b"content-type", b"").partition(b";")[0].strip().lower()
    is_of_api = not media_type or media_type.endswith(API_TYPES)
    return headers if is_of_api and VALIDATORS.isdisjoint(present) else [*headers, REVALIDATED]


def is_json_result(headers: Iterable[Header]) -> bool:
    """Whether these are exactly the two headers of a handler's JSON result."""
    return type(headers) is list and len(headers) == 2 and headers[0] is JSON and headers[1][0] is LENGTH


async def send_response(send: Send, status: int, headers: list[Header], body: bytes) -> None:
    """Send a response as a whole."""
    if isinstance(send, ResponseSender) and is_json_result(headers) and send.send_json(status, body):
        return
    await send({"type": "http.response.start", "status": status, "headers": headers, BODY_FOLLOWS: True})
    await send({"type": "http.response.body", "body": body})
