"""The OpenAPI 3.1 document, generated from the signatures that also bind the requests, and its documentation page."""

import base64
import hashlib
import html
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from importlib.resources import files
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import BaseRoute

from .access import Login, no_login
from .handler import Handler
from .operation_document import described_operation
from .routing import Route, operations_of
from .schemas import Schemas

OPENAPI_VERSION = "3.1.0"
NO_LOGIN = '<meta name="login" content="null">'  # in docs.html

PROBLEM_SCHEMA: dict[str, Any] = {
    "type": "object",
    "description": "A problem document (RFC 9457).",
    "properties": {
        "type": {"type": "string", "format": "uri-reference", "default": "about:blank"},
        "title": {"type": "string"},
        "status": {"type": "integer", "minimum": 100, "maximum": 599},
        "detail": {"type": "string"},
        "trace_id": {"type": "string", "description": "The trace of the request."},
        "errors": {
            "type": "array",
            "description": "For 422: each invalid value, with the reason.",
            "items": {
                "type": "object",
                "properties": {
                    "in": {"enum": ["path", "query", "header", "cookie", "form", "body"]},
                    "name": {"type": "string", "description": "The parameter."},
                    "pointer": {
                        "type": "string",
                        "description": "The JSON Pointer to the value in the body (RFC 6901).",
                    },
                    "detail": {"type": "string"},
                },
                "required": ["in", "detail"],
            },
        },
    },
    "required": ["type", "title", "status"],
}


def openapi_document(
    routes: Sequence[BaseRoute],
    *,
    title: str,
    version: str,
    description: str = "",
    schemes: Mapping[str, Mapping[str, Any]] | None = None,
) -> dict[str, Any]:
    """The OpenAPI 3.1 document of the handlers in `routes`. `schemes` are the security schemes of protected ones."""
    operations = operations_of(routes)
    schemas = Schemas([described.operation for described in operations])
    paths: dict[str, dict[str, Any]] = {}
    seen: Counter[str] = Counter()
    for place in operations:
        described = described_operation(place, schemas, schemes or {})
        # `/order-lines` and `/order/lines` get the same name, so the second one gets a number.
        name = str(described["operationId"])
        seen[name] += 1
        if seen[name] > 1:
            described["operationId"] = f"{name}_{seen[name]}"
        paths.setdefault(place.path, {})[place.method.lower()] = described
    info = {"title": title, "version": version, **({"description": description} if description else {})}
    components: dict[str, Any] = {"schemas": {**schemas.components, "Problem": PROBLEM_SCHEMA}}
    if schemes:
        components["securitySchemes"] = {name: dict(scheme) for name, scheme in schemes.items()}
    return {"openapi": OPENAPI_VERSION, "info": info, "paths": paths, "components": components}


def documented_routes(
    routes: Sequence[BaseRoute], document: dict[str, Any], login: Callable[[], Login | None] = no_login
) -> list[Route]:
    """`/openapi.json` and `/docs`, unless the owner has a route on the same path. `login` is for `/docs`."""
    own = {getattr(route, "path", None) for route in routes}
    return [
        Route(path, handler, in_openapi=False)
        for path, handler in (("/openapi.json", OpenApi(document)), ("/docs", Docs(login)))
        if path not in own
    ]


class OpenApi(Handler):
    """`GET /openapi.json`. The document is encoded once, unless the app has a root path, such as a proxy's prefix."""

    def __init__(self, document: dict[str, Any]) -> None:
        self._document = document
        self._content = orjson.dumps(document)

    async def get(self, request: Request) -> Response:
        content = self._content
        root_path = request.scope.get("root_path", "").rstrip("/")
        if root_path:
            # Without it, clients would resolve paths against the root of the host (OpenAPI 3.1, "servers").
            content = orjson.dumps({**self._document, "servers": [{"url": root_path}]})
        return Response(content, media_type="application/json")


class Docs(Handler):
    """`GET /docs`: a page that shows `openapi.json` and sends requests. It loads nothing from other hosts.

    With a `login`, it also gets tokens from the provider: its policy allows requests to the token endpoint. The page is
    put together for the first request.
    """

    def __init__(self, login: Callable[[], Login | None] = no_login) -> None:
        self._login = login

    @cached_property
    def _parts(self) -> tuple[str, str, str]:
        """The page, and the hashes of its script and its style."""
        folder = files(__name__.rpartition(".")[0])
        page, css, js = (folder.joinpath(f"docs.{end}").read_text(encoding="utf-8") for end in ("html", "css", "js"))
        # Script and style are inline, so that the policy can allow only their hashes.
        page = page.replace("<style></style>", f"<style>\n{css}</style>")
        page = page.replace("<script></script>", f"<script>\n{js}</script>")
        return page, _inline_hash(page, "script"), _inline_hash(page, "style")

    async def get(self) -> Response:
        login = self._login()
        page, script, style = self._parts
        connect = "'self'"
        if login is not None:
            page = page.replace(NO_LOGIN, NO_LOGIN.replace("null", html.escape(orjson.dumps(login._asdict()).decode())))
            connect = f"'self' {login.token_origin}"
        policy = (
            f"default-src 'none'; script-src {script}; style-src {style}; connect-src {connect}; img-src data:; "
            "form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
        )
        headers = {"cache-control": "no-store", "content-security-policy": policy, "referrer-policy": "no-referrer"}
        return HTMLResponse(page, headers=headers)


def extended(document: dict[str, Any], members: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """`document` with additional members. Objects are merged, and any other value is replaced."""
    for additions in members:
        document = _merged(document, additions)
    return document


def _merged(document: Mapping[str, Any], additions: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(document)
    for key, value in additions.items():
        value_before = merged.get(key)
        both = isinstance(value_before, Mapping) and isinstance(value, Mapping)
        merged[key] = _merged(value_before, value) if both else value  # type: ignore[arg-type]
    return merged


def _inline_hash(page: str, element: str) -> str:
    """The hash of the page's only `<element>`, as a CSP source (Content Security Policy Level 3, section 2.3.1)."""
    content = page.partition(f"<{element}>")[2].partition(f"</{element}>")[0]
    digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
    return f"'sha256-{digest}'"
