"""`RateLimit`: how many requests a caller may send, and the interface of a store that several instances share."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv6Address, ip_network
from math import ceil
from typing import NamedTuple, Protocol

from starlette.types import Scope

from ..cache import BoundedCache
from .access import METHODS, OTHERS, identity_of
from .errors import SignatureError

SECOND = 1_000_000_000  # nanoseconds
MAX_NAME = 200
DEFAULT = "default"
UNKNOWN = "unknown"
NETWORK_BITS = 64  # a customer of a network gets at least a /64, and chooses the addresses in it


@dataclass(frozen=True, slots=True)
class RateLimit:
    """At most `requests` in `seconds` on average for each caller, and at most `burst` of them at once.

    This is a token bucket: it holds up to `burst` tokens, each request takes one, and they come back steadily. So a
    caller sends at most `burst + requests / seconds * t` requests in any `t` seconds. By default, `burst` is
    `requests`.

    Clients see `name` in the response, and metrics have it as a label. By default it is the path of the route. Limits
    with the same name share their count. Raises `SignatureError` if a value is not possible.
    """

    requests: int
    seconds: float
    burst: int | None = None
    name: str = ""
    interval_ns: int = field(init=False, repr=False, compare=False)
    """The time in which one token comes back. It is rounded up, so that a caller never gets more."""
    capacity_ns: int = field(init=False, repr=False, compare=False)
    """The time in which an empty bucket becomes full."""
    item: str = field(init=False, repr=False, compare=False)
    """The name as a string of a structured field (RFC 9651, section 3.3.3)."""
    policy: str = field(init=False, repr=False, compare=False)
    """A member of `RateLimit-Policy`: the capacity of the bucket, and the seconds in which it becomes full."""

    def __post_init__(self) -> None:
        burst = self.requests if self.burst is None else self.burst
        for member, value in (("requests", self.requests), ("burst", burst)):
            if not isinstance(value, int) or value < 1:
                raise SignatureError(f"the rate limit has {member}={value!r}; pass a whole number of at least 1")
        if not self.seconds > 0:
            raise SignatureError(f"the rate limit has seconds={self.seconds!r}; pass a number greater than 0")
        if len(self.name) > MAX_NAME or not self.name.isascii() or (self.name and not self.name.isprintable()):
            raise SignatureError(
                f"the rate limit has name={self.name!r}; pass at most {MAX_NAME} printable ASCII characters"
            )
        object.__setattr__(self, "interval_ns", ceil(self.seconds * SECOND / self.requests))
        object.__setattr__(self, "capacity_ns", self.interval_ns * burst)
        escaped = self.name.replace("\\", "\\\\").replace('"', '\\"')
        object.__setattr__(self, "item", f'"{escaped}"')
        object.__setattr__(self, "policy", f"{self.item};q={burst};w={ceil(burst * self.seconds / self.requests)}")

    @property
    def capacity(self) -> int:
        """The number of requests that a caller may send at once."""
        return self.requests if self.burst is None else self.burst

    def after(self, ahead_ns: int, *, is_allowed: bool) -> "Quota":
        """The quota of a caller whose bucket becomes full in `ahead_ns`."""
        remaining = (self.capacity_ns - ahead_ns) // self.interval_ns if is_allowed else 0
        waits_ns = ahead_ns if remaining else ahead_ns + self.interval_ns - self.capacity_ns
        return Quota(is_allowed, remaining, waits_ns / SECOND)


RateLimits = RateLimit | Mapping[str, RateLimit]
"""The limit of a route, or one for each HTTP method, such as `{"POST": RateLimit(10, 60)}`.

`*` stands for all other methods. HEAD has the limit of GET.
"""


class Quota(NamedTuple):
    """The rest of a rate limit for a caller."""

    is_allowed: bool
    """Whether the request may be served."""
    remaining: int
    """The number of requests that the caller may send now."""
    seconds: float
    """The time until the next request is allowed if `remaining` is 0, else until the quota is full again."""


class RateLimitStore(Protocol):
    """Counts the requests of callers for several instances of a service."""

    async def take(self, limit: RateLimit, caller: str) -> Quota:
        """Take a token from the bucket of `caller`, unless it is empty. `caller` has at most 200 ASCII characters.

        `limit.after` makes the quota. An exception means that the store is not available.
        """
        ...


class Networks:
    """The callers of requests without a principal, by their addresses."""

    def __init__(self) -> None:
        self._networks: BoundedCache[str, str] = BoundedCache()

    def caller_of(self, scope: Scope) -> str:
        """The principal, or the address of the client. An IPv6 address stands for its network of 64 bits.

        All clients without a known address, such as those of a Unix socket, are one caller.
        """
        identity = identity_of(scope)
        if identity is not None:
            return identity
        client = scope.get("client")
        host: str = client[0] if client else ""
        if ":" not in host:
            return host or UNKNOWN
        return self._networks.get(host) or self._networks.add(host, network_of(host))


def network_of(host: str) -> str:
    """The network of an IPv6 address; the address itself if it is an IPv4 address in the notation of IPv6."""
    try:
        address = IPv6Address(host.partition("%")[0])
    except ValueError:
        return UNKNOWN
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ip_network((address, NETWORK_BITS), strict=False))


def limits_by_method(given: RateLimits | None, place: str) -> Mapping[str, RateLimit]:
    """The rate limits of a route by HTTP method. `place` names it, and is the name of a limit without one."""
    if given is None:
        return {}
    if isinstance(given, RateLimit):
        return {OTHERS: named(given, place)}
    if not isinstance(given, Mapping):
        raise SignatureError(
            f"{place}: rate_limit is {given!r}; pass a RateLimit, or a mapping of methods to RateLimits"
        )
    for method, limit in given.items():
        if (method not in METHODS and method != OTHERS) or not isinstance(limit, RateLimit):
            raise SignatureError(
                f"{place}: rate_limit has {method!r}: {limit!r}; use one of {', '.join(METHODS)}, "
                f"or '{OTHERS}' for all others, and a RateLimit"
            )
    return {method: named(limit, place if method == OTHERS else f"{method} {place}") for method, limit in given.items()}


def named(limit: RateLimit, name: str) -> RateLimit:
    """The limit, with `name` if it has none."""
    if limit.name:
        return limit
    visible = "".join(character if character.isascii() and character.isprintable() else "?" for character in name)
    return RateLimit(limit.requests, limit.seconds, limit.burst, visible[:MAX_NAME])
