"""Response headers that tell browsers to be careful with what an API answers."""

from collections.abc import Awaitable, Mapping

from starlette.types import ASGIApp, Receive, Scope, Send

from ..response_sender import ResponseSender

# OWASP REST Security Cheat Sheet, "Security Headers". Strict-Transport-Security is for whoever ends TLS.
DEFAULT_HEADERS = {
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}


class SecurityHeadersMiddleware:
    """Adds `headers` to every response that doesn't have its own; an empty value leaves one out."""

    def __init__(self, app: ASGIApp, *, headers: Mapping[str, str] | None = None) -> None:
        self.app = app
        merged = DEFAULT_HEADERS | {name.lower(): value for name, value in (headers or {}).items()}
        self._headers = {name.encode(): (name.encode(), value.encode()) for name, value in merged.items() if value}

    # A plain function that returns the inner awaitable, which saves a coroutine.
    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        if scope["type"] == "http":
            send = ResponseSender.of(send)
            send.default_headers = {**send.default_headers, **self._headers} if send.default_headers else self._headers
        return self.app(scope, receive, send)
