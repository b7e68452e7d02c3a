"""Security headers for the responses of an API, with fewer of them for pages and files."""

from collections.abc import Mapping

from ..response_sender import DefaultHeaders

# OWASP REST Security Cheat Sheet, "Security Headers". The proxy that terminates TLS sends Strict-Transport-Security.
DEFAULT_SECURITY_HEADERS: dict[str, str] = {
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}
# Pages and files get only these. The others would make a page blank, or keep a file out of every cache.
FOR_FILES = frozenset({"x-content-type-options", "x-frame-options"})


def security_headers(headers: Mapping[str, str] | None = None) -> DefaultHeaders:
    """`DEFAULT_SECURITY_HEADERS`, changed by `headers`: further ones are added, and an empty value removes one.

    Content of an API (JSON, plain text, CSV, event streams, or none) gets all of them; pages and files get `FOR_FILES`
    and what is in `headers`. A response with an `ETag` or `Last-Modified` gets no `Cache-Control`.
    """
    changed = {name.lower(): value for name, value in (headers or {}).items()}
    for_files = {name: value for name, value in DEFAULT_SECURITY_HEADERS.items() if name in FOR_FILES}
    return DefaultHeaders(DEFAULT_SECURITY_HEADERS | changed, DefaultHeaders(for_files | changed))
