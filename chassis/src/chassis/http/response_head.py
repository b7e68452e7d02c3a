"""Encodes the head of a response: status line and header section (RFC 9112, sections 4 and 5)."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from http import HTTPStatus

from ..cache import BoundedCache
from ..problem import phrase
from ..response_sender import JSON, DefaultHeaders

STATUS_LINES = {
    status.value: f"HTTP/1.1 {status.value} {phrase(status.value)}\r\n".encode()
    for status in HTTPStatus
    if status >= 200
}
CLOSE = b"connection: close\r\n"
NO_CONTENT = frozenset({204, 304})  # RFC 9110, section 6.4.1: these never have content

# RFC 9110, sections 5.1 and 5.5: bytes that are not allowed in a field's name and value.
BAD_NAME = re.compile(rb"[^!#$%&'*+\-.^_`|~0-9A-Za-z]")
BAD_VALUE = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")

# Fields that frame the message are read each time. Fields whose values differ each time are not worth caching.
FRAMING = frozenset({b"connection", b"content-length", b"transfer-encoding"})
VARYING = frozenset({b"etag", b"last-modified", b"location", b"ratelimit", b"set-cookie", b"x-request-id"})

# Checked and encoded field lines that are sent again and again, such as the security headers; and checked names.
field_lines: BoundedCache[tuple[bytes, bytes], bytes] = BoundedCache()
field_names: BoundedCache[bytes, bytes] = BoundedCache()
json_blocks: BoundedCache[DefaultHeaders, bytes] = BoundedCache(16, max_entry_bytes=65_536)


@dataclass(slots=True)
class ResponseHead:
    """An encoded head, and the framing of the content that follows it."""

    lines: list[bytes]
    """To be joined; ends with the empty line."""
    keep_alive: bool
    """Whether the connection may be used for another request."""
    has_content: bool
    """Whether content follows; without it, all that the application sends is dropped."""
    chunked: bool
    content_length: int | None
    """Bytes of content that must follow; None for chunks, or for content that ends with the connection."""


def encode_response_head(
    status: int,
    headers: Iterable[Iterable[bytes]],
    date_line: bytes,
    keep_alive: bool,
    is_head: bool = False,
    is_http_1_0: bool = False,
) -> ResponseHead:
    """Encode the head of the response to a request.

    `keep_alive` is whether the request and the server allow another request, `is_head` and `is_http_1_0` describe the
    request. Raises `RuntimeError` for a status or a field that would break the message.
    """
    lines = [STATUS_LINES.get(status) or _status_line(status), date_line]
    append, cached_line = lines.append, field_lines.get
    content_length: int | None = None
    framing: list[tuple[bytes, bytes]] = []
    for header in headers:
        try:
            line = cached_line(header)  # type: ignore[call-overload]  # mostly tuples; others are never found
        except TypeError:  # lists, which ASGI allows, are not hashable
            line = None
        if line is not None:
            append(line)
            continue
        name, value = header
        if name == b"content-length" and content_length is None and value.isdigit():  # most responses have it
            content_length = int(value)
            continue
        name, line = encode_field(name, value)
        if name in FRAMING:
            framing.append((name, value.lower()))
            continue
        if name == b"date":
            lines[1] = line  # the application's instead of ours
            continue
        append(line)
        if name not in VARYING and type(header) is tuple:
            field_lines.add(header, line, size_bytes=len(line))

    head = ResponseHead(lines, keep_alive, True, False, content_length)
    if framing or content_length is None or is_head or status in NO_CONTENT:
        _frame(head, framing, status, is_head, is_http_1_0)
    else:
        append(b"content-length: %d\r\n" % content_length)
    append(b"\r\n" if head.keep_alive else CLOSE + b"\r\n")
    return head


def encode_json_response(
    status: int,
    body: bytes,
    request_id: str,
    defaults: DefaultHeaders,
    others: Iterable[tuple[bytes, bytes]],
    date_line: bytes,
    keep_alive: bool,
) -> bytes:
    """A complete response with JSON; `others` are headers that differ each time."""
    block = json_blocks.get(defaults)
    if block is None:
        lines = b"".join([encode_field(name, value)[1] for name, value in (JSON, *defaults.headers)])
        block = json_blocks.add(defaults, lines, size_bytes=len(lines))
    return b"%b%b%b%bcontent-length: %d\r\nx-request-id: %b\r\n%b\r\n%b" % (
        STATUS_LINES.get(status) or _status_line(status),
        date_line,
        block,
        b"".join([encode_field(name, value)[1] for name, value in others]) if others else b"",
        len(body),
        request_id.encode(),
        b"" if keep_alive else CLOSE,
        body,
    )


def _frame(
    head: ResponseHead, fields: list[tuple[bytes, bytes]], status: int, is_head: bool, is_http_1_0: bool
) -> None:
    """Frame a message that needs more than its Content-Length (RFC 9112, section 6)."""
    for name, value in fields:
        if name == b"connection":
            # The connection belongs to the server. The application may ask to close it.
            head.keep_alive = head.keep_alive and b"close" not in value
        elif name == b"content-length":
            head.content_length = _checked_length(value, head.content_length)
        elif value == b"chunked":
            head.chunked = True
        else:
            raise RuntimeError(f"Invalid Transfer-Encoding of a response: {value!r}. Allowed is chunked.")
    head.has_content = not (is_head or status in NO_CONTENT)
    if head.has_content and head.content_length is None:
        head.chunked = True
    if status == 204:
        head.chunked = False  # RFC 9112, section 6.1: 204 has no Transfer-Encoding
    if head.chunked and is_http_1_0:  # HTTP/1.0 has no chunks, so the content ends with the connection
        head.chunked = head.keep_alive = False
        head.content_length = None
    if head.chunked:
        head.content_length = None
        head.lines.append(b"transfer-encoding: chunked\r\n")
    elif head.content_length is not None and status != 204:  # RFC 9110, section 8.6: 204 has no Content-Length
        head.lines.append(b"content-length: %d\r\n" % head.content_length)
    if not head.has_content:
        head.chunked = False
        head.content_length = 0


def encode_field(name: bytes, value: bytes) -> tuple[bytes, bytes]:
    """Return the name in lower case and the field line; raises `RuntimeError` for invalid characters."""
    lower = field_names.get(name) or _checked_name(name)
    if not value.isalnum() and BAD_VALUE.search(value):
        raise RuntimeError(
            f"Invalid value of the response header {lower.decode()}. Control characters are not allowed."
        )
    return lower, b"%b: %b\r\n" % (lower, value)


def _checked_name(name: bytes) -> bytes:
    if not name or BAD_NAME.search(name):
        raise RuntimeError(
            f"Invalid name of a response header: {name!r}. Allowed are letters, digits and !#$%&'*+-.^_`|~"
        )
    return field_names.add(bytes(name), bytes(name).lower(), size_bytes=len(name))


def _checked_length(value: bytes, before: int | None) -> int:
    if not value.isdigit():
        raise RuntimeError(f"Invalid Content-Length of a response: {value!r}. Allowed are whole numbers.")
    if before not in (None, int(value)):
        raise RuntimeError(f"A response has two values of Content-Length, {before} and {int(value)}. Send one.")
    return int(value)


def _status_line(status: int) -> bytes:
    if not 200 <= status <= 999:
        raise RuntimeError(f"Invalid status of a response: {status!r}. Allowed are 200 to 999.")
    return b"HTTP/1.1 %d \r\n" % status
