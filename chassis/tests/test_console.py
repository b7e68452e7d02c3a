"""The console's page and its port. `tests/service/test_console.py` of the template uses it in a browser."""

import base64
import hashlib
import re
import socket
from pathlib import Path
from typing import Any

import httpx
import pytest

import chassis
from chassis import App, ChassisSettings, Server
from chassis.operations.console import SCRIPTS
from chassis.server import CONSOLE_OFFSET

FOLDER = Path(chassis.__file__).parent / "operations/console_page"


def app(**values: Any) -> App:
    settings = ChassisSettings.from_values(host="127.0.0.1", port=0, log_level="CRITICAL", drain_seconds=0, **values)
    return App(settings, name="orders", version="1")


async def get(port: int | None, path: str = "/") -> httpx.Response:
    async with httpx.AsyncClient(trust_env=False) as client:
        return await client.get(f"http://127.0.0.1:{port}{path}")


async def test_policy_of_the_page_allows_its_script_and_style_alone() -> None:
    async with Server(app(admin_port=0)) as server:
        page = await get(server.admin_port)

    directives = dict(part.strip().split(" ", 1) for part in page.headers["content-security-policy"].split(";"))
    for element, directive in (("script", "script-src"), ("style", "style-src")):
        (content,) = re.findall(f"<{element}>(.*?)</{element}>", page.text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert directives[directive] == f"'sha256-{digest}'"
    assert (directives["default-src"], directives["connect-src"]) == ("'none'", "'self'")
    assert (directives["frame-ancestors"], directives["form-action"]) == ("'none'", "'none'")
    assert directives["require-trusted-types-for"] == "'script'"
    assert page.headers["cache-control"] == "no-store"


async def test_page_is_not_on_the_public_port() -> None:
    async with Server(app()) as alone, Server(app(admin_port=0)) as beside:
        assert (await get(alone.port)).status_code == 404
        assert (await get(beside.port)).status_code == 404


async def test_service_in_development_has_its_console_beside_the_public_port() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1] % 30_000 + 10_000
    async with Server(app(development=True), host="127.0.0.1", port=port) as server:
        assert server.admin_port == port + CONSOLE_OFFSET
        assert (await get(server.admin_port)).status_code == 200
        assert (await get(port, "/readyz")).status_code == 200


async def test_console_takes_another_port_when_its_own_is_in_use() -> None:
    with socket.socket() as other, socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1] % 30_000 + 10_000
        other.bind(("127.0.0.1", port + CONSOLE_OFFSET))
        other.listen()
        async with Server(app(development=True), host="127.0.0.1", port=port) as server:
            assert server.admin_port != port + CONSOLE_OFFSET
            assert (await get(server.admin_port)).status_code == 200


async def test_admin_port_that_is_set_stays_in_development() -> None:
    async with Server(app(development=True, admin_port=0)) as server:
        assert (await get(server.admin_port)).status_code == 200
        assert (await get(server.port, "/readyz")).status_code == 404


# Ways to make HTML or code of a text. The browser forbids them too, where it knows Trusted Types.
@pytest.mark.parametrize(
    "sink", ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "Function(", "srcdoc"]
)
def test_scripts_make_no_html_of_text(sink: str) -> None:
    assert [name for name in SCRIPTS if sink in (FOLDER / name).read_text()] == []


def test_page_has_no_inline_handlers_or_styles() -> None:
    page = (FOLDER / "console.html").read_text()
    assert re.findall(r"\s(?:on\w+|style)=", page) == []


def test_all_scripts_are_in_the_page() -> None:
    assert {path.name for path in FOLDER.glob("*.js")} == set(SCRIPTS)
