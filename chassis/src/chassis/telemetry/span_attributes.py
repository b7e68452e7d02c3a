"""The span of a request that has ended: its name, its status, and the attributes of the semantic conventions."""

from typing import Any, NamedTuple

from opentelemetry.trace import StatusCode

from ..cache import BoundedCache
from .observation import Observation
from .route_template import UNMATCHED
from .spans import RequestSpan, SharedAttributes


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


def end_span(observation: Observation, route: str, status: int) -> str | None:
    """End the span of a sampled request; its trace id, if it was recorded."""
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
        info.error,
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
    span.set_attribute("url.path", observation.path)
    span.update_name(key.method if route == UNMATCHED else f"{key.method} {route}")
    if status >= 500 or info.error is not None:
        span.set_status(StatusCode.ERROR)
    span.end_after(observation.seconds)
    return observation.context.trace_id


def attributes_of(key: AttributesKey) -> dict[str, Any]:
    """Semantic conventions for HTTP server spans: the required attributes, and the recommended ones at hand."""
    attributes: dict[str, Any] = {
        "http.request.method": key.method,
        "url.scheme": key.scheme,
        "http.response.status_code": key.status,
        "network.protocol.version": key.http_version,
    }
    if key.method != key.original_method:
        attributes["http.request.method_original"] = key.original_method
    if key.route != UNMATCHED:
        attributes["http.route"] = key.route
    if key.client:
        attributes["client.address"] = key.client
    if key.user_agent:
        attributes["user_agent.original"] = key.user_agent.decode("latin-1")
    if key.host:
        host = key.host.decode("latin-1")
        address, colon, port = host.rpartition(":")
        if colon and port.isdigit():
            attributes["server.address"] = address
            attributes["server.port"] = int(port)
        else:
            attributes["server.address"] = host
    if key.status >= 500 or key.error is not None:
        attributes["error.type"] = key.error.__qualname__ if key.error is not None else str(key.status)
    return attributes
