"""`/docs` shows, and sends, everything that an OpenAPI document can say; in a real browser."""

import json
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Browser, Page, expect

from api_document import HTML, ROUTES
from chassis import App, ChassisSettings
from docs_page import docs_page, opened, sent


@pytest.fixture
async def page(browser: Browser) -> AsyncIterator[Page]:
    """The page of a service whose document has everything."""
    app = App(ChassisSettings.from_values(log_level="CRITICAL"), name="parcels", version="2")
    app.add_routes(*ROUTES)
    async with docs_page(browser, app) as page:
        await expect(page.get_by_role("heading", level=1)).to_have_text("Parcels")
        yield page


async def test_parameters_are_sent_from_where_they_belong(page: Page) -> None:
    card = await opened(page, "list_parcels")
    await card.get_by_label("state in query").select_option("sent")
    await card.get_by_label("tag in query").fill("red, blue\ngreen")
    await card.get_by_label("kind in query").select_option(["a", "b"])
    await card.get_by_label("ids in query").fill("1\n2")
    await card.get_by_label("page[size] in query").fill("5")
    await card.get_by_label("X-Tenant in header").fill("acme")
    await card.get_by_label("session in cookie").fill("abc")

    seen = await sent(card)

    assert seen["query"] == "state=sent&tag=red%2C+blue&tag=green&kind=a&kind=b&ids=1%2C2&page%5Bsize%5D=5"
    assert (seen["tenant"], seen["cookies"]) == ("acme", {"session": "abc"})
    assert await page.evaluate("document.cookie") == ""  # it was set for the request alone
    command = await card.get_by_role("region", name="curl command").inner_text()
    assert "--header 'X-Tenant: acme'" in command
    assert "--cookie 'session=abc'" in command
    await expect(card.get_by_role("region", name="Response headers")).to_contain_text("x-seen: yes")


async def test_operation_shows_headers_examples_and_what_is_deprecated(page: Page) -> None:
    card = await opened(page, "list_parcels")
    await expect(card.locator("s", has_text="old").first).to_be_visible()
    await card.locator("summary", has_text="Parcels.").click()
    await expect(card).to_contain_text("The next page.")
    await expect(card.get_by_role("region", name="Example: A small one")).to_have_text('{\n  "weight": 1\n}')
    await expect(card.get_by_role("region", name="Example: example")).to_have_text("weight\n1")
    for status in ("200", "304", "404"):
        await expect(card.get_by_text(status, exact=True)).to_be_visible()
    await page.locator("#schema-Parcel summary").click()
    await expect(page.locator("#schema-Parcel s")).to_have_text("colour")
    await expect(page.locator("#scan summary s")).to_have_text("/scan")
    await expect(page.locator("#scan summary .deprecated")).to_have_text("deprecated")


async def test_body_is_of_the_media_type_and_example_that_are_chosen(page: Page) -> None:
    card = await opened(page, "send_parcel")
    await card.get_by_role("combobox", name="Example").select_option("heavy")
    seen = await sent(card)
    assert (seen["type"], json.loads(seen["body"])) == ("application/json", {"weight": 90})

    await card.get_by_label("Media type of the body").select_option("text/plain")
    seen = await sent(card)
    assert (seen["type"], seen["body"]) == ("text/plain", "1 kg")

    await card.get_by_label("Media type of the body").select_option("application/x-www-form-urlencoded")
    await expect(card.get_by_label("weight, required")).to_have_value("3")
    seen = await sent(card)
    assert (seen["type"].partition(";")[0], seen["body"]) == ("application/x-www-form-urlencoded", "weight=3")
    await expect(card.get_by_role("region", name="curl command")).to_contain_text("--data-urlencode 'weight=3'")


async def test_body_that_is_not_chosen_need_not_be_complete(page: Page) -> None:
    card = await opened(page, "send_parcel")
    await card.get_by_label("Media type of the body").select_option("application/x-www-form-urlencoded")
    await card.get_by_label("weight, required").fill("")
    await card.get_by_label("Media type of the body").select_option("text/plain")

    assert (await sent(card))["body"] == "1 kg"


async def test_files_are_uploaded_in_a_form(page: Page, tmp_path: Path) -> None:
    for name in ("one", "two", "three"):
        (tmp_path / name).write_text(f"photo {name}")
    card = await opened(page, "add_photos")
    await card.get_by_label("title").fill("Mine")
    await card.get_by_label("cover, required").set_input_files(tmp_path / "one")
    await card.get_by_label("more").set_input_files([tmp_path / "two", tmp_path / "three"])

    seen = await sent(card)

    assert seen["type"].startswith("multipart/form-data; boundary=")
    assert seen["path"] == "/parcels/1/photos"
    for text in ('name="title"\r\n\r\nMine', 'name="cover"; filename="one"', "photo two", "photo three"):
        assert text in seen["body"]
    command = await card.get_by_role("region", name="curl command").inner_text()
    assert "--form 'cover=@one'" in command
    assert "--form 'more=@three'" in command


async def test_raw_body_is_a_file(page: Page, tmp_path: Path) -> None:
    (tmp_path / "scan.bin").write_bytes(b"\x00\xff")
    card = await opened(page, "scan")
    await card.get_by_label("Body a file").set_input_files(tmp_path / "scan.bin")

    seen = await sent(card)

    assert (seen["type"], seen["body"]) == ("application/octet-stream", "\x00\xff")
    await expect(card.get_by_role("region", name="curl command")).to_contain_text("--data-binary '@scan.bin'")


async def test_credentials_are_sent_with_the_operations_that_ask_for_them(page: Page, tmp_path: Path) -> None:
    box = await opened(page, "authorize")
    for group, label, value in (
        ("bearer", "Token", "t0k"),
        ("basic", "User name", "ada"),
        ("basic", "Password", "p"),
        ("key", "Key", "k1"),
        ("crumb", "Key", "c1"),
        ("login", "Token", "oauth"),
    ):
        await box.get_by_role("group", name=group).first.get_by_label(label, exact=True).fill(value)
    await expect(box.locator("summary")).to_contain_text("using bearer, basic, key, crumb, login")
    await expect(box).to_contain_text("https://login.example/authorize")

    assert (await sent(await opened(page, "list_parcels")))["authorization"] == "Bearer t0k"
    assert (await sent(await opened(page, "send_parcel")))["authorization"] == "Basic YWRhOnA="
    (tmp_path / "one").write_text("1")
    card = await opened(page, "add_photos")
    await card.get_by_label("cover, required").set_input_files(tmp_path / "one")
    assert (await sent(card))["query"] == "api_key=k1"
    card = await opened(page, "scan")
    await card.get_by_label("Body a file").set_input_files(tmp_path / "one")
    assert (await sent(card))["authorization"] == "Bearer oauth"
    card = await opened(page, "download")
    await expect(card.get_by_role("region", name="curl command")).to_contain_text("--cookie 'crumb=c1'")


async def test_binary_response_is_a_download(page: Page, tmp_path: Path) -> None:
    card = await opened(page, "download")
    await card.get_by_role("button", name="Send").click()
    async with page.expect_download() as started:
        await card.get_by_role("link", name="Download label.pdf").click()
    download = await started.value
    assert download.suggested_filename == "label.pdf"
    await download.save_as(tmp_path / "saved")
    assert (tmp_path / "saved").read_bytes() == bytes(range(256))


async def test_event_stream_is_shown_as_it_comes_until_it_is_stopped(page: Page) -> None:
    card = await opened(page, "follow")
    await card.get_by_role("button", name="Send").click()
    await expect(card.get_by_role("region", name="Response body")).to_contain_text('data: "first"')
    await card.get_by_role("button", name="Stop").click()
    await expect(card.get_by_role("status")).to_contain_text("stopped after")
    await expect(card.get_by_role("button", name="Stop")).to_be_hidden()
    await expect(card.get_by_role("region", name="Response body")).to_contain_text('data: "first"')


async def test_other_server_is_chosen(page: Page) -> None:
    await page.get_by_label("Server").select_option(index=1)
    assert (await sent(await opened(page, "list_parcels")))["path"] == "/v2/parcels"


async def test_operations_are_found_with_the_keyboard(page: Page) -> None:
    await page.keyboard.press("/")
    await page.keyboard.type("parcel photo")
    await expect(page.locator("nav").get_by_role("status")).to_have_text("1 of 6 operations")
    await expect(page.locator("#add_photos")).to_be_visible()
    await expect(page.locator("#list_parcels")).to_be_hidden()
    await page.keyboard.press("Tab")
    await page.keyboard.press("Enter")  # the only link of the list
    await expect(page.locator("#add_photos")).to_have_attribute("open", "")
    await expect(page.locator("#add_photos > summary")).to_be_focused()


async def test_every_control_has_a_name_for_screen_readers(page: Page) -> None:
    await page.evaluate("for (const card of document.querySelectorAll('details')) card.open = true")
    unnamed = """[...document.querySelectorAll("input, select, textarea")]
      .filter((one) => !one.labels?.length && !one.getAttribute("aria-label")).map((one) => one.outerHTML)"""
    assert await page.evaluate(unnamed) == []


async def test_markup_in_the_document_is_text(page: Page) -> None:
    await page.evaluate("for (const card of document.querySelectorAll('details')) card.open = true")
    await expect(page.get_by_role("main")).to_contain_text(HTML)
    assert await page.locator("img").count() == 0
    assert await page.locator("a[href^='javascript']").count() == 0
    assert await page.title() == "Parcels"


@pytest.mark.parametrize("width", [360, 800, 1300])
@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_page_fits_its_window(page: Page, width: int, scheme: Any, tmp_path: Path) -> None:
    await page.emulate_media(color_scheme=scheme)
    await page.set_viewport_size({"width": width, "height": 900})
    await opened(page, "list_parcels")
    await opened(page, "authorize")
    assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    folder = Path(os.environ.get("DOCS_PICTURES", tmp_path))
    await page.screenshot(path=folder / f"docs-{scheme}-{width}.png", full_page=True)
