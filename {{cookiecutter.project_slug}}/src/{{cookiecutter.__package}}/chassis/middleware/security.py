"""Response headers that tell browsers to be careful with what an API answers."""

from collections.abc import Awaitable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

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

    def __init__(self, app: ASGIApp, *, headers: dict[str, str] | None = None) -> None:
        self.app = app
        merged = DEFAULT_HEADERS | {name.lower(): value for name, value in (headers or {}).items()}
        self._headers = [(name.encode(), value.encode()) for name, value in merged.items() if value]
        self._names = frozenset(name for name, _ in self._headers)

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        if scope["type"] != "http":
            return self.app(scope, receive, send)

        def send_with_headers(message: Message) -> Awaitable[None]:
            if message["type"] == "http.response.start":
                headers = message.get("headers", ())
                present = [name for name, _ in headers]
                if self._names.isdisjoint(present):
                    message["headers"] = [*headers, *self._headers]
                else:
                    message["headers"] = [*headers, *(one for one in self._headers if one[0] not in present)]
            return send(message)

        return self.app(scope, receive, send_with_headers)
