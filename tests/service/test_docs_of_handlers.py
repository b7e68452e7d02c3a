"""`/docs` shows, and sends, what the signatures of handlers ask for; in a real browser."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, Any

import pytest
from playwright.async_api import Browser, Page, expect
from pydantic import BaseModel, Field

from chassis import App, ChassisSettings, Cookie, Form, Handler, Header, Query, Reply, UploadFile, documented, responds
from docs_page import docs_page, opened, sent


class Wanted(BaseModel):
    """What to list."""

    page_size: int = Field(20, alias="page[size]", description="Items of a page.")
    tags: list[str] = []


class Job(BaseModel):
    """Work that goes on."""

    place: str


class Asked(Handler):
    """Parameters from everywhere."""

    async def get(
        self,
        number: int,
        wanted: Annotated[Wanted, Query()],
        x_tenant: Annotated[str, Header()],
        session: Annotated[str, Cookie()],
    ) -> dict[str, Any]:
        """Read what was asked."""
        return {"number": number, "wanted": wanted.model_dump(), "tenant": x_tenant, "session": session}

    @responds(others={202: Job}, headers={"location": "Where it is."})
    @documented(deprecated=True, tags=["old"])
    async def post(self, number: int, body: bytes) -> Reply[dict[str, int]]:
        """Count bytes."""
        return Reply({"bytes": len(body)}, headers={"location": "/asked/1"})


class Photos(Handler):
    """A form with files."""

    async def post(self, title: Annotated[str, Form()], photos: list[UploadFile]) -> dict[str, Any]:
        """Upload photos."""
        return {"title": title, "photos": [[photo.filename, len(await photo.read())] for photo in photos]}


@pytest.fixture
async def page(browser: Browser) -> AsyncIterator[Page]:
    """The page of a service whose handlers ask for everything."""
    app = App(ChassisSettings.from_values(log_level="CRITICAL"), name="photos", version="1")
    app.add_route("/asked/{number}", Asked())
    app.add_route("/photos", Photos())
    async with docs_page(browser, app) as page:
        yield page


async def test_parameters_reach_the_handler(page: Page) -> None:
    card = await opened(page, "get_asked_number")
    await card.get_by_label("number in path").fill("7")
    await card.get_by_label("page[size] in query").fill("5")
    await card.get_by_label("tags in query").fill("red\nblue")
    await card.get_by_label("x-tenant in header").fill("acme")
    await card.get_by_label("session in cookie").fill("abc")

    wanted = {"page_size": 5, "tags": ["red", "blue"]}
    assert await sent(card) == {"number": 7, "wanted": wanted, "tenant": "acme", "session": "abc"}


async def test_raw_body_is_sent_and_the_operation_is_marked(page: Page) -> None:
    card = await opened(page, "post_asked_number")
    await expect(card).to_contain_text("deprecated")
    await expect(card).to_contain_text("Where it is.")
    await expect(card).to_contain_text("202")


async def test_files_of_a_form_reach_the_handler(page: Page, tmp_path: Path) -> None:
    files = [tmp_path / "cat.png", tmp_path / "dog.png"]
    for file in files:
        file.write_bytes(b"x" * 100_000)
    card = await opened(page, "post_photos")
    await card.get_by_label("title").fill("Pets")
    await card.locator("input[type=file]").set_input_files(files)

    assert await sent(card) == {"title": "Pets", "photos": [["cat.png", 100_000], ["dog.png", 100_000]]}
