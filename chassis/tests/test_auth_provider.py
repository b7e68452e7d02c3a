"""Tokens of a real provider: the certified `oidc-provider` from npm, in a process of its own."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from chassis.auth import InvalidTokenError
from chassis.auth import keys as keys_module
from chassis.auth.keys import KeySet
from chassis.auth.verifier import TokenVerifier

from .support import forger
from .support.oidc_provider import OidcProvider, oidc_provider

AUDIENCE = "https://api.example/orders"
SHORT = "https://api.example/short"


@pytest.fixture(scope="module")
def provider(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OidcProvider]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with oidc_provider(tmp_path_factory.mktemp("oidc-provider"), port) as provider:
        yield provider


@pytest.fixture
async def checks(provider: OidcProvider, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[TokenVerifier]:
    """A verifier that has the keys of the provider."""
    monkeypatch.setattr(keys_module, "FIRST_RETRY_SECONDS", 0.05)
    settings = forger.settings(
        issuer=provider.url, audience=(AUDIENCE, SHORT), keys_cooldown_seconds=60, keys_seconds=1, leeway_seconds=0
    )
    async with KeySet(settings) as keys:
        await until(lambda: keys.count)
        yield TokenVerifier(settings, keys)


async def until(condition: Callable[[], Any]) -> None:
    """Wait until a condition is true."""
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.01)


async def test_access_token_of_client_credentials_is_accepted(provider: OidcProvider, checks: TokenVerifier) -> None:
    principal = await checks.verify(provider.token(scope="orders:read orders:write"))
    assert (principal.subject, principal.issuer) == ("machine", provider.url)
    assert principal.scopes == {"orders:read", "orders:write"}


async def test_token_for_another_api_is_rejected(provider: OidcProvider, checks: TokenVerifier) -> None:
    with pytest.raises(InvalidTokenError, match="another audience"):
        await checks.verify(provider.token("https://api.example/billing"))


async def test_token_expires_also_in_the_cache(provider: OidcProvider, checks: TokenVerifier) -> None:
    token = provider.token(SHORT)
    await checks.verify(token)
    await until(lambda: checks.cached(token) is None)
    with pytest.raises(InvalidTokenError, match="it has expired"):
        await checks.verify(token)


async def test_rotation_of_the_key_is_noticed_at_once(provider: OidcProvider, checks: TokenVerifier) -> None:
    old = provider.token()
    await checks.verify(old)
    provider.rotate()
    assert (await checks.verify(provider.token())).subject == "machine"
    assert checks.cached(old) is None
    with pytest.raises(InvalidTokenError, match="unknown key"):
        await checks.verify(old)


async def test_thousand_unknown_keys_reach_the_provider_once(provider: OidcProvider, checks: TokenVerifier) -> None:
    claims = provider.token().split(".", 1)[1]
    before = provider.requests()["/jwks"]
    for number in range(1_000):
        with pytest.raises(InvalidTokenError, match="unknown key"):
            await checks.verify(f"{forger.encode(forger.header(kid=str(number)))}.{claims}")
    # One for all of them, and the regular one of each second.
    assert provider.requests()["/jwks"] - before <= 3


async def test_outage_of_the_provider_does_not_matter(provider: OidcProvider, checks: TokenVerifier) -> None:
    token, other = provider.token(), provider.token()
    await checks.verify(token)
    provider.kill()
    try:
        await asyncio.sleep(1.5)  # the keys would have been fetched meanwhile
        assert checks.cached(token) is not None
        assert (await checks.verify(other)).subject == "machine"
    finally:
        provider.start()
    # It has a new key now, as after the loss of its database.
    await until(lambda: checks.cached(token) is None)
    assert (await checks.verify(provider.token())).subject == "machine"
