"""Reads requests from the bytes of a connection, with httptools' parser (RFC 9112)."""

from typing import Protocol
from urllib.parse import unquote

import httptools
import structlog
from starlette.types import ASGIApp, Scope
from structlog.typing import FilteringBoundLogger

from ..problem import Problem
from ..request_info import NOTED_FIELDS, REQUEST_INFO, RequestInfo
from . import request_head
from .cycle import RequestCycle
from .port_state import PortState
from .rejection import Address, rejection_scope
from .timeouts import NEVER, Timeouts

log: FilteringBoundLogger = structlog.get_logger()

# Bytes that are parsed at a time. One read of the event loop may hold thousands of pipelined requests; the rest of it
# waits until those that were parsed have their responses.
PIECE_BYTES = 16_384
METHODS = {method.encode(): method for method in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")}
READ_FIELDS = NOTED_FIELDS | {b"connection", b"expect"}
# As numbers, which is how a byte is found quickly.
SPACE, HASH = b" #"
# A chunk of one byte takes six bytes. A body with much more framing than that is an attack.
WIRE_BYTES_PER_BYTE = 9


class Connection(Protocol):
    """The connection, as its reader sees it."""

    port: PortState

    def may_parse(self) -> bool:
        """Whether the connection takes more requests now."""
        ...

    def begin(self, app: ASGIApp, scope: Scope, keep_alive: bool, expects_continue: bool) -> RequestCycle:
        """Begin a request, and return the cycle that takes its body."""
        ...

    def on_websocket(self, scope: Scope, data: bytes) -> None:
        """Change to a WebSocket; `data` is what the client sent after the head."""
        ...

    def reject(self, problem: Problem) -> None: ...


class RequestReader:
    """Assembles heads and bodies, and limits what is incomplete."""

    __slots__ = (
        "_app",
        "_checked_host",
        "_client",
        "_codings",
        "_connection",
        "_earlier_head_bytes",
        "_expects_continue",
        "_has_connection_field",
        "_has_spaces",
        "_headers",
        "_host",
        "_info",
        "_limits",
        "_made_progress",
        "_parser",
        "_segment_bytes",
        "_server",
        "_small_bytes",
        "_target",
        "_timeouts",
        "_unknown_method",
        "_unread_from",
        "_websocket_scope",
        "_wire_bytes",
        "cycle",
        "in_head",
        "unread",
    )

    def __init__(self, connection: Connection, timeouts: Timeouts, client: Address, server: Address) -> None:
        self._connection = connection
        self._app = connection.port.app
        self._timeouts = timeouts
        self._client = client
        self._server = server
        self._limits = limits = connection.port.limits
        self._small_bytes = min(limits.max_target_bytes, limits.max_head_bytes)  # smaller heads keep both limits
        self._parser = httptools.HttpRequestParser(self)
        # Data after `Connection: close` is ignored here, and must not be an error of the request before it.
        self._parser.set_dangerous_leniencies(lenient_data_after_close=True)
        self.cycle: RequestCycle | None = None
        """The request that was read last, or is read."""
        self._websocket_scope: Scope | None = None
        self.unread: bytes = b""
        """Data that is not parsed yet, from `_unread_from` on."""
        self._unread_from = 0
        # Of the latest data: its size, and whether it completed a head or a message.
        self._segment_bytes = 0
        self._made_progress = False
        # Of the head that is read: its bytes in earlier segments, and its parts.
        self.in_head: bool = False
        self._earlier_head_bytes = 0
        self._target = b""
        self._unknown_method = b""
        self._has_spaces = False
        self._headers: list[tuple[bytes, bytes]] = []
        self._info = RequestInfo()
        self._host: bytes | None = None
        self._codings: bytes | None = None
        self._expects_continue = False
        self._has_connection_field = False
        self._checked_host: bytes | None = None  # of an earlier request
        self._wire_bytes = 0  # of a body, with its framing

    def queue(self, data: bytes) -> None:
        """Read the next bytes in pieces, as far as the connection takes requests."""
        self.unread = self.unread[self._unread_from :] + data
        self._unread_from = 0
        self.read_on()

    def read_on(self) -> None:
        """Read more of the queued data."""
        while self.unread and self._connection.may_parse():
            start = self._unread_from
            self._unread_from = end = start + PIECE_BYTES
            piece = self.unread[start:end]
            if end >= len(self.unread):
                self.discard()
            self.read(piece)

    def discard(self) -> None:
        """Discard the queued data."""
        self.unread = b""
        self._unread_from = 0

    def read(self, data: bytes) -> None:
        """Read a piece; calls the connection for each request that begins, and for what is rejected."""
        # `find`, because `in` raises an exception within CPython before it searches bytes for bytes.
        if data.find(b"\t") >= 0:
            self._has_spaces = True
            if not self.awaits_body():
                data = request_head.without_tabs(data)
        elif data.find(b" \r") >= 0 or data[-1] == SPACE:
            self._has_spaces = True  # no client is known to send this; once is enough to look always
        self._segment_bytes = len(data)
        self._made_progress = False
        rest: memoryview | None = None
        try:
            try:
                self._parser.feed_data(data)
            except httptools.HttpParserUpgrade as upgrade:
                rest = memoryview(data)[upgrade.args[0] :]
            # Not in the handler above, or that exception would become the context of those that follow.
            if rest is not None:
                self._upgrade(rest)
        except httptools.HttpParserError as error:
            self._reject_malformed(error, data)
            return
        # None of the rest is needed for a request that arrived whole.
        cycle = self.cycle
        if self.in_head or not self._made_progress or (cycle is not None and cycle.more_body):
            self._limit_incomplete()

    def awaits_body(self) -> bool:
        """Whether the client has not sent the whole body of the last request."""
        return self.cycle is not None and self.cycle.more_body

    def rejection_scope(self, problem: Problem) -> Scope:
        """Return the scope of the request that is rejected with `problem`, with what is known of it."""
        in_head = self.in_head
        return rejection_scope(
            problem,
            method=self._unknown_method or (self._parser.get_method() if in_head and self._target else b""),
            target=self._target if in_head else b"",
            headers=self._headers if in_head else [],
            info=self._info if in_head else RequestInfo(),
            client=self._client,
            server=self._server,
        )

    def close(self) -> None:
        """Drop all references to the reader, so that no reference cycle is left to the garbage collector."""
        self.cycle = None
        self.discard()
        del self._parser, self._connection

    # httptools' callbacks.

    def on_message_begin(self) -> None:
        self.in_head = True
        self._target = b""
        self._headers = []
        self._info = RequestInfo()
        self._host = self._codings = None
        self._expects_continue = self._has_connection_field = False

    def on_url(self, url: bytes) -> None:
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self.in_head:
            return  # a trailer, which must not become a header (RFC 9110, section 6.5.1)
        name = name.lower()
        if self._has_spaces:  # white space behind a value is not a part of it (RFC 9112, section 5.1)
            value = value.strip(b" \t")
        if name in READ_FIELDS:
            if name == b"host":
                if self._host is not None:
                    raise Problem(400, "The request has more than one Host header; exactly one is allowed.")
                self._host = self._info.host = value  # as `note` does
            elif name == b"connection":
                self._has_connection_field = True
            elif name == b"expect":
                self._expects_continue = self._expects_continue or value.lower() == b"100-continue"
            else:
                if name == b"transfer-encoding":
                    self._codings = value if self._codings is None else self._codings + b"," + value
                self._info.note(name, value)
        self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        parser = self._parser
        keeps_alive = parser.should_keep_alive()
        # Without the Connection field, only HTTP/1.1 is kept alive (RFC 9112, section 9.3). The parser would make a new
        # text of the version each time.
        version = "1.1" if keeps_alive and not self._has_connection_field else parser.get_http_version()
        method = parser.get_method()
        if (
            self._host is None
            or self._host != self._checked_host
            or self._codings is not None
            or version not in request_head.VERSIONS
            or self._earlier_head_bytes + self._segment_bytes > self._small_bytes
        ):
            self._check_head(version)
        upgrades = parser.should_upgrade()
        if upgrades and not self._begins_websocket(method):
            return  # the head is fed again, without its Upgrade header
        target = self._target
        if target.startswith(b"/") and HASH not in target:  # the origin form, which most requests have
            raw_path, _, query = target.partition(b"?")
        else:
            raw_path, query, authority = request_head.split_other_target(target, method)
            if authority is not None:
                self._replace_host(authority)
        path = raw_path.decode("ascii")
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": version,
            "method": METHODS.get(method) or method.decode("ascii"),
            "scheme": "http",
            "path": unquote(path) if "%" in path else path,
            "raw_path": raw_path,
            "query_string": query,
            "root_path": "",
            "headers": self._headers,
            "client": self._client,
            "server": self._server,
            "state": {},
            REQUEST_INFO: self._info,
        }
        self.in_head = False
        self._made_progress = True
        self._earlier_head_bytes = 0
        self._timeouts.head_due = NEVER
        if upgrades:
            self._websocket_scope = scope
        elif version == "1.0":
            # An expectation of HTTP/1.0 is ignored (RFC 9110, section 10.1.1).
            self.cycle = self._connection.begin(self._app, scope, False, False)
        else:
            self.cycle = self._connection.begin(self._app, scope, keeps_alive, self._expects_continue)

    def on_body(self, body: bytes) -> None:
        if self._timeouts.body_due != NEVER:
            self._timeouts.body_bytes += len(body)
        if self.cycle is not None:
            self.cycle.add_body(body)

    def on_message_complete(self) -> None:
        cycle = self.cycle
        if self.in_head or self._websocket_scope is not None or cycle is None:
            return  # a head that is fed again, or the handshake of a WebSocket
        self._made_progress = True
        self._timeouts.body_due = NEVER
        cycle.end_body()
        if cycle.response_complete:
            self._timeouts.start_idle()

    # Checks and limits.

    def _check_head(self, version: str) -> None:
        if self._earlier_head_bytes + self._segment_bytes > self._small_bytes:
            request_head.check_size(self._target, self._headers, self._limits)
        request_head.check_host(self._host, version, has_authority=not self._target.startswith((b"/", b"*")))
        self._checked_host = self._host or None
        request_head.check_version(version)
        if self._codings is not None:
            request_head.check_transfer_coding(self._codings, version)

    def _replace_host(self, authority: bytes) -> None:
        """The authority of the target counts, not the Host header (RFC 9112, section 3.2.2)."""
        self._info.host = authority
        self._headers = [header for header in self._headers if header[0] != b"host"]
        self._headers.insert(0, (b"host", authority))

    def _limit_incomplete(self) -> None:
        """A head or a body has begun and is incomplete: limit its size and its time."""
        if self.awaits_body():
            self._limit_body()
            return
        # Where a head begins inside a segment is unknown, so that segment is not counted.
        self._earlier_head_bytes = 0 if self._made_progress else self._earlier_head_bytes + self._segment_bytes
        if len(self._target) > self._limits.max_target_bytes:
            self._connection.reject(request_head.target_too_long(self._limits))
        elif self._earlier_head_bytes > self._limits.max_head_bytes:
            self._connection.reject(request_head.head_too_large(self._limits))
        elif self.cycle is None or self.cycle.response_complete:
            self._timeouts.start_head()

    def _limit_body(self) -> None:
        timeouts = self._timeouts
        self._wire_bytes = self._wire_bytes + self._segment_bytes if timeouts.body_due != NEVER else 0
        timeouts.start_body()
        if self._wire_bytes > self._limits.max_head_bytes + WIRE_BYTES_PER_BYTE * timeouts.body_bytes:
            self._connection.reject(Problem(400, "The request's body has too many small chunks; send larger ones."))

    def _reject_malformed(self, error: httptools.HttpParserError, data: bytes) -> None:
        cause = error.__context__
        if isinstance(cause, Problem):
            self._connection.reject(cause)
            return
        if cause is not None and not isinstance(cause, (ValueError, httptools.HttpParserError)):
            log.error("request could not be parsed", exc_info=cause)
        unknown = self._unknown_method_of(error, data)
        if unknown is not None:
            self._unknown_method, self._target = unknown
            method = self._unknown_method.decode("ascii")
            problem = Problem(501, f"The method {method} is not supported.", headers={"connection": "close"})
        else:
            problem = Problem(400, "Malformed HTTP/1.1 request.", headers={"connection": "close"})
        self._connection.reject(problem)

    def _unknown_method_of(self, error: httptools.HttpParserError, data: bytes) -> tuple[bytes, bytes] | None:
        """The method and the target of a request that httptools rejects because of its method."""
        if isinstance(error, httptools.HttpParserInvalidMethodError):
            return request_head.unknown_method(data)
        # It reads methods of other protocols, such as RTSP, as far as the version.
        if self.in_head and self._target and (method := self._parser.get_method()) not in request_head.READ_METHODS:
            return method, self._target
        return None

    # Upgrades.

    def _begins_websocket(self, method: bytes) -> bool:
        if not request_head.asks_for_websocket(method, self._headers) or not self._connection.port.accepts_websockets:
            return False
        if self.cycle is not None and not self.cycle.response_complete:
            raise Problem(
                400, "A WebSocket handshake must wait for the responses to earlier requests on its connection."
            )
        return True

    def _upgrade(self, rest: memoryview) -> None:
        """Continue after a head that asks for another protocol."""
        while self._websocket_scope is None:
            # An upgrade that the service does not support is ignored (RFC 9110, section 7.8). httptools would take the
            # request's body for the next request, so it gets the head again, without the Upgrade header.
            version = self._parser.get_http_version()
            head = request_head.without_upgrade(self._parser.get_method(), self._target, version, self._headers)
            self._parser.feed_data(head)
            try:
                self._parser.feed_data(rest)
            except httptools.HttpParserUpgrade as upgrade:
                rest = rest[upgrade.args[0] :]
            else:
                return
        self._connection.on_websocket(self._websocket_scope, bytes(rest) + self.unread[self._unread_from :])
