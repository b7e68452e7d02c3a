"""The client behind trusted proxies: `X-Forwarded-For`, `X-Forwarded-Proto` and `X-Forwarded-Prefix`."""

import re
from collections.abc import Awaitable, Collection, Iterable
from ipaddress import IPv4Address, IPv6Address, ip_address

from starlette.types import ASGIApp, Receive, Scope, Send

from ..cache import BoundedCache
from .addresses import parse_address, parse_network

ANY = "*"
SCHEMES = frozenset({"http", "https"})
PREFIX = re.compile(rb"(?:/[A-Za-z0-9._~-]+)+")


class ForwardedMiddleware:
    """Puts the client's address, the scheme and the prefix of the path into the scope, if the peer is a trusted proxy.

    `proxies` are addresses and networks, or `*` for any peer. A peer on a Unix socket has no address; it is always
    trusted, since the permissions of the socket say who may connect.

    Each proxy appends to `X-Forwarded-For` the address that connects to it. So the client is the last address that is
    not a trusted proxy. Addresses before it may be forged. With `*` it is the first one.

    The prefix is the part of the path that a proxy has removed. It becomes ASGI's `root_path`, which links and
    `/openapi.json` begin with.
    """

    def __init__(self, app: ASGIApp, proxies: Collection[str]) -> None:
        self._app = app
        self._trusts_any = ANY in proxies
        self._networks = [parse_network(proxy) for proxy in proxies if proxy != ANY]
        self._trusted: BoundedCache[str, bool] = BoundedCache()

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        client = scope.get("client")
        if client is None or self._trusts_any or self._is_trusted_peer(client[0]):
            self._apply(scope)
        return self._app(scope, receive, send)

    def _is_trusted_peer(self, host: str) -> bool:
        trusted = self._trusted.get(host)
        if trusted is None:
            trusted = self._trusted.add(host, self._is_trusted(ip_address(host)))
        return trusted

    def _is_trusted(self, address: IPv4Address | IPv6Address) -> bool:
        return any(address in network for network in self._networks)

    def _apply(self, scope: Scope) -> None:
        scheme, forwarded = b"", list[bytes]()
        for name, value in scope["headers"]:
            if name == b"x-forwarded-for":
                forwarded.append(value)
            elif name == b"x-forwarded-proto":
                scheme = value
            elif name == b"x-forwarded-prefix" and PREFIX.fullmatch(prefix := value.rstrip(b"/")):
                scope["root_path"] = prefix.decode()
        name = scheme.decode("latin-1").strip().lower()
        if name in SCHEMES:
            scope["scheme"] = name.replace("http", "ws") if scope["type"] == "websocket" else name
        if forwarded:
            address = self._client(b",".join(forwarded).decode("latin-1").split(","))
            if address is not None:
                scope["client"] = (str(address), 0)

    def _client(self, hops: Iterable[str]) -> IPv4Address | IPv6Address | None:
        if self._trusts_any:
            return next((address for hop in hops if (address := parse_address(hop)) is not None), None)
        client = None
        for hop in reversed(list(hops)):
            address = parse_address(hop)
            if address is None:  # "unknown": addresses before it cannot be trusted
                break
            client = address
            if not self._is_trusted(address):
                break
        return client
