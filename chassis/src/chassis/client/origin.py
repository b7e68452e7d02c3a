"""`Origin`: where the base URL of another service points, and the proxy on the way to it."""

from typing import NamedTuple, Self
from urllib.parse import urlsplit

from ..proxies import proxy_for

DEFAULT_PORTS = {"http": 80, "https": 443}


class Origin(NamedTuple):
    """The origin of a base URL. Its `authority` is what `Host` says, whatever replica the request goes to."""

    scheme: str
    host: str
    port: int
    authority: str

    @classmethod
    def of(cls, base_url: str) -> Self:
        """The origin of `base_url`. A name that is not ASCII is encoded for DNS."""
        url = urlsplit(base_url)
        host = url.hostname or ""
        if not host.isascii():
            host = host.encode("idna").decode()
        default = DEFAULT_PORTS[url.scheme]
        port = url.port or default
        authority = _bracketed(host) if port == default else f"{_bracketed(host)}:{port}"
        return cls(url.scheme, host, port, authority)

    def at(self, host: str, port: int) -> str:
        """The URL of a replica, without a path."""
        return f"{self.scheme}://{_bracketed(host)}:{port}"

    def proxy(self) -> str | None:
        """The URL of the proxy that `HTTP_PROXY`, `HTTPS_PROXY` and `NO_PROXY` name for this origin.

        Raises `ValueError` for a proxy that is not spoken to by HTTP.
        """
        return proxy_for(self.scheme, self.host, self.port)


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
