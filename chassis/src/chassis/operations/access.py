"""The access rule of the operators' endpoints: clients with the token, or without a token those on the same machine.

A pod is a machine of its own here, so that `kubectl port-forward` works: its connections come from the loopback address
of the pod.
"""

import hmac
from ipaddress import ip_address

import structlog
from starlette.types import Scope
from structlog.typing import FilteringBoundLogger

from ..problem import Problem

log: FilteringBoundLogger = structlog.get_logger()

# The exact addresses, and not 127.0.0.0/8: sidecars of a service mesh pass on requests from outside as 127.0.0.6.
LOOPBACK = frozenset({"127.0.0.1", "::1"})
LOCAL_NAMES = LOOPBACK | {"localhost"}
# A request with one of these comes from a proxy. So the address of its client is that of somebody else.
PROXY_FIELDS = frozenset({b"forwarded", b"via", b"x-real-ip", b"x-client-ip", b"true-client-ip", b"cf-connecting-ip"})
PROXY_PREFIXES = (b"x-forwarded-", b"x-envoy-", b"x-original-")
OWN_PAGES = frozenset({b"same-origin", b"none"})
"""The values of `Sec-Fetch-Site` for pages of this port, and for an address that the user has typed in."""
CHALLENGE = {"www-authenticate": 'Bearer realm="operators"'}
# Without "Authorization:", because the log would redact what follows it.
HOW_TO_SEND = "This endpoint is for operators. Send the value of APP_ADMIN_TOKEN as a bearer token (RFC 6750)."
FROM_INSIDE = "Use kubectl port-forward and 127.0.0.1, or set APP_ADMIN_TOKEN and send it as a bearer token."


MAX_PATH = 300
"""Characters of a path in log lines."""
WAS_ALLOWED = "chassis.was_allowed"
"""A key of the scope of a request to which another process has applied this rule before."""


class OperatorAccess:
    """The access rule of the admin port. Health, readiness, metrics and info are not behind it.

    With a token, a request needs `Authorization: Bearer <token>`, wherever it comes from. Without a token, it must come
    from a loopback address, and directly. Its `Host` must name the loopback as well: this stops DNS rebinding, where a
    page of `evil.example` reads from a name that has become 127.0.0.1. A browser must not send it for a page of
    another origin: this stops cross-site request forgery. Headers of proxies never make a client local.
    """

    def __init__(self, token: str | None = None) -> None:
        self._token: bytes | None = None
        self.set_token(token)

    def set_token(self, token: str | None) -> None:
        """Expect this token from now on."""
        self._token = token.encode() if token else None

    def check(self, scope: Scope) -> None:
        """Raise a `Problem` of 401 or 403 that says what to do, if the client may not use the operators' endpoints."""
        if WAS_ALLOWED in scope:
            return
        problem = self._check_token(scope, self._token) if self._token is not None else self._check_local(scope)
        if problem is not None:
            facts = {"method": scope["method"], "path": scope["path"][:MAX_PATH], "status": problem.status_code}
            log.warning("operator rejected", by=client_of(scope), **facts, reason=problem.detail)
            raise problem

    def _check_token(self, scope: Scope, expected: bytes) -> Problem | None:
        fields = _values(scope, b"authorization")
        if not fields:
            return Problem(401, HOW_TO_SEND, headers=CHALLENGE)
        scheme, _, token = fields[0].strip().partition(b" ")
        is_right = hmac.compare_digest(token.strip(), expected)
        if len(fields) == 1 and scheme.lower() == b"bearer" and is_right:
            return None
        return Problem(401, f"The token is wrong. {HOW_TO_SEND}", headers=CHALLENGE)

    def _check_local(self, scope: Scope) -> Problem | None:
        client, server = scope.get("client"), scope.get("server")
        if client is None or server is None or not (_is_local(client[0]) and _is_local(server[0])):
            return Problem(
                403, f"Without APP_ADMIN_TOKEN, operators must connect from inside of the pod. {FROM_INSIDE}"
            )
        if any(name in PROXY_FIELDS or name.startswith(PROXY_PREFIXES) for name, _ in scope["headers"]):
            return Problem(403, f"Without APP_ADMIN_TOKEN, operators cannot connect through a proxy. {FROM_INSIDE}")
        hosts = _values(scope, b"host")
        if len(hosts) != 1 or not _is_local(_without_port(hosts[0])):
            return Problem(403, "Without APP_ADMIN_TOKEN, the host in the address must be 127.0.0.1 or localhost.")
        origins, sites = _values(scope, b"origin"), _values(scope, b"sec-fetch-site")
        if any(origin.lower() != b"http://" + hosts[0].lower() for origin in origins) or not OWN_PAGES.issuperset(
            sites
        ):
            return Problem(403, "Pages of other origins cannot use this port. Open its address in a new tab.")
        return None


def client_of(scope: Scope) -> str:
    """The address of the client, for log lines."""
    client = scope.get("client")
    return str(client[0]) if client else "unix socket"


def _values(scope: Scope, name: bytes) -> list[bytes]:
    return [value for field, value in scope["headers"] if field == name]


def _without_port(host: bytes) -> str:
    text = host.decode("latin-1").lower()
    name, _, port = text.rpartition(":")
    return (name if name and port.isdigit() else text).removeprefix("[").removesuffix("]")


def _is_local(host: str) -> bool:
    """Whether a host is the loopback: by its exact addresses, also IPv4 mapped to IPv6, or by its name."""
    if host in LOCAL_NAMES:
        return True
    try:
        address = ip_address(host)
    except ValueError:
        return False
    mapped = address.ipv4_mapped if address.version == 6 else None
    return str(mapped or address) in LOOPBACK
