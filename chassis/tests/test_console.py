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
from chassis.server_ports import CONSOLE_OFFSET

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


def test_colours_have_enough_contrast() -> None:
    """WCAG 2.2, 1.4.3: 4.5 to 1 for text, on each background of the page, in both schemes."""
    for scheme in re.findall(r":root \{(.*?)\}", (FOLDER / "console.css").read_text(), re.DOTALL):
        colours = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{3,6});", scheme))
        for text in ("text", "muted", "link", "good", "warn", "bad"):
            for background in ("page", "panel", "select"):
                assert contrast(colours[text], colours[background]) >= 4.5, (text, background)


def contrast(first: str, second: str) -> float:
    light, dark = sorted((luminance(first), luminance(second)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def luminance(colour: str) -> float:
    digits = colour[1:] if len(colour) == 7 else "".join(digit * 2 for digit in colour[1:])
    channels = [int(digits[place : place + 2], 16) / 255 for place in (0, 2, 4)]
    linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
