"""`GET /`: the console, one page that asks the other endpoints of the admin port."""

import base64
import hashlib
import html
from collections.abc import Callable, Sequence
from importlib.resources import files

import orjson
from starlette.responses import HTMLResponse, Response

from ..api.handler import Handler

NO_PATHS = '<meta name="paths" content="[]">'  # in console.html
SCRIPTS = (
    "dom.js",
    "metrics.js",
    "chart.js",
    "server.js",
    "overview.js",
    "schedules.js",
    "views.js",
    "dependencies.js",
    "controls.js",
    "profiles.js",
    "main.js",
)
"""In the order in which they run: each uses what the ones before it define."""


class Console(Handler):
    """A page without data of its own. It loads nothing from other hosts, and shows all data as text.

    The policy allows only the inline script and style, by their hashes. Trusted Types forbid every function of the
    browser that would read a text as HTML. The page is put together for the first request, because most processes
    never get one.
    """

    def __init__(self, paths: Callable[[], Sequence[str]]) -> None:
        """`paths` returns those of the admin port: the page shows only what there is."""
        self._paths = paths
        self._made: tuple[str, dict[str, str]] | None = None

    async def get(self) -> Response:
        if self._made is None:
            self._made = make_page(self._paths())
        page, headers = self._made
        return HTMLResponse(page, headers=headers)


def make_page(paths: Sequence[str]) -> tuple[str, dict[str, str]]:
    """The page, and its header fields."""
    folder = files(__name__.rpartition(".")[0]).joinpath("console_page")
    script = "\n".join(folder.joinpath(name).read_text(encoding="utf-8") for name in SCRIPTS)
    style = folder.joinpath("console.css").read_text(encoding="utf-8")
    page = folder.joinpath("console.html").read_text(encoding="utf-8")
    page = page.replace(NO_PATHS, NO_PATHS.replace("[]", html.escape(orjson.dumps(paths).decode())))
    page = page.replace("<style></style>", f"<style>{style}</style>")
    page = page.replace("<script></script>", f"<script>{script}</script>")
    policy = (
        f"default-src 'none'; script-src {source_of(script)}; style-src {source_of(style)}; connect-src 'self'; "
        "img-src data:; form-action 'none'; base-uri 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'; trusted-types 'none'"
    )
    return page, {"cache-control": "no-store", "content-security-policy": policy, "referrer-policy": "no-referrer"}


def source_of(content: str) -> str:
    """The expression of a Content Security Policy that allows an inline element with this content."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"
