"""Takes the pictures of the console in the README: `console.png` and `console-phone.png`.

uv run python docs/console.py
"""

import asyncio
import math
import random
import shutil
import time
from pathlib import Path

import httpx
from opentelemetry import trace
from playwright.async_api import Browser, async_playwright

from chassis import App, ChassisSettings, Handler, Problem, Server

HERE = Path(__file__).parent
SECONDS = 180
tracer = trace.get_tracer("order_service")


class Orders(Handler):
    """Takes some milliseconds, as with a database."""

    async def get(self) -> list[str]:
        with tracer.start_as_current_span("SELECT orders"):
            await asyncio.sleep(random.lognormvariate(-5.5, 0.6))
        return []

    async def post(self, body: dict[str, str]) -> dict[str, str]:
        with tracer.start_as_current_span("reserve stock"):
            await asyncio.sleep(random.lognormvariate(-4.6, 0.5))
        with tracer.start_as_current_span("INSERT orders"):
            await asyncio.sleep(random.lognormvariate(-5.5, 0.5))
        if random.random() < 0.02:  # noqa: S311 - load for a picture
            raise Problem(503, "The stock is not available.")
        return body


class Order(Handler):
    """Is not always there."""

    async def get(self, order_id: int) -> str:
        with tracer.start_as_current_span("SELECT orders"):
            await asyncio.sleep(random.lognormvariate(-6, 0.5))
        if order_id % 20 == 0:
            raise Problem(404, f"There is no order {order_id}.")
        return "order"


async def main() -> None:
    """Serve with some load for `SECONDS`, and take the pictures."""
    settings = ChassisSettings.from_values(port=0, log_level="ERROR", drain_seconds=0, development=True)
    app = App(settings, name="order-service", version="1.4.0")
    app.add_route("/orders", Orders())
    app.add_route("/orders/{order_id}", Order())
    app.add_check("order store", lambda: True)
    app.telemetry.install()
    async with Server(app) as server, async_playwright() as playwright:
        path = shutil.which("chromium")
        browser = await playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        load = [asyncio.create_task(client(server.port, number)) for number in range(3)]
        address = f"http://127.0.0.1:{server.admin_port}/"
        await asyncio.gather(
            picture(browser, address, "console.png", width=1280, height=860),
            picture(browser, address, "console-phone.png", width=390, height=844),
        )
        for task in load:
            task.cancel()
        await browser.close()


async def client(port: int, number: int) -> None:
    """Send requests at a rate that goes up and down."""
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as session:
        while True:
            await session.get("/orders")
            await session.get(f"/orders/{random.randrange(100)}")  # noqa: S311 - load for a picture
            if random.random() < 0.4:  # noqa: S311 - load for a picture
                await session.post("/orders", json={"customer": "Ada"})
            rate = 8 + 4 * math.sin(time.time() / 20) + number
            await asyncio.sleep(random.expovariate(rate))


async def picture(browser: Browser, address: str, name: str, *, width: int, height: int) -> None:
    """Take one picture after `SECONDS`. On the phone, it is one of the traces."""
    page = await browser.new_page(viewport={"width": width, "height": height}, color_scheme="light")
    await page.goto(address)
    await page.wait_for_timeout(SECONDS * 1000)
    if width < 400:
        await page.get_by_role("navigation").get_by_role("link", name="Traces").click()
        await page.locator("main > div:visible tbody tr", has_text="POST /orders").first.click()
        await page.locator(".detail:visible .span").nth(1).click()
        await page.mouse.move(width / 2, 5)
        await page.wait_for_timeout(500)
    await page.screenshot(path=HERE / name)
    await page.close()


if __name__ == "__main__":
    asyncio.run(main())
