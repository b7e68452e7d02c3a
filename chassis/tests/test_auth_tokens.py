"""Verification of access tokens: the valid ones, and those that an attacker forges."""

import asyncio
import hmac
import json
import logging
import time
import traceback
import warnings
from functools import cache
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from joserfc import jwe
from joserfc.errors import SecurityWarning
from joserfc.jwk import OctKey, RSAKey

from chassis.auth import InvalidTokenError, KeysUnavailableError, Principal
from chassis.auth.keys import KeySet
from chassis.auth.verifier import MAX_TOKEN_CHARACTERS, TokenVerifier

from .support import forger
from .support.forger import claims, ec_key, encode, header, okp_key, public, rsa_key, sign, token, verifier

DEEP = "[" * 5_000


async def reason(text: str, checks: TokenVerifier | None = None) -> str:
    """Why a token is rejected. Fails if it is accepted, or if the error has more than the reason."""
    with pytest.raises(InvalidTokenError) as caught:
        await (checks or verifier()).verify(text)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None
    return str(caught.value)


async def test_valid_token_is_a_principal() -> None:
    principal = await verifier().verify(
        token(scope="orders:read orders:write", roles=["clerk"], aud=["other", "orders"], exp=time.time() + 60.5)
    )
    assert (principal.subject, principal.issuer, principal.scheme) == ("ada", forger.ISSUER, "bearer")
    assert principal.scopes == {"orders:read", "orders:write"}
    assert principal.roles == {"clerk"}
    assert principal.claims["client_id"] == "web"
    assert principal.expires_at == pytest.approx(time.time() + 60.5, abs=5)


@pytest.mark.parametrize(
    ("algorithm", "key"),
    [("RS256", rsa_key), ("PS256", rsa_key), ("ES256", ec_key), ("EdDSA", okp_key)],
)
async def test_each_algorithm_of_the_default_is_accepted(algorithm: str, key: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SecurityWarning)  # of the signer, about the name EdDSA
        signed = token(key(), head={"alg": algorithm, "kid": key().kid})
    assert (await verifier().verify(signed)).subject == "ada"


# The header.


async def test_token_without_a_signature_is_rejected() -> None:
    head = header(alg="none")
    assert await reason(f"{encode(head)}.{encode(claims())}.") == "it is not a signed JWT"
    assert await reason(f"{encode(head)}.{encode(claims())}.AAAA") == "its algorithm is not allowed"


async def test_hmac_with_the_public_key_is_rejected() -> None:
    signed = f"{encode(header(alg='HS256'))}.{encode(claims())}"
    for public_key in (rsa_key().as_pem(private=False), json.dumps(rsa_key().as_dict(private=False)).encode()):
        forged = f"{signed}.{encode(hmac.digest(public_key, signed.encode(), 'sha256'))}"
        assert await reason(forged) == "its algorithm is not allowed"


async def test_algorithm_must_fit_the_type_of_the_key() -> None:
    forged = sign(header(alg="RS256", kid="ec"), claims())
    assert await reason(forged) == "it is signed with an unknown key"


async def test_algorithm_that_the_key_does_not_name_is_rejected() -> None:
    keys = public(rsa_key())
    keys["keys"][0]["alg"] = "PS256"
    known = KeySet(forger.settings())
    known.use(keys)
    checks = TokenVerifier(forger.settings(), known)
    assert await reason(token(), checks) == "it is signed with an unknown key"
    assert (await checks.verify(token(head={"alg": "PS256"}))).subject == "ada"


async def test_algorithm_that_is_not_listed_is_rejected() -> None:
    assert await reason(token(), verifier(algorithms=("ES256",))) == "its algorithm is not allowed"


@pytest.mark.parametrize("algorithm", [None, 1, ["RS256"], {}, "rs256", "RS1", "", "ES256K", "RS256\0"])
async def test_odd_algorithm_is_rejected(algorithm: Any) -> None:
    assert await reason(token(head={"alg": algorithm})) == "its algorithm is not allowed"


@pytest.mark.parametrize(
    "extension", [{"crit": ["exp"]}, {"crit": ["b64"], "b64": False}, {"b64": False}, {"crit": []}]
)
async def test_critical_extension_is_rejected(extension: dict[str, Any]) -> None:
    assert await reason(token(head=extension)) == "it needs an extension that is not supported"


async def test_keys_that_a_token_brings_are_ignored() -> None:
    attacker = rsa_key("attacker")
    own = attacker.as_dict(private=False)
    for head in (
        {"jwk": own},
        {"jku": "https://evil.example/keys"},
        {"x5u": "https://evil.example/c"},
        {"x5c": ["AA"]},
    ):
        assert await reason(token(attacker, head=head)) == "its signature is wrong"
        assert await reason(token(attacker, head=head | {"kid": "attacker"})) == "it is signed with an unknown key"
        assert (await verifier().verify(token(head=head))).subject == "ada"


@pytest.mark.parametrize(
    "key_id",
    [
        "../../etc/passwd",
        "/dev/null",
        "https://evil.example/keys",
        "rsa' OR '1'='1",
        "rsa\0",
        "",
        "k" * 10_000,
        "\u202ersa",
    ],
)
async def test_odd_key_id_is_only_looked_up(key_id: str) -> None:
    assert await reason(token(head={"kid": key_id})) == "it is signed with an unknown key"


@pytest.mark.parametrize("key_id", [1, True, ["rsa"], {"rsa": 1}, 1.5])
async def test_key_id_that_is_not_a_text_is_rejected(key_id: Any) -> None:
    assert await reason(token(head={"kid": key_id})) == "its key id is not a text"


async def test_missing_key_id_needs_exactly_one_key_that_fits() -> None:
    assert (await verifier().verify(token(head={"kid": None}))).subject == "ada"
    two = verifier(rsa_key(), rsa_key("second"))
    assert await reason(token(head={"kid": None}), two) == "it is signed with an unknown key"


@pytest.mark.parametrize("kind", [None, "JWT", "id_token", "", 1, ["at+jwt"], "dpop+jwt"])
async def test_token_of_another_type_is_rejected(kind: Any) -> None:
    assert await reason(token(head={"typ": kind})) == "its type is not that of an access token"


async def test_type_is_compared_like_a_media_type() -> None:
    assert (await verifier().verify(token(head={"typ": "application/AT+JWT"}))).subject == "ada"
    for kind in ("JWT", "jwt", None):  # without a type, it is a JWT
        assert (await verifier(token_types=("JWT",)).verify(token(head={"typ": kind}))).subject == "ada"


# The form.


async def test_oversized_token_is_rejected_before_it_is_decoded() -> None:
    assert await reason("a" * (MAX_TOKEN_CHARACTERS + 1)) == f"it is longer than {MAX_TOKEN_CHARACTERS} characters"
    assert await reason(token(pad="p" * MAX_TOKEN_CHARACTERS)) == f"it is longer than {MAX_TOKEN_CHARACTERS} characters"


async def test_encrypted_token_is_rejected() -> None:
    secret = OctKey.import_key("0123456789abcdef")
    encrypted = jwe.encrypt_compact({"alg": "dir", "enc": "A128GCM", "kid": "rsa"}, json.dumps(claims()), secret)
    assert await reason(encrypted.replace("..", ".AA.")) == "it is encrypted"
    nested = sign(header(cty="JWT"), encrypted)
    assert await reason(nested) == "its claims are malformed"


async def test_json_serialization_is_rejected() -> None:
    head, payload, signature = token().split(".")
    flattened = json.dumps({"protected": head, "payload": payload, "signature": signature})
    assert await reason(flattened) == "it is not a signed JWT"


@pytest.mark.parametrize(
    "head",
    [
        '{"alg":"none","alg":"RS256","kid":"rsa","typ":"at+jwt"}',
        '{"alg":"RS256","kid":"x","kid":"rsa","typ":"at+jwt"}',
        "[]",
        "null",
        '"RS256"',
        "{",
        "",
        '{"alg":"RS256","kid":"rsa","typ":"at+jwt","x":' + DEEP,
        '{"alg":"RS256","kid":"rsa","typ":"at+jwt","x":NaN}',
    ],
)
async def test_malformed_header_is_rejected(head: str) -> None:
    assert await reason(sign(head, claims())) == "it is not a signed JWT"


@pytest.mark.parametrize(
    "change",
    [
        lambda body: body[:-1] + ',"sub":"root"}',
        lambda body: body[:-1] + ',"x":{"a":1,"a":2}}',
        lambda body: body[:-1] + ',"x":' + DEEP,
        lambda body: body[:-1] + ',"x":' + "9" * 5_000 + "}",
        lambda body: body[:-1] + ',"x":Infinity}',
        lambda _: "[1]",
        lambda _: "\xff",
    ],
)
async def test_ambiguous_or_malformed_claims_are_rejected(change: Any) -> None:
    assert await reason(sign(header(), change(json.dumps(claims())))) == "its claims are malformed"


async def test_other_spellings_of_a_signature_are_rejected() -> None:
    signed = token()
    last = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    other = signed[:-1] + last[last.index(signed[-1]) ^ 1]
    for spelling in (other, signed + "=", signed + "\n", f"{signed[:-5]}!{signed[-5:]}", signed + ".", " " + signed):
        assert await reason(spelling) == "it is not a signed JWT"


async def test_changed_claims_have_a_wrong_signature() -> None:
    head, _, signature = token().split(".")
    assert await reason(f"{head}.{encode(claims(sub='root'))}.{signature}") == "its signature is wrong"
    assert await reason(f"{head}.{encode(claims())}.AA") == "its signature is wrong"


# The claims.


async def test_expired_token_is_rejected_after_the_leeway() -> None:
    now = int(time.time())
    assert await reason(token(exp=now - 31)) == "it has expired"
    assert (await verifier().verify(token(exp=now - 20))).subject == "ada"
    assert await reason(token(exp=now - 1), verifier(leeway_seconds=0)) == "it has expired"


async def test_token_without_an_expiry_is_rejected() -> None:
    assert await reason(token(exp=None)) == "it has no expiry"


@pytest.mark.parametrize("name", ["exp", "nbf", "iat"])
@pytest.mark.parametrize("value", ["1999999999", True, [1], {}, 10**400, 1e300, -1e300, 10**13])
async def test_time_that_is_not_a_plain_number_is_rejected(name: str, value: Any) -> None:
    assert await reason(sign(header(), claims(**{name: value}))) == f"its claim {name} is not a time"


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity"])
async def test_time_that_is_not_finite_is_rejected(value: str) -> None:
    body = json.dumps(claims(exp=123_454_321)).replace("123454321", value)
    assert await reason(sign(header(), body)) == "its claims are malformed"
    overflow = json.dumps(claims(exp=123_454_321)).replace("123454321", "1e999")
    assert await reason(sign(header(), overflow)) == "its claim exp is not a time"


@pytest.mark.parametrize("name", ["nbf", "iat"])
async def test_token_from_the_future_is_rejected_beyond_the_leeway(name: str) -> None:
    now = int(time.time())
    assert await reason(sign(header(), claims(**{name: now + 60}))) == "it is not valid yet"
    assert (await verifier().verify(sign(header(), claims(**{name: now + 20})))).subject == "ada"


@pytest.mark.parametrize(
    "issuer", [None, f"{forger.ISSUER}/", forger.ISSUER.upper(), "https://evil.example", [forger.ISSUER], 1]
)
async def test_issuer_must_be_equal(issuer: Any) -> None:
    assert await reason(token(iss=issuer)) == "it is from another issuer"


@pytest.mark.parametrize("audience", [None, [], "Orders", "orders ", "orders billing", ["billing"], ""])
async def test_token_for_another_audience_is_rejected(audience: Any) -> None:
    assert await reason(token(aud=audience)) == "it is for another audience"


@pytest.mark.parametrize("audience", [1, True, {"orders": 1}, ["orders", 1], [["orders"]]])
async def test_malformed_audience_is_rejected(audience: Any) -> None:
    assert await reason(token(aud=audience)) == "its claim aud is neither a text nor a list of texts"


@pytest.mark.parametrize("subject", [None, "", 1, ["ada"], "a" * 1025, "ada\nroot", "ada\0", "\ud800", "\u202eada"])
async def test_missing_or_malformed_subject_is_rejected(subject: Any) -> None:
    assert await reason(token(sub=subject)) == "its subject is missing or malformed"


async def test_scopes_are_a_text_or_a_list() -> None:
    assert (await verifier().verify(token(scope=["a", "b c"]))).scopes == {"a", "b c"}
    assert (await verifier().verify(token(scope="  a  b "))).scopes == {"a", "b"}
    assert (await verifier(scope_claim="scp").verify(token(scp="a", scope="b"))).scopes == {"a"}
    assert (await verifier().verify(token())).scopes == frozenset()


async def test_roles_are_found_at_their_path() -> None:
    nested = token(realm_access={"roles": ["clerk"]}, roles=["other"])
    assert (await verifier(roles_claim="realm_access.roles").verify(nested)).roles == {"clerk"}
    assert (await verifier(roles_claim="realm_access.roles").verify(token(realm_access=[1]))).roles == frozenset()
    named = sign(header(), claims(**{"https://shop.example/roles": ["clerk"]}))
    assert (await verifier(roles_claim="https://shop.example/roles").verify(named)).roles == {"clerk"}


@pytest.mark.parametrize("value", [1, True, {"admin": True}, [1], [["admin"]]])
async def test_malformed_scopes_and_roles_are_rejected(value: Any) -> None:
    assert await reason(token(scope=value)) == "its claim scope is neither a text nor a list of texts"
    assert await reason(token(roles=value)) == "its claim roles is neither a text nor a list of texts"


async def test_claims_of_a_shared_principal_cannot_be_changed() -> None:
    principal = await verifier().verify(token(groups=["a"], address={"city": "Rome"}))
    assert principal.claims["groups"] == ("a",)
    with pytest.raises(TypeError):
        principal.claims["address"]["city"] = "Paris"
    assert hash(principal)
    assert "Rome" not in repr(principal)


# The keys and the cache.


async def test_without_keys_no_token_can_be_judged() -> None:
    checks = TokenVerifier(forger.settings(), KeySet(forger.settings()))
    with pytest.raises(KeysUnavailableError):
        await checks.verify(token())


async def test_verified_token_is_cached_until_it_expires() -> None:
    checks = verifier(leeway_seconds=0)
    signed = token(exp=time.time() + 0.3)
    assert checks.cached(signed) is None
    principal = await checks.verify(signed)
    assert checks.cached(signed) is principal
    await asyncio.sleep(0.31)
    assert checks.cached(signed) is None
    assert await reason(signed, checks) == "it has expired"


async def test_rejected_token_is_not_cached() -> None:
    checks = verifier()
    expired = token(exp=1)
    await reason(expired, checks)
    assert checks.cached(expired) is None


async def test_cache_is_bounded_and_drops_the_oldest_first() -> None:
    checks = verifier(token_cache=2)
    tokens = [token(jti=str(number)) for number in range(3)]
    for signed in tokens:
        await checks.verify(signed)
    assert [checks.cached(signed) is None for signed in tokens] == [True, False, False]
    none = verifier(token_cache=0)
    await none.verify(tokens[0])
    assert none.cached(tokens[0]) is None


async def test_tokens_of_a_key_that_is_gone_leave_the_cache() -> None:
    keys = forger.key_set(rsa_key(), ec_key())
    checks = TokenVerifier(forger.settings(), keys)
    by_rsa, by_ec = token(), token(ec_key(), head={"alg": "ES256", "kid": "ec"})
    await checks.verify(by_rsa)
    await checks.verify(by_ec)
    keys.use(public(ec_key()))
    assert checks.cached(by_rsa) is None
    assert checks.cached(by_ec) is not None
    # The same id with other bits is another key.
    keys.use(public(RSAKey.generate_key(2048, {"kid": "rsa"})))
    assert await reason(by_rsa, checks) == "its signature is wrong"
    assert checks.cached(by_ec) is None


# Whatever the token is.

TEXTS = st.text(max_size=40)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)
CHECKS = verifier()


async def outcome(text: str) -> Principal | None:
    """The principal, or None for a token that is rejected. Another error than that of this part is raised."""
    try:
        return await CHECKS.verify(text)
    except InvalidTokenError:
        return None


def run(text: str) -> Principal | None:
    """`outcome` without an event loop: nothing in it waits, because the keys are fixed."""
    steps = outcome(text)
    try:
        steps.send(None)
    except StopIteration as end:
        found: Principal | None = end.value
        return found
    raise AssertionError("it waits")


@given(st.text(max_size=300) | st.from_regex(r"[A-Za-z0-9_.=-]{0,200}"))
@settings(max_examples=150, deadline=None)
def test_any_text_is_rejected_with_a_reason(text: str) -> None:
    assert run(text) is None


@given(st.dictionaries(st.sampled_from(["alg", "kid", "typ", "crit", "b64", "jwk", "jku", "x5c", "cty", "x"]), JSON))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_header_is_accepted_or_rejected_with_a_reason(members: dict[str, Any]) -> None:
    run(f"{encode(header() | members)}.{encode(claims())}.AAAA")


@given(
    st.dictionaries(
        st.sampled_from(["iss", "aud", "exp", "nbf", "iat", "sub", "scope", "roles", "jti", "x"]), JSON, min_size=1
    )
)
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_claims_that_are_signed_are_accepted_or_rejected_with_a_reason(members: dict[str, Any]) -> None:
    body = claims() | members
    principal = run(sign(header(), body))
    if principal is not None:
        assert principal.issuer == forger.ISSUER
        assert principal.subject == body["sub"]
        assert "orders" in body["aud"]


@given(st.integers(min_value=0), st.integers(min_value=0, max_value=255))
@settings(max_examples=100, deadline=None)
def test_token_with_any_changed_byte_is_rejected(place: int, byte: int) -> None:
    signed = valid_token()
    place %= len(signed)
    changed = signed[:place] + chr(byte) + signed[place + 1 :]
    assert (run(changed) is None) == (changed != signed)


@cache
def valid_token() -> str:
    """The same for all examples, made when the test runs: tokens expire."""
    return token()


async def test_token_is_in_no_error_log_or_repr(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    checks = verifier()
    marker = "m4rk3r-in-it"
    forged = [token(jti=marker, exp=1), token(jti=marker)[:-10] + "AAAAAAAAAA", sign(header(), f"{{{marker}"), marker]
    shown = caplog.text
    for text in forged:
        try:
            await checks.verify(text)
        except InvalidTokenError as error:
            shown += "".join(traceback.format_exception(error)) + repr(error)
    principal = await checks.verify(token(jti=marker))
    shown += repr(principal) + repr(checks)
    assert marker not in shown
    assert encode(claims())[:20] not in shown
