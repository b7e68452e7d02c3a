"""Tokens as an issuer signs them, and as an attacker forges them."""

import json
import time
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from functools import cache
from typing import Any

from joserfc import jws
from joserfc.jwk import ECKey, OctKey, OKPKey, RSAKey

from chassis.auth import AuthSettings
from chassis.auth.keys import KeySet
from chassis.auth.verifier import TokenVerifier

ISSUER = "https://login.example/realms/shop"
ALGORITHMS = ["RS256", "PS256", "ES256", "EdDSA", "Ed25519", "HS256", "none"]
Key = RSAKey | ECKey | OKPKey | OctKey


@cache
def rsa_key(kid: str = "rsa", bits: int = 2048) -> RSAKey:
    """An RSA key, made once."""
    return RSAKey.generate_key(bits, {"kid": kid, "use": "sig"})


@cache
def ec_key(kid: str = "ec", curve: str = "P-256") -> ECKey:
    """A key on an elliptic curve, made once."""
    return ECKey.generate_key(curve, {"kid": kid})


@cache
def okp_key(kid: str = "okp") -> OKPKey:
    """A key for EdDSA, made once."""
    return OKPKey.generate_key("Ed25519", {"kid": kid})


def public(*keys: Key) -> dict[str, Any]:
    """The public keys, as a JWK set."""
    return {"keys": [key.as_dict(private=False) for key in keys]}


def settings(**given: Any) -> AuthSettings:
    """Settings for the issuer; `given` are others, without the prefix `auth_`."""
    values = {"issuer": ISSUER, "audience": ("orders",)} | given
    return AuthSettings.model_validate({f"auth_{name}": value for name, value in values.items()})


def key_set(*keys: Key, **given: Any) -> KeySet:
    """A key set that is never fetched."""
    found = KeySet(settings(**given))
    found.use(public(*(keys or (rsa_key(), ec_key(), okp_key()))))
    return found


def verifier(*keys: Key, **given: Any) -> TokenVerifier:
    """A verifier that knows the keys."""
    return TokenVerifier(settings(**given), key_set(*keys, **given))


def claims(**others: Any) -> dict[str, Any]:
    """The claims of a valid token. A claim that is None is left out."""
    now = int(time.time())
    values = {"iss": ISSUER, "aud": "orders", "sub": "ada", "iat": now, "exp": now + 600, "client_id": "web"} | others
    return {name: value for name, value in values.items() if value is not None}


def header(**others: Any) -> dict[str, Any]:
    """The header of a valid token, signed with `rsa_key()`. A member that is None is left out."""
    values = {"alg": "RS256", "typ": "at+jwt", "kid": "rsa"} | others
    return {name: value for name, value in values.items() if value is not None}


def encode(data: bytes | str | Mapping[str, Any]) -> str:
    """Base64url without padding; of a mapping, its JSON."""
    if isinstance(data, Mapping):
        data = json.dumps(data)
    raw = data.encode() if isinstance(data, str) else data
    return urlsafe_b64encode(raw).decode().rstrip("=")


def sign(head: Mapping[str, Any] | str, body: Mapping[str, Any] | str, key: Key | None = None) -> str:
    """A token. A text as header or claims is signed as it is, also if it is not JSON."""
    key = key or rsa_key()
    signed = f"{encode(head)}.{encode(body)}"
    name = head.get("alg") if isinstance(head, Mapping) else "RS256"
    name = name if name in ALGORITHMS else "RS256"
    model = jws.JWSRegistry(algorithms=ALGORITHMS).get_alg(str(name))
    return f"{signed}.{encode(model.sign(signed.encode(), key))}"


def token(key: Key | None = None, *, head: Mapping[str, Any] | None = None, **others: Any) -> str:
    """A valid token, unless `head` or claims in `others` say otherwise."""
    return sign(header(**(head or {})), claims(**others), key)
