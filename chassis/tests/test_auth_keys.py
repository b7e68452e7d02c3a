"""The keys of the issuer: how they are fetched, and what an issuer that misbehaves can cause."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from joserfc.jwk import OctKey, RSAKey
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from chassis.auth import AuthSettings, InvalidTokenError, KeysUnavailableError
from chassis.auth import keys as keys_module
from chassis.auth.fetching import MAX_DOCUMENT_BYTES, FetchError, KeyFetcher
from chassis.auth.keys import KeySet, usable_keys
from chassis.auth.verifier import TokenVerifier

from .support import forger
from .support.forger import ec_key, okp_key, public, rsa_key, token
from .support.odd_issuer import METADATA, OddIssuer, odd_issuer, raw


@pytest.fixture
async def issuer() -> AsyncIterator[OddIssuer]:
    async with odd_issuer() as issuer:
        yield issuer


def settings(odd: OddIssuer, **given: Any) -> AuthSettings:
    """The settings of a service with this issuer."""
    return forger.settings(**({"issuer": odd.url, "keys_cooldown_seconds": 60} | given))


async def until(condition: Callable[[], Any]) -> None:
    """Wait until a condition is true."""
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)


async def failure(issuer: OddIssuer, **given: Any) -> str:
    """Why the keys are not fetched."""
    fetcher = KeyFetcher(settings(issuer, **given))
    try:
        with pytest.raises(FetchError) as caught:
            await fetcher.fetch()
    finally:
        await fetcher.close()
    return str(caught.value)


async def outcome(verification: Awaitable[Any]) -> str:
    """`valid`, or the name of the error."""
    try:
        await verification
    except (InvalidTokenError, KeysUnavailableError) as error:
        return type(error).__name__
    return "valid"


# Discovery.


async def test_keys_are_found_by_discovery(issuer: OddIssuer) -> None:
    issuer.metadata["token_endpoint"] = "https://login.example/token"  # noqa: S105 - an address
    async with KeySet(settings(issuer)) as keys:
        await until(lambda: keys.count)
        await keys.check()
        assert keys.metadata["token_endpoint"] == "https://login.example/token"  # noqa: S105 - an address
        principal = await TokenVerifier(settings(issuer), keys).verify(token(iss=issuer.url))
    assert principal.subject == "ada"
    assert issuer.requests == [METADATA, "/keys"]


async def test_metadata_of_rfc_8414_is_found_if_there_is_no_other(issuer: OddIssuer) -> None:
    url = f"{issuer.url}/realms/shop"
    document = {"issuer": url, "jwks_uri": f"{issuer.url}/keys"}
    issuer.raw["/.well-known/oauth-authorization-server/realms/shop"] = raw(json.dumps(document))
    async with KeySet(settings(issuer, issuer=url)) as keys:
        await until(lambda: keys.count)
    assert issuer.requests[0] == "/realms/shop/.well-known/openid-configuration"


async def test_url_of_the_keys_needs_no_discovery(issuer: OddIssuer) -> None:
    async with KeySet(settings(issuer, jwks_url=f"{issuer.url}/keys")) as keys:
        await until(lambda: keys.count)
    assert issuer.requests == ["/keys"]


async def test_metadata_of_another_issuer_is_rejected(issuer: OddIssuer) -> None:
    issuer.metadata["issuer"] = f"{issuer.url}/"
    assert "another issuer" in await failure(issuer)
    assert issuer.fetches() == 0


@pytest.mark.parametrize(
    "url",
    ["http://keys.example/keys", "file:///etc/passwd", "https://a:b@keys.example/", "//keys.example", 1, None, ""],
)
async def test_url_of_keys_that_is_not_https_is_rejected(issuer: OddIssuer, url: Any) -> None:
    issuer.metadata["jwks_uri"] = url
    assert await failure(issuer) == "the member jwks_uri of the metadata is not an https URL"


# Responses that misbehave.


@pytest.mark.parametrize("path", [METADATA, "/keys"])
@pytest.mark.parametrize(
    ("response", "reason"),
    [
        (
            raw("", "302 Found", "location: /elsewhere"),
            "responded with 302; 200 is expected, redirects are not followed",
        ),
        (raw("", "500 Internal Server Error"), "responded with 500"),
        (raw("<html>"), "is not a JSON object"),
        (raw("[]"), "is not a JSON object"),
        (raw('{"keys":[],"keys":[]}'), "is not a JSON object"),
        (raw("[" * 10_000), "is not a JSON object"),
        (raw("{}", "200 OK", "content-encoding: gzip"), "responded with a compressed body"),
        (raw(" " * (MAX_DOCUMENT_BYTES + 1)), f"is longer than {MAX_DOCUMENT_BYTES} bytes"),
        (b"nonsense\r\n\r\n", "RemoteProtocolError"),
    ],
)
async def test_odd_response_is_a_failure(issuer: OddIssuer, path: str, response: bytes, reason: str) -> None:
    issuer.raw[path] = response
    assert reason in await failure(issuer)
    assert "/elsewhere" not in issuer.requests


async def test_endless_response_is_cut_off(issuer: OddIssuer) -> None:
    issuer.is_endless = True
    assert await failure(issuer) == f"the response of {issuer.url}{METADATA} is longer than {MAX_DOCUMENT_BYTES} bytes"


async def test_slow_response_is_a_failure(issuer: OddIssuer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chassis.auth.fetching.FETCH_SECONDS", 0.1)
    issuer.delay_seconds = 1.0
    assert "seconds" in await failure(issuer) or "Timeout" in await failure(issuer)


async def test_issuer_that_closes_the_connection_is_a_failure(issuer: OddIssuer) -> None:
    issuer.is_down = True
    assert "Error" in await failure(issuer)


# Keys that are not usable.


def weak() -> dict[str, Any]:
    """An RSA key with 1,024 bits, which joserfc would import."""
    numbers = {"n": forger.encode((1 << 1023 | 1).to_bytes(128)), "e": "AQAB"}
    return {"kty": "RSA", "kid": "weak", **numbers}


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        (OctKey.generate_key(256, {"kid": "secret"}).as_dict(), "key 0: its type is not RSA, EC or OKP"),
        (rsa_key().as_dict(private=False) | {"use": "enc"}, "key 0: it is not for signatures (use)"),
        (rsa_key().as_dict(private=False) | {"use": None}, "key 0: it is not for signatures (use)"),
        (ec_key().as_dict(private=False) | {"key_ops": ["deriveKey"]}, "key 0: it is not for signatures (key_ops)"),
        (weak(), "key 0: its size is not from 2048 to 8192 bits"),
        ({"kty": "RSA", "n": "x" * 20_000, "e": "AQAB"}, "key 0: its size is not from 2048 to 8192 bits"),
        ({"kty": "OKP", "crv": "X25519", "x": "AA"}, "key 0: its curve is not P-256, P-384, P-521 or Ed25519"),
        ({"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"}, "key 0: malformed"),
        ({"kty": "RSA", "n": 1, "e": "AQAB"}, "key 0: malformed"),
        ({"kty": "RSA"}, "key 0: malformed"),
        ({"kty": ["RSA"]}, "key 0: its type is not RSA, EC or OKP"),
        ({}, "key 0: its type is not RSA, EC or OKP"),
        ("RSA", "key 0: malformed"),
        (None, "key 0: malformed"),
    ],
)
def test_key_that_cannot_verify_is_ignored(key: Any, reason: str) -> None:
    keys, ignored = usable_keys({"keys": [key, okp_key().as_dict(private=False)]})
    assert ([found.kid for found in keys], ignored) == (["okp"], [reason])


def test_private_members_of_a_key_are_not_imported() -> None:
    (key,), _ = usable_keys({"keys": [rsa_key().as_dict(private=True)]})
    assert not key.is_private


@pytest.mark.parametrize("document", [{}, {"keys": None}, {"keys": {}}, {"keys": [{}] * 101}])
def test_document_that_is_no_key_set_is_rejected(document: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="the key set has"):
        usable_keys(document)


async def test_key_set_without_a_usable_key_keeps_the_last_ones(issuer: OddIssuer) -> None:
    async with KeySet(settings(issuer)) as keys:
        await until(lambda: keys.count)
        issuer.keys = {"keys": []}
        assert not await keys.fetch_unknown()
        assert keys.count == 1


# Rotation, and unknown key ids.


async def test_rotation_is_noticed_by_the_first_token_of_a_new_key(issuer: OddIssuer) -> None:
    async with KeySet(settings(issuer)) as keys:
        await until(lambda: keys.count)
        checks = TokenVerifier(settings(issuer), keys)
        new = rsa_key("new")
        old_token = token(iss=issuer.url)
        await checks.verify(old_token)
        issuer.keys = public(new)
        await checks.verify(token(new, head={"kid": "new"}, iss=issuer.url))
        assert checks.cached(old_token) is None
        assert await outcome(checks.verify(old_token)) == "InvalidTokenError"
    assert issuer.fetches() == 2


async def test_thousand_unknown_key_ids_cause_one_request(issuer: OddIssuer) -> None:
    async with KeySet(settings(issuer)) as keys:
        await until(lambda: keys.count)
        checks = TokenVerifier(settings(issuer), keys)
        head, _, rest = token(iss=issuer.url).partition(".")
        for number in range(1_000):
            unknown = f"{forger.encode(forger.header(kid=str(number)))}.{rest}"
            assert await outcome(checks.verify(unknown)) == "InvalidTokenError"
        assert await outcome(checks.verify(f"{head}.{rest}")) == "valid"
    assert issuer.fetches() == 2  # that of the start, and one for all of them


async def test_tokens_that_come_during_a_fetch_wait_for_it_and_not_too_many(issuer: OddIssuer) -> None:
    async with KeySet(settings(issuer)) as keys:
        await until(lambda: keys.count)
        checks = TokenVerifier(settings(issuer), keys)
        issuer.delay_seconds, issuer.keys = 0.1, public(rsa_key("new"))
        new = token(rsa_key("new"), head={"kid": "new"}, iss=issuer.url)
        found = await asyncio.gather(*(outcome(checks.verify(new)) for _ in range(100)))
    assert found.count("valid") == keys_module.MAX_WAITING
    assert found.count("KeysUnavailableError") == 100 - keys_module.MAX_WAITING
    assert issuer.fetches() == 2


async def test_unknown_key_id_may_cause_a_fetch_again_after_the_cooldown(issuer: OddIssuer) -> None:
    async with KeySet(settings(issuer, keys_cooldown_seconds=1)) as keys:
        await until(lambda: keys.count)
        assert await keys.fetch_unknown()
        assert not await keys.fetch_unknown()
        await asyncio.sleep(1.05)
        assert await keys.fetch_unknown()
    assert issuer.fetches() == 3


async def test_request_that_leaves_does_not_end_the_fetch_of_others(issuer: OddIssuer) -> None:
    async with KeySet(settings(issuer)) as keys:
        await until(lambda: keys.count)
        issuer.delay_seconds = 0.1
        first, second = (asyncio.create_task(keys.fetch_unknown()) for _ in range(2))
        await asyncio.sleep(0.02)
        first.cancel()
        assert await second


# Outages.


async def test_address_of_the_keys_may_move(issuer: OddIssuer) -> None:
    fetcher = KeyFetcher(settings(issuer))
    try:
        await fetcher.fetch()
        issuer.metadata["jwks_uri"] = f"{issuer.url}/moved"
        issuer.raw = {"/keys": raw("", "410 Gone"), "/moved": raw(json.dumps(public(ec_key())))}
        with pytest.raises(FetchError, match="410"):
            await fetcher.fetch()
        assert (await fetcher.fetch())["keys"][0]["kid"] == "ec"
    finally:
        await fetcher.close()


async def test_keys_survive_an_outage_and_metrics_show_it(issuer: OddIssuer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys_module, "FIRST_RETRY_SECONDS", 0.01)
    registry = CollectorRegistry()

    def fetches(outcome: str) -> float:
        return registry.get_sample_value("auth_keys_fetches_total", {"outcome": outcome}) or 0.0

    with capture_logs() as lines:
        async with KeySet(settings(issuer, keys_seconds=1), registry=registry) as keys:
            await until(lambda: keys.count)
            checks = TokenVerifier(settings(issuer), keys)
            issuer.is_down = True
            await until(lambda: fetches("failure") >= 3)
            assert await outcome(checks.verify(token(iss=issuer.url))) == "valid"
            await keys.check()
            assert (registry.get_sample_value("auth_keys_age_seconds") or 0.0) > 0.5
            assert registry.get_sample_value("auth_keys") == 1
            issuer.is_down = False
            before = fetches("success")
            await until(lambda: fetches("success") > before)
            assert keys.age_seconds < 0.5
    events = [line["event"] for line in lines]
    assert events == [
        "authentication keys changed",
        "authentication keys not fetched; the last ones stay in use",
        "authentication keys fetched again",
    ]


async def test_service_without_keys_is_not_ready_until_the_issuer_is_there(
    issuer: OddIssuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keys_module, "FIRST_RETRY_SECONDS", 0.01)
    issuer.is_down = True
    async with KeySet(settings(issuer)) as keys:
        await until(lambda: len(issuer.requests) > 2)
        with pytest.raises(KeysUnavailableError):
            await keys.check()
        assert await outcome(TokenVerifier(settings(issuer), keys).verify(token())) == "KeysUnavailableError"
        issuer.is_down = False
        await until(lambda: keys.count)
        await keys.check()


async def test_end_does_not_wait_for_a_fetch(issuer: OddIssuer) -> None:
    issuer.delay_seconds = 30.0
    async with asyncio.timeout(5), KeySet(settings(issuer)):
        await until(lambda: issuer.requests)


def test_weak_key_is_rejected_although_its_first_digits_are_zero() -> None:
    key = RSAKey.generate_key(2048).as_dict(private=False)
    padded = forger.encode(bytes(200) + (1 << 1023 | 1).to_bytes(128))
    assert usable_keys({"keys": [key | {"n": padded}]})[0] == []
