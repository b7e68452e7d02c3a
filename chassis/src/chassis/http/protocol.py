"""uvicorn's HTTP/1.1 protocol with a shorter way from request to response, and a closer look at what is sent.

httptools parses and uvicorn keeps connections, as always. What differs: head and body of a response
leave in one `write`, header lines that repeat are checked and encoded once, and what the event loop
has to schedule for each request is its task alone. What RFC 9112 wants refused and httptools lets through is
refused here, so that whoever stands in front and this service never differ about where a request ends.
"""

import re
from typing import Any
from urllib.parse import unquote

import httptools
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT

from ..problem import Problem
from .connection import NEVER, Connection
from .cycle import Exchange

# RFC 9110, section 7.2, and RFC 3986, section 3.2: a name, an IPv4 or a bracketed IPv6 address, and a port.
HOST = re.compile(rb"(?:[\w.~!$&'()*+,;=%-]*|\[[0-9A-Fa-fv:.]+\])(?::[0-9]*)?", re.ASCII)
VERSIONS = frozenset({"1.0", "1.1"})
# A chunk of one byte takes six. What takes much more isn't there for its content.
WIRE_BYTES_PER_BYTE = 9


class HttpProtocol(Connection):
    """Reads requests from a connection."""

    _upgrades = False
    _got_on = False  # a head or a message is complete since data came last
    _segment_bytes = 0
    _head_bytes = 0  # of a head that came in several segments, before the last of them
    _wire_bytes = 0
    _host: bytes | None = None
    _good_host: bytes | None = None
    _codings: bytes | None = None

    def data_received(self, data: bytes) -> None:
        """asyncio's callback: the client has sent something."""
        if self._deaf:
            return
        self._idle_due = NEVER
        self._segment_bytes = len(data)
        self._got_on = False
        try:
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as upgrade:
                self._upgrade(memoryview(data)[upgrade.args[0] :])
        except httptools.HttpParserError as error:
            self._refuse(error)
            return
        # Nothing of this for a request that came as a whole.
        reading = self.cycle
        if self._in_head or not self._got_on or (reading is not None and reading.more_body):
            self._read_on()

    def _upgrade(self, rest: memoryview) -> None:
        """Go on after a head that asks for another protocol."""
        while not self._upgrades:
            # What isn't understood is ignored (RFC 9110, section 7.8). httptools would skip the request's body
            # and take it for the next request, so it is given the head again, without the field.
            self.parser.feed_data(self._head_without_upgrade())
            try:
                self.parser.feed_data(rest)
            except httptools.HttpParserUpgrade as upgrade:
                rest = rest[upgrade.args[0] :]
            else:
                return
        self.handle_websocket_upgrade()
        self._deaf = True

    def _refuse(self, error: httptools.HttpParserError) -> None:
        cause = error.__context__
        if not isinstance(cause, Problem):
            cause = Problem(400, "This is no HTTP/1.1.", headers={"connection": "close"})
        self.fail(cause)

    def _read_on(self) -> None:
        """Something has begun and isn't there yet: hold the client to size and time."""
        reading = self.cycle
        if reading is not None and reading.more_body:
            self._wire_bytes = self._wire_bytes + self._segment_bytes if self._body_due != NEVER else 0
            self._await_body()
            if self._wire_bytes > self._limits.max_head_bytes + WIRE_BYTES_PER_BYTE * self._body_bytes:
                self.fail(Problem(400, "The request's body is more framing than content."))
            return
        # Where a head begins inside of a segment is not known, so such a segment isn't counted.
        self._head_bytes = 0 if self._got_on else self._head_bytes + self._segment_bytes
        if len(self.url) > self._limits.max_target_bytes:
            self.fail(self._target_too_long())
        elif self._head_bytes > self._limits.max_head_bytes:
            self.fail(self._head_too_large())
        elif reading is None or reading.response_complete:
            self._await_head()

    # httptools' callbacks.

    def on_message_begin(self) -> None:
        """The first bytes of a request are there."""
        self._in_head = True
        self.url = b""
        self.expect_100_continue = False
        self.headers = []
        self._host = self._codings = None

    def on_header(self, name: bytes, value: bytes) -> None:
        """A field is there."""
        if not self._in_head:
            return  # a trailer, which must not become a field of the head (RFC 9110, section 6.5.1)
        name = name.lower()
        if name == b"host":
            if self._host is not None:
                raise Problem(400, "The request has more than one host.")
            self._host = value
        elif name == b"transfer-encoding":
            self._codings = value if self._codings is None else self._codings + b"," + value
        elif name == b"expect" and value.lower() == b"100-continue":
            self.expect_100_continue = True
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        """The head of a request is there, so the request begins."""
        parser = self.parser
        version = parser.get_http_version()
        if (
            self._host != self._good_host
            or self._host is None
            or self._codings is not None
            or version not in VERSIONS
            or self._head_bytes + self._segment_bytes > self._small_bytes
        ):
            self._check_head(version)
        if parser.should_upgrade() and not self._begins_upgrade():
            return  # it comes again, without the field
        url = self.url
        if url.startswith(b"/") and b"#" not in url:
            raw_path, _, query = url.partition(b"?")
        else:
            raw_path, query = self._other_form(url)
        path = raw_path.decode("ascii")
        scope: Any = {
            "type": "http",
            "asgi": {"version": self.asgi_version, "spec_version": "2.3"},
            "http_version": version,
            "method": parser.get_method().decode("ascii"),
            "scheme": self.scheme,
            "path": unquote(path) if "%" in path else path,
            "raw_path": raw_path,
            "query_string": query,
            "root_path": "",
            "headers": self.headers,
            "client": self.client,
            "server": self.server,
            "state": {},
        }
        self.scope = scope
        self._in_head = False
        self._got_on = True
        self._head_bytes = 0
        self._head_due = NEVER
        if self._upgrades:
            return
        one_zero = version == "1.0"
        keep_alive = not one_zero and parser.should_keep_alive()
        # An expectation of HTTP/1.0 is ignored (RFC 9110, section 10.1.1).
        self.begin(Exchange(self, scope, keep_alive, self.expect_100_continue and not one_zero), self.app)

    def on_body(self, body: bytes) -> None:
        """A piece of a request's body is there."""
        exchange = self.cycle
        if self._body_due != NEVER:
            self._body_bytes += len(body)
        if exchange.response_complete:
            return
        exchange.body += body
        if len(exchange.body) > HIGH_WATER_LIMIT:
            self.flow.pause_reading()
        exchange.message_event.set()

    def on_message_complete(self) -> None:
        """The request is there as a whole."""
        if self._in_head or self._upgrades:
            return  # a head that comes again, or the last that is read here
        exchange = self.cycle
        exchange.more_body = False
        self._got_on = True
        self._body_due = NEVER
        if exchange.response_complete:
            self._idle_due = self._wake_in(self.timeout_keep_alive)
        else:
            exchange.message_event.set()

    # What httptools lets through.

    def _check_head(self, version: str) -> None:
        if self._head_bytes + self._segment_bytes > self._small_bytes:
            self._check_size()
        host = self._host
        if host is None:
            if version != "1.0":
                raise Problem(400, "The request names no host.")
        elif host != self._good_host:
            if not HOST.fullmatch(host):
                raise Problem(400, "The request's host can't be one.")
            self._good_host = host
        if version not in VERSIONS:
            raise Problem(505, "The service speaks HTTP/1.1 and HTTP/1.0.")
        if self._codings is not None:
            self._check_codings(version, self._codings)

    def _check_size(self) -> None:
        if len(self.url) > self._limits.max_target_bytes:
            raise self._target_too_long()
        fields = sum(len(name) + len(value) + len(": \r\n") for name, value in self.headers)
        if len(self.url) + fields > self._limits.max_head_bytes:
            raise self._head_too_large()

    def _check_codings(self, version: str, codings: bytes) -> None:
        if version == "1.0":
            raise Problem(400, "HTTP/1.0 has no transfer codings.")  # RFC 9112, section 6.1
        codings = codings.lower()
        if codings == b"chunked":
            return
        # Without chunks at last there is no telling where the body ends (RFC 9112, section 6.3).
        status = 501 if codings.rpartition(b",")[2].strip() == b"chunked" else 400
        raise Problem(status, "The service knows no transfer coding but chunked.")

    def _other_form(self, url: bytes) -> tuple[bytes, bytes]:
        """Path and query of a target in absolute or asterisk form (RFC 9112, sections 3.2.2 and 3.2.4)."""
        if url == b"*" and self.parser.get_method() == b"OPTIONS":
            return url, b""
        parsed = httptools.parse_url(url)
        if not url.startswith(b"/") and parsed.schema not in (b"http", b"https"):
            raise Problem(400, "The request's target is neither a path nor an http address.")
        return parsed.path or b"/", parsed.query or b""

    def _head_without_upgrade(self) -> bytes:
        version = self.parser.get_http_version()
        lines = [b"%b %b HTTP/%b" % (self.parser.get_method(), self.url, version.encode())]
        lines += [b"%b: %b" % header for header in self.headers if header[0] != b"upgrade"]
        return b"\r\n".join((*lines, b"", b""))

    def _begins_upgrade(self) -> bool:
        """Whether the connection becomes a WebSocket."""
        if self.parser.get_method() == b"CONNECT":
            raise Problem(400, "The service is not a proxy.")
        self._upgrades = self._should_upgrade()
        if self._upgrades and self.cycle is not None and not self.cycle.response_complete:
            raise Problem(400, "A WebSocket can't begin before the requests ahead of it are answered.")
        return self._upgrades

    def _target_too_long(self) -> Problem:
        most = self._limits.max_target_bytes
        return Problem(414, f"The request's target is longer than {most} bytes.", max_target_bytes=most)

    def _head_too_large(self) -> Problem:
        most = self._limits.max_head_bytes
        return Problem(431, f"The request's head is larger than {most} bytes.", max_head_bytes=most)
