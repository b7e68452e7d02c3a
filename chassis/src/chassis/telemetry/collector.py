"""A kept connection to a collector, with the standard library's client.

Other clients take 100 ms to load, beside the first requests, and 6 MB of memory.
"""

import ssl
from base64 import b64encode
from collections.abc import Callable, Mapping
from contextlib import suppress
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from urllib.parse import SplitResult, quote, unquote, urlsplit, urlunsplit

from ..proxies import proxy_for

MAX_RESPONSE_BYTES = 65_536
URL_CHARACTERS = "!#$%&'()*+,/:;=?@[]~"  # RFC 3986, section 2; all others are percent-encoded
PORTS = {"http": 80, "https": 443}


class CollectorConnection:
    """Posts to one URL, through the proxy that the environment names for it. For one thread at a time.

    Raises `ValueError` for a proxy that cannot be used.
    """

    def __init__(self, url: str, *, timeout_seconds: float, make_context: Callable[[], ssl.SSLContext]) -> None:
        """`timeout_seconds` limits each wait for the collector. `make_context` is called for a URL with https only."""
        self._url = urlsplit(url)
        host = self._url.hostname or ""
        port = self._url.port or PORTS[self._url.scheme]
        self._target = quote(urlunsplit(("", "", self._url.path or "/", self._url.query, "")), safe=URL_CHARACTERS)
        self._headers = _authorization("authorization", self._url)
        self._is_used = False
        is_secure = self._url.scheme == "https"
        proxy = proxy_for(self._url.scheme, host, port)
        via = self._url if proxy is None else urlsplit(proxy)
        address = via.hostname or "", via.port or PORTS[via.scheme]
        if is_secure and via.scheme == "http" and proxy is not None:
            context = make_context()
            self._connection: HTTPConnection = HTTPSConnection(*address, timeout=timeout_seconds, context=context)
            self._connection.set_tunnel(host, port, _authorization("proxy-authorization", via))
        elif via.scheme == "https":
            if is_secure and proxy is not None:
                raise ValueError("a proxy with https is not supported for a collector with https; use one with http")
            self._connection = HTTPSConnection(*address, timeout=timeout_seconds, context=make_context())
        else:
            self._connection = HTTPConnection(*address, timeout=timeout_seconds)
        if proxy is not None and not is_secure:
            self._target = f"http://{self._url.netloc.rpartition('@')[2]}{self._target}"
            self._headers |= _authorization("proxy-authorization", via)

    def post(self, body: bytes, headers: Mapping[str, bytes]) -> tuple[int, str]:
        """The status of the response, and its Retry-After. Raises `OSError` and `HTTPException`."""
        if self._is_used:
            # The collector may have closed the connection, or may do so now.
            with suppress(OSError, HTTPException):
                return self._post(body, headers)
        return self._post(body, headers)

    def close(self) -> None:
        """Close the connection. The next `post` opens it again."""
        self._connection.close()
        self._is_used = False

    def _post(self, body: bytes, headers: Mapping[str, bytes]) -> tuple[int, str]:
        try:
            self._connection.request("POST", self._target, body, {**self._headers, **headers})
            response = self._connection.getresponse()
            response.read(MAX_RESPONSE_BYTES)
        except BaseException:
            self.close()
            raise
        self._is_used = response.isclosed()
        if not self._is_used:  # there is more
            self.close()
        return response.status, response.headers.get("retry-after", "")


def _authorization(header: str, url: SplitResult) -> dict[str, str]:
    """The credentials of a URL, if it has any (RFC 7617)."""
    if url.username is None:
        return {}
    credentials = f"{unquote(url.username)}:{unquote(url.password or '')}"
    return {header: f"Basic {b64encode(credentials.encode()).decode()}"}
