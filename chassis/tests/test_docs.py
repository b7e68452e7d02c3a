"""The documentation page: shown by a browser that may load nothing from anywhere else."""

import base64
import hashlib
import re
from collections.abc import AsyncIterator

import httpx
import pytest

from .support.service import serve


@pytest.fixture(scope="module")
async def page() -> AsyncIterator[httpx.Response]:
    async with serve() as service:
        yield await service.client.get("/docs")


async def test_page_is_html(page: httpx.Response) -> None:
    assert page.status_code == 200
    assert page.headers["content-type"] == "text/html; charset=utf-8"


@pytest.mark.parametrize("element", ["script", "style"])
async def test_policy_allows_inline_elements_by_their_hash(page: httpx.Response, element: str) -> None:
    policy = dict(one.strip().split(" ", 1) for one in page.headers["content-security-policy"].split(";"))
    for content in re.findall(rf"<{element}\b[^>]*>(.*?)</{element}>", page.text, re.DOTALL):
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert policy[f"{element}-src"] == f"'sha256-{digest}'"


async def test_policy_allows_nothing_else(page: httpx.Response) -> None:
    policy = page.headers["content-security-policy"]
    assert policy.startswith("default-src 'none';")
    assert "unsafe" not in policy
    assert "http" not in policy


async def test_page_loads_nothing_from_another_address(page: httpx.Response) -> None:
    assert not re.search(r"""(src|href|action)\s*=\s*["']?\s*(https?:)?//""", page.text)
    assert not re.search(r"""(url\(|@import|import\(|fetch\()\s*["']?\s*(https?:)?//""", page.text)
    assert not re.search(r"""<(script|link|img|iframe)\b[^>]*\b(src|href)\s*=\s*["'](?!data:)""", page.text)


async def test_page_has_no_inline_handlers_which_the_policy_would_block(page: httpx.Response) -> None:
    assert not re.search(r"<[^>]*\s(on\w+|style)\s*=", re.sub(r"<script>.*?</script>", "", page.text, flags=re.DOTALL))
