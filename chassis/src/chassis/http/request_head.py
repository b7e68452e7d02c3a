"""Checks of a request's head that httptools does not make (RFC 9112, sections 3 and 6).

A proxy in front and this service must never differ about where a request ends. Otherwise a client could hide one
request in another (request smuggling). Each check raises a `Problem`, and does not depend on a connection.
"""

import re
from collections.abc import Sequence

import httptools

from ..problem import Problem
from .limits import ConnectionLimits

# RFC 9110, section 7.2, and RFC 3986, section 3.2: a name, an IPv4 or a bracketed address, and a port.
HOST = re.compile(
    rb"(?:[\w.~!$&'()*+,;=%-]+"
    rb"|\[(?:[0-9A-Fa-f.]*:[0-9A-Fa-f:.]*|[vV][0-9A-Fa-f]+\.[\w.~!$&'()*+,;=:-]+)\])(?::[0-9]*)?",
    re.ASCII,
)
AUTHORITY = re.compile(rb"https?://([^/?#]*)", re.IGNORECASE)
# A request line, as far as it is needed to distinguish an unknown method from garbage; at the start of the data,
# or behind another request.
REQUEST_LINE = re.compile(rb"(?:\A|\n)[\r\n]*([!#$%&'*+\-.^_`|~0-9A-Za-z]{1,64}) ([^\x00-\x20\x7f]+) HTTP/1\.[01]\r?\n")
# The methods that httptools reads (RFC 9110, section 9, RFC 5789, and the registry of WebDAV and others).
READ_METHODS = frozenset(
    b"ACL BIND CHECKOUT CONNECT COPY DELETE GET HEAD LINK LOCK M-SEARCH MERGE MKACTIVITY MKCALENDAR MKCOL MOVE NOTIFY "
    b"OPTIONS PATCH POST PROPFIND PROPPATCH PURGE PUT QUERY REBIND REPORT SEARCH SUBSCRIBE TRACE UNBIND UNLINK UNLOCK "
    b"UNSUBSCRIBE".split()
)
# httptools accepts a space behind this value, but no tab.
CODING_WITH_TAB = re.compile(rb"(\ntransfer-encoding:[^\r\n]*[^\s])[ \t]*\t[ \t]*(?=\r\n)", re.IGNORECASE)
VERSIONS = frozenset({"1.0", "1.1"})

Headers = Sequence[tuple[bytes, bytes]]


def check_host(host: bytes | None, version: str, *, has_authority: bool = False) -> None:
    """400 for a missing Host header, which HTTP/1.1 requires, or an invalid one.

    An empty one is valid only if the target has an authority of its own (RFC 9112, section 3.3). An http URI must
    have a host (RFC 9110, section 4.2.1).
    """
    if host is None:
        if version != "1.0":
            raise Problem(400, "The Host header is missing; HTTP/1.1 requires one.")
    elif not host:
        if version != "1.0" and not has_authority:
            raise Problem(400, "The Host header is empty; it must name a host.")
    elif not HOST.fullmatch(host):
        raise Problem(400, "Invalid Host header; allowed are a name or an address, with an optional port.")


def check_version(version: str) -> None:
    """505 for a version other than HTTP/1.0 and HTTP/1.1."""
    if version not in VERSIONS:
        raise Problem(505, "The service supports HTTP/1.1 and HTTP/1.0.")


def check_transfer_coding(codings: bytes, version: str) -> None:
    """400 or 501 for a Transfer-Encoding other than `chunked`; `codings` is its value, lists joined by commas."""
    if version == "1.0":
        # RFC 9112, section 6.1
        raise Problem(400, "HTTP/1.0 does not support Transfer-Encoding; send Content-Length, or use HTTP/1.1.")
    codings = codings.lower()
    if codings == b"chunked":
        return
    # Unless chunked is the last coding, the end of the body is unknown (RFC 9112, section 6.3).
    status = 501 if codings.rpartition(b",")[2].strip() == b"chunked" else 400
    raise Problem(status, "The only supported Transfer-Encoding is chunked.")


def check_size(target: bytes, headers: Headers, limits: ConnectionLimits) -> None:
    """414 for a target that is too long, 431 for a head that is too large."""
    if len(target) > limits.max_target_bytes:
        raise target_too_long(limits)
    fields_bytes = sum(len(name) + len(value) + len(": \r\n") for name, value in headers)
    if len(target) + fields_bytes > limits.max_head_bytes:
        raise head_too_large(limits)


def split_other_target(target: bytes, method: bytes) -> tuple[bytes, bytes, bytes | None]:
    """Return path, query and authority of a target in absolute or asterisk form, or with a fragment.

    Only the absolute form has an authority (RFC 9112, section 3.2). Raises a `Problem` of 400 for any other form, and
    httptools' `HttpParserError` for an invalid URL.
    """
    if target == b"*" and method == b"OPTIONS":
        return target, b"", None
    url = httptools.parse_url(target)
    if target.startswith(b"/"):
        return url.path or b"/", url.query or b"", None
    absolute = AUTHORITY.match(target)
    if absolute is None:
        raise Problem(400, "The request target must be a path or an http URL.")
    if not HOST.fullmatch(absolute[1]):
        raise Problem(
            400, "Invalid host in the request target; allowed are a name or an address, with an optional port."
        )
    return url.path or b"/", url.query or b"", absolute[1]


def unknown_method(data: bytes) -> tuple[bytes, bytes] | None:
    """The method and the target of a request in `data` that httptools cannot read because of its method.

    Such a request gets 501 (RFC 9110, section 9.1), and not 400, if the rest of its request line is valid.
    """
    for line in REQUEST_LINE.finditer(data):
        if line[1] not in READ_METHODS:
            return line[1], line[2]
    return None


def without_tabs(data: bytes) -> bytes:
    """`data`, whose first request may have tabs behind the value of Transfer-Encoding, without these.

    Only its header section is changed: a body that follows is not.
    """
    head, end, rest = data.partition(b"\r\n\r\n")
    return CODING_WITH_TAB.sub(rb"\1", head + end[:2]) + end[2:] + rest


def asks_for_websocket(method: bytes, headers: Headers) -> bool:
    """Whether the connection is to become a WebSocket (RFC 6455, section 4.2.1); 400 for CONNECT."""
    if method == b"CONNECT":
        raise Problem(400, "The service is not a proxy; CONNECT is not supported.")
    upgrade = b"".join(value for name, value in headers if name == b"upgrade")
    connection = b",".join(value for name, value in headers if name == b"connection")
    options = [option.strip() for option in connection.lower().split(b",")]
    return upgrade.lower() == b"websocket" and b"upgrade" in options


def without_upgrade(method: bytes, target: bytes, version: str, headers: Headers) -> bytes:
    """Return the head as it was sent, without its Upgrade header."""
    lines = [b"%b %b HTTP/%b" % (method, target, version.encode())]
    lines += [b"%b: %b" % header for header in headers if header[0] != b"upgrade"]
    return b"\r\n".join((*lines, b"", b""))


def target_too_long(limits: ConnectionLimits) -> Problem:
    """414 (RFC 9110, section 15.5.15)."""
    max_bytes = limits.max_target_bytes
    return Problem(414, f"The request target is longer than {max_bytes} bytes.", max_target_bytes=max_bytes)


def head_too_large(limits: ConnectionLimits) -> Problem:
    """431 (RFC 6585, section 5)."""
    max_bytes = limits.max_head_bytes
    return Problem(431, f"The request line and headers are larger than {max_bytes} bytes.", max_head_bytes=max_bytes)
