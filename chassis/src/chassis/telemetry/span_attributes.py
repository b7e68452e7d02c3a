"""The span of a request that has ended: its name, its status, and the attributes of the semantic conventions."""

import re
from typing import Any, NamedTuple

from opentelemetry.trace import Status, StatusCode

from ..cache import BoundedCache
from .error_type import error_type
from .known_methods import method_in_names
from .observation import Observation
from .query_redaction import QueryRedactor
from .route_template import UNMATCHED
from .spans import RequestSpan, SharedAttributes

FAILED = Status(StatusCode.ERROR)
PORT = re.compile("[0-9]{1,5}")
MAX_PORT = 65535


class AttributesKey(NamedTuple):
    """The facts of a request on which its span's shared attributes depend."""

    method: str
    original_method: str
    route: str
    status: int
    error: type[BaseException] | None
    scheme: str
    http_version: str
    client: str | None
    host: bytes
    user_agent: bytes


shared_attributes: BoundedCache[AttributesKey, SharedAttributes] = BoundedCache()


def end_span(
    observation: Observation,
    route: str,
    status: int,
    error: type[BaseException] | None,
    redact_query: QueryRedactor,
) -> str | None:
    """End the span of a sampled request (`status` is 0 without a response); its trace id, if it was recorded."""
    span = observation.context.span
    if not isinstance(span, RequestSpan):
        return None
    scope, info = observation.scope, observation.info
    client = scope.get("client")
    key = AttributesKey(
        observation.method,
        scope.get("method", "GET"),
        route,
        status,
        error,
        scope.get("scheme", "http"),
        scope.get("http_version", "1.1"),
        client[0] if client else None,
        info.host,
        info.user_agent,
    )
    shared = shared_attributes.get(key)
    if shared is None:
        size_bytes = len(info.host) + len(info.user_agent)
        shared = shared_attributes.add(key, SharedAttributes(attributes_of(key)), size_bytes=size_bytes)
    span.shared_attributes = shared
    span.own_attributes["url.path"] = observation.path
    query = scope.get("query_string")
    if query:
        span.own_attributes["url.query"] = redact_query(query)
    if info.subject is not None:
        span.own_attributes.setdefault("user.id", info.subject)
    method = method_in_names(key.method)
    span.name = method if route == UNMATCHED else f"{method} {route}"
    if "error.type" in shared:
        span.status = FAILED
    span.end_after(observation.seconds)
    observation.context.info = None  # a span that waits for its export keeps only the ids of its request
    return observation.context.trace_id


def attributes_of(key: AttributesKey) -> dict[str, Any]:
    """Semantic conventions for HTTP server spans: the required attributes, and the recommended ones at hand."""
    attributes: dict[str, Any] = {
        "http.request.method": key.method,
        "url.scheme": key.scheme,
        "network.protocol.version": key.http_version,
    }
    if key.status:
        attributes["http.response.status_code"] = key.status
    if key.method != key.original_method:
        attributes["http.request.method_original"] = key.original_method
    if key.route != UNMATCHED:
        attributes["http.route"] = key.route
    if key.client:
        attributes["client.address"] = key.client
    if key.user_agent:
        attributes["user_agent.original"] = key.user_agent.decode("latin-1")
    if key.host:
        address, port = server_of(key.host.decode("latin-1"))
        if address:
            attributes["server.address"] = address
            if port is not None:
                attributes["server.port"] = port
    failure = error_type(key.status, key.error)
    if failure is not None:
        attributes["error.type"] = failure
    return attributes


def server_of(host: str) -> tuple[str, int | None]:
    """The address and the port of a Host field, as far as it has them (RFC 3986, section 3.2).

    The brackets around an IPv6 address are not part of the address, and case means nothing. Our server rejects an
    invalid field; behind another server any text may come here.
    """
    _, _, host = host.rpartition("@")  # credentials, which must not be recorded
    host = host.strip().lower()
    if host.startswith("["):
        address, _, rest = host[1:].partition("]")
        port = rest.removeprefix(":")
    elif host.count(":") > 1:  # IPv6 without its brackets
        return host, None
    else:
        address, _, port = host.partition(":")
    valid = PORT.fullmatch(port) is not None and int(port) <= MAX_PORT
    return address, int(port) if valid else None
