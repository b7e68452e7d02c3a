"""Chromium, and the page `/docs` of an app in it."""

import json
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from playwright.async_api import Browser, Locator, Page, async_playwright, expect

from chassis import App, Server
from running import needs


@asynccontextmanager
async def chromium() -> AsyncIterator[Browser]:
    """A browser, in which each page has its own cookies."""
    needs("chromium")
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        yield browser
        await browser.close()


@asynccontextmanager
async def docs_page(browser: Browser, app: App) -> AsyncIterator[Page]:
    """The page; fails in the end if its console or its scripts have complained."""
    complaints: list[str] = []
    async with Server(app, host="127.0.0.1", port=0) as server:
        page = await browser.new_page(viewport={"width": 1300, "height": 900})
        page.set_default_timeout(5000)
        page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        await page.goto(f"http://127.0.0.1:{server.port}/docs")
        await expect(page.get_by_role("heading", level=1)).not_to_be_empty()
        yield page
        await page.close()
    assert complaints == []


async def opened(page: Page, operation_id: str) -> Locator:
    """The card of an operation, open."""
    card = page.locator(f"#{operation_id}")
    await card.locator("summary").first.click()
    return card


async def sent(card: Locator) -> Any:
    """Send the form; what the service responds."""
    await card.get_by_role("button", name="Send").click()
    await expect(card.get_by_role("status")).to_contain_text("200 OK")
    return json.loads(await card.get_by_role("region", name="Response body").inner_text())
