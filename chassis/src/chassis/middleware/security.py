"""Response headers that tell browsers to be careful with the responses of an API."""

from collections.abc import Mapping

from ..response_sender import DefaultHeaders

# OWASP REST Security Cheat Sheet, "Security Headers". Whoever terminates TLS sends Strict-Transport-Security.
DEFAULT_SECURITY_HEADERS: dict[str, str] = {
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}


def security_headers(headers: Mapping[str, str] | None = None) -> DefaultHeaders:
    """`DEFAULT_SECURITY_HEADERS`, changed by `headers`: further ones are added, and an empty value leaves one out."""
    changed = {name.lower(): value for name, value in (headers or {}).items()}
    return DefaultHeaders(DEFAULT_SECURITY_HEADERS | changed)
