"""`/docs` in a real browser that reaches nothing but the service."""

import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, Request, expect, sync_playwright

from running import Service, needs

# No name is found, and no address but our own: what the page needs, it has.
CUT_OFF = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"


@pytest.fixture
def complaints() -> list[str]:
    """Complaints of the page's console and scripts, and its requests to other servers."""
    return []


@pytest.fixture(scope="module")
def cut_off() -> Iterator[Browser]:
    """A browser for all tests of the module."""
    needs("chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=[CUT_OFF, "--no-sandbox", "--disable-dev-shm-usage"]
        )
        yield browser
        browser.close()


@pytest.fixture
def page(cut_off: Browser, service: Service, complaints: list[str]) -> Iterator[Page]:
    page = cut_off.new_page(viewport={"width": 1200, "height": 900})
    ours = f"http://127.0.0.1:{service.port}/"

    def note_console(message: ConsoleMessage) -> None:
        if message.type == "error":
            complaints.append(message.text)

    def note_request(request: Request) -> None:
        if not request.url.startswith(ours):
            complaints.append(request.url)

    page.on("console", note_console)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", note_request)
    page.goto(f"{ours}docs")
    yield page
    page.close()


def operation(page: Page, method: str, path: str) -> None:
    page.locator("summary", has=page.get_by_text(method, exact=True)).filter(
        has=page.get_by_text(path, exact=True)
    ).click()


def test_operation_is_tried_and_responds(page: Page, complaints: list[str], tmp_path: Path) -> None:
    expect(page.get_by_role("heading", level=1)).to_have_text("order-service")
    operation(page, "POST", "/orders")
    form = page.locator("form:visible")
    expect(form.locator("pre").first).to_contain_text("curl --request POST")

    form.get_by_role("button", name="Send").click()

    expect(form.get_by_role("status")).to_contain_text("201")
    order = json.loads(form.get_by_role("region", name="Response body").inner_text())
    assert (order["customer"], order["lines"]) == ("Ada", [{"sku": "tea", "quantity": 2}])
    expect(page.locator("details[open]")).to_contain_text("The request has invalid values; errors lists them")
    # DOCS_PICTURE=docs/docs-page.png makes the README's picture anew.
    page.screenshot(
        path=os.environ.get("DOCS_PICTURE", tmp_path / "docs.png"), full_page="DOCS_PICTURE" not in os.environ
    )
    assert complaints == []


def test_wrong_value_gets_a_problem(page: Page, complaints: list[str]) -> None:
    operation(page, "GET", "/orders/{order_id}")
    form = page.locator("form:visible")
    form.locator("input").fill("not an id")

    form.get_by_role("button", name="Send").click()

    expect(form.get_by_role("status")).to_contain_text("422")
    assert json.loads(form.get_by_role("region", name="Response body").inner_text())["status"] == 422
    # Chromium itself notes every response of 4xx in the console.
    assert [one for one in complaints if not re.match("Failed to load resource: .* 422", one)] == []


def test_browser_is_cut_off(page: Page) -> None:
    with pytest.raises(Exception, match="ERR_NAME_NOT_RESOLVED"):
        page.goto("http://example.com/")
