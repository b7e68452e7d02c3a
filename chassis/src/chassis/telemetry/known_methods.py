"""The request methods that metrics and spans name; all others become `_OTHER` (semantic conventions for HTTP)."""

from .environment import Environment

# RFC 9110, section 9, RFC 5789 and RFC 10008.
KNOWN_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH", "QUERY"})
OTHER_METHOD = "_OTHER"
OTHER_METHOD_IN_NAMES = "HTTP"


def known_methods(environment: Environment) -> frozenset[str]:
    """`OTEL_INSTRUMENTATION_HTTP_KNOWN_METHODS`, a case-sensitive list in place of the default."""
    given = environment.text("OTEL_INSTRUMENTATION_HTTP_KNOWN_METHODS").split(",")
    return frozenset(method for part in given if (method := part.strip())) or KNOWN_METHODS


def method_in_names(method: str) -> str:
    """The method as the name of a span has it."""
    return OTHER_METHOD_IN_NAMES if method == OTHER_METHOD else method
