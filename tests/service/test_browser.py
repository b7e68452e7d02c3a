"""Pages in a real browser: of another origin, which CORS admits, and of applications that are mounted."""

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated, Any

import pytest
from playwright.async_api import Browser, Page
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import HTMLResponse
from starlette.routing import Mount

from chassis import App, ChassisSettings, Event, EventStream, Handler, Header, Server

PAGE = """<!doctype html><title>Admin</title><style>body { color: rgb(1, 2, 3) }</style>
<body><script>document.body.append("script ran")</script>"""
ASK = """async ([url, options]) => {
  try {
    const response = await fetch(url, options);
    return [response.status, (await response.text()).slice(0, 500), response.headers.get("retry-after")];
  } catch (error) { return [0, String(error), null]; }
}"""
FOLLOW = """url => new Promise((resolve) => {
  const seen = [];
  const source = new EventSource(url);
  source.addEventListener("count", (event) => {
    seen.push([event.data, event.lastEventId]);
    if (seen.length === 4) { source.close(); resolve(seen); }
  });
})"""
JSON = {"content-type": "application/json"}


class Orders(Handler):
    """Fails in every way."""

    async def get(self, limit: int = 1) -> str:
        if limit == 0:
            raise RuntimeError("internal detail")
        return "orders"

    async def post(self, body: dict[str, int]) -> dict[str, int]:
        return body

    async def put(self) -> None:
        await asyncio.Event().wait()


class Counts(Handler):
    """Two events for each connection, in lines and with text of other alphabets."""

    async def get(self, last_event_id: Annotated[int, Header()] = 0) -> EventStream:
        return EventStream(self._events(last_event_id), retry=10)

    async def _events(self, last: int) -> AsyncIterator[Event]:
        for number in (last + 1, last + 2):
            yield Event(f"\u03b1\n{number}", id=str(number), event="count", comment="for people")


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    """A service that the origin http://localhost may ask, and others not."""
    settings = ChassisSettings.from_values(
        port=0, log_level="CRITICAL", deadline_seconds=0.3, max_body_bytes=1000, max_requests=1
    )
    app = App(settings, name="orders", version="1")
    app.add_route("/orders", Orders())
    app.add_route("/counts", Counts())
    app.add_routes(Mount("/admin", HTMLResponse(PAGE)))
    app.add_middleware(
        CORSMiddleware,
        allow_origin_regex=r"http://localhost:\d+",
        allow_methods=["*"],
        allow_headers=["*"],
        expose_headers=["retry-after", "x-request-id"],
    )
    async with Server(app, host="127.0.0.1", port=0) as running:
        yield running


@pytest.fixture
async def page(browser: Browser) -> AsyncIterator[Page]:
    page = await browser.new_page()
    yield page
    await page.close()


async def ask(page: Page, server: Server, path: str, **options: Any) -> list[Any]:
    """The result for a script of the page: status, content and a header; status 0 if the browser hides the response."""
    result: list[Any] = await page.evaluate(ASK, [f"http://127.0.0.1:{server.port}{path}", options])
    return result


async def test_page_of_another_origin_reads_every_error(page: Page, server: Server) -> None:
    # The service itself under another name is another origin.
    await page.goto(f"http://localhost:{server.port}/admin/")

    assert await ask(page, server, "/orders") == [200, '"orders"', None]
    for status, path, options in (
        (404, "/nowhere", {}),
        (405, "/orders", {"method": "DELETE"}),
        (413, "/orders", {"method": "POST", "headers": JSON, "body": "1" * 2000}),
        (415, "/orders", {"method": "POST", "body": "{}"}),
        (422, "/orders?limit=x", {}),
        (422, "/orders", {"method": "POST", "headers": JSON, "body": '{"a": "x"}'}),
        (500, "/orders?limit=0", {}),
        (504, "/orders", {"method": "PUT"}),
    ):
        found, content, _ = await ask(page, server, path, **options)
        assert (found, f'"status":{status}' in content) == (status, True), content
    waiting = asyncio.create_task(ask(page, server, "/orders", method="PUT"))
    shed: list[Any] = []
    while not waiting.done():
        shed += [result for result in [await ask(page, server, "/orders")] if result[0] == 503]
    assert shed
    assert shed[0][2] == "1"


async def test_page_of_an_origin_that_is_not_admitted_reads_nothing(page: Page, server: Server) -> None:
    await page.set_content("<p>of no origin")
    assert (await ask(page, server, "/orders"))[0] == 0


async def test_mounted_page_runs_its_script_and_has_its_style(page: Page, server: Server) -> None:
    await page.goto(f"http://127.0.0.1:{server.port}/admin/")
    assert await page.inner_text("body") == "script ran"
    assert await page.evaluate("getComputedStyle(document.body).color") == "rgb(1, 2, 3)"


async def test_browser_follows_events_and_goes_on_where_its_connection_ended(page: Page, server: Server) -> None:
    await page.goto(f"http://127.0.0.1:{server.port}/admin/")
    seen = await page.evaluate(FOLLOW, "/counts")
    assert seen == [[f"\u03b1\n{number}", str(number)] for number in (1, 2, 3, 4)]
