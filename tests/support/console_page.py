"""The console in a browser."""

import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from playwright.async_api import Browser, Locator, Page, Route, expect

expect.set_options(timeout=15_000)  # milliseconds: other tests may run beside


@asynccontextmanager
async def console(browser: Browser, port: int | None, **options: Any) -> AsyncIterator[Page]:
    """The page; fails in the end if its scripts or its policy have complained."""
    complaints: list[str] = []
    page = await browser.new_page(**options)
    page.set_default_timeout(10_000)
    # Chromium itself notes every failed request.
    page.on(
        "console",
        lambda one: complaints.append(one.text) if one.type == "error" and "Failed to load" not in one.text else None,
    )
    page.on("pageerror", lambda error: complaints.append(str(error)))
    await page.goto(f"http://127.0.0.1:{port}/")
    yield page
    await page.close()
    assert complaints == []


async def ready(page: Page) -> None:
    await expect(page.get_by_role("status").first).to_have_text("Ready")


def rows(page: Page, table: str) -> Locator:
    """The rows of a table, and its head."""
    return page.get_by_role("region", name=table).get_by_role("row")


async def show(page: Page, view: str) -> None:
    await page.get_by_role("navigation").get_by_role("link", name=view, exact=True).click()


async def answer(page: Page, path: str, make: Callable[[Route], dict[str, Any]]) -> None:
    """Respond to the page's requests for a path in place of the service."""

    async def fulfill(route: Route) -> None:
        await route.fulfill(**make(route))

    async def offer(route: Route) -> None:
        response = await route.fetch()
        text = (await response.text()).replace("[&quot;", f"[&quot;/{path}&quot;,&quot;", 1)
        await route.fulfill(response=response, body=text)

    await page.route(f"**/{path}*", fulfill)
    await page.route(re.compile(r":\d+/$"), offer)
