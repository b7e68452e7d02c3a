"""`/docs` gets a token from an OpenID provider, with the authorization code flow and PKCE; in a real browser."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from playwright.async_api import Browser, Page, expect

from chassis import App, ChassisSettings, Handler, requires
from chassis.auth import AuthSettings, Principal, add_auth
from chassis.auth.development import provider
from docs_page import docs_page, opened


class Settings(ChassisSettings, AuthSettings):
    """The settings of the service."""


class Orders(Handler):
    """Shows who asks."""

    @requires(scopes=["orders:read"])
    async def get(self, principal: Principal) -> str:
        """List orders."""
        return f"{principal.subject} {sorted(principal.scopes)}"

    @requires(scopes=["orders:write"])
    async def post(self) -> str:
        """Make one."""
        return "made"


@pytest.fixture
async def page(browser: Browser) -> AsyncIterator[Page]:
    """The page of a service whose tokens are those of the provider for development."""
    async with provider("orders") as issuer:
        settings = Settings.from_values(
            log_level="CRITICAL", auth_issuer=issuer.url, auth_audience=["orders"], auth_docs_client_id="docs"
        )
        app = App(settings, name="orders", version="1")
        add_auth(app, settings)
        app.add_route("/orders", Orders())
        async with docs_page(browser, app) as page:
            while (await page.request.get(page.url.replace("/docs", "/readyz"))).status != 200:
                await asyncio.sleep(0.01)  # the endpoints of the provider are not known yet
            await page.reload()
            yield page


async def logged_in(page: Page, *, scopes: str) -> None:
    """Log in as ada, with the page of the provider."""
    box = await opened(page, "authorize")
    await expect(box.get_by_label("Scopes")).to_have_value("orders:read orders:write")
    await box.get_by_label("Scopes").fill(scopes)
    await box.get_by_role("button", name="Log in").click()
    await expect(page.get_by_role("heading", level=1)).to_have_text("Development login")
    await expect(page.get_by_label("Scopes")).to_have_value(scopes)
    await page.get_by_role("button", name="Log in").click()


async def test_token_of_a_login_is_sent(page: Page) -> None:
    address = page.url
    await logged_in(page, scopes="orders:read")
    await expect(page.locator("#authorize > summary")).to_contain_text("using openIdConnect")
    card = await opened(page, "get_orders")
    await card.get_by_role("button", name="Send").click()
    await expect(card.get_by_role("region", name="Response body")).to_contain_text("ada ['orders:read']")

    assert page.url == address  # without the code
    assert await page.evaluate("[localStorage.length, sessionStorage.length, document.cookie]") == [0, 0, ""]
    await page.reload()
    await expect(page.locator("#authorize > summary")).not_to_contain_text("using")


async def test_response_to_another_login_is_rejected(page: Page) -> None:
    await page.evaluate("sessionStorage.setItem('chassis-login', JSON.stringify({ verifier: 'v', state: 's' }))")
    await page.goto(f"{page.url}?code=stolen&state=other")
    await expect(page.locator("#authorize")).to_contain_text("the response belongs to another login; log in again")
    await expect(page.locator("#authorize > summary")).not_to_contain_text("using")


async def test_response_of_another_issuer_is_rejected(page: Page) -> None:
    await page.evaluate("sessionStorage.setItem('chassis-login', JSON.stringify({ verifier: 'v', state: 's' }))")
    await page.goto(f"{page.url}?code=c&state=s&iss=https%3A%2F%2Fevil.example")
    await expect(page.locator("#authorize")).to_contain_text("the response is from another issuer")


async def test_error_of_the_provider_is_shown(page: Page) -> None:
    await page.evaluate("sessionStorage.setItem('chassis-login', JSON.stringify({ verifier: 'v', state: 's' }))")
    await page.goto(f"{page.url}?error=access_denied&error_description=%3Cimg%3E&state=s")
    await expect(page.locator("#authorize")).to_contain_text("login failed access_denied: <img>")


async def test_page_reaches_no_origin_but_the_token_endpoint(page: Page) -> None:
    response = await page.request.get(page.url)
    policy = response.headers["content-security-policy"]
    (connect,) = [part.strip() for part in policy.split(";") if part.strip().startswith("connect-src")]
    words = connect.split()
    assert words[:2] == ["connect-src", "'self'"]
    assert len(words) == 3
    assert words[2].startswith("http://127.0.0.1:")
