"""`TokenVerifier`: turns bearer tokens into principals, and caches them until they expire."""

import math
import re
import time
import warnings
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from joserfc.errors import SecurityWarning
from joserfc.jws import JWSRegistry

from .errors import InvalidTokenError
from .keys import KeySet, PublicKey
from .principal import Principal
from .settings import AuthSettings
from .strict_json import parse_object

MAX_TOKEN_CHARACTERS = 16_384
MAX_NAME_CHARACTERS = 1_024
SEGMENT = r"[A-Za-z0-9_-]+"
COMPACT = re.compile(rf"({SEGMENT})\.({SEGMENT})\.({SEGMENT})")
PARTS_OF_JWE = 5


@dataclass(frozen=True, slots=True)
class Entry:
    """A verified token in the cache."""

    valid_until: float
    principal: Principal
    thumbprint: str


class TokenVerifier:
    """Verifies access tokens: JWTs of RFC 9068, by the advice of RFC 8725.

    A token is a text that a stranger has sent. Any text becomes a principal or one of the errors of this part. No error
    and no log line has any part of it.
    """

    def __init__(self, settings: AuthSettings, keys: KeySet) -> None:
        self._keys = keys
        self._issuer = settings.auth_issuer
        self._audiences = frozenset(settings.auth_audience)
        self._types = frozenset(map(_normal_type, settings.auth_token_types))
        self._leeway = settings.auth_leeway_seconds
        self._scope_claim = settings.auth_scope_claim
        self._roles_path = settings.auth_roles_claim.split(".")
        self._max_cached = settings.auth_token_cache
        self._cache: OrderedDict[str, Entry] = OrderedDict()
        registry = JWSRegistry(algorithms=settings.auth_algorithms)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SecurityWarning)  # the name EdDSA is deprecated, and in use everywhere
            self._algorithms = {str(name): registry.get_alg(name) for name in settings.auth_algorithms}
        keys.on_change(self._drop_entries_of_old_keys)

    def cached(self, token: str) -> Principal | None:
        """The principal of a token that was verified before, and has not expired."""
        entry = self._cache.get(token)
        if entry is None:
            return None
        if entry.valid_until > time.time():
            return entry.principal
        del self._cache[token]
        return None

    async def verify(self, token: str) -> Principal:
        """The principal of a token.

        Raises `InvalidTokenError` with the reason, and `KeysUnavailableError` while the issuer's keys are not known.
        """
        signed, payload, signature, header = _split(token)
        algorithm, key_id = self._check_header(header)
        key = self._keys.find(key_id, algorithm)
        if key is None and key_id is not None and await self._keys.fetch_unknown():
            key = self._keys.find(key_id, algorithm)
        if key is None:
            raise InvalidTokenError("it is signed with an unknown key")
        if not self._is_signed(signed, signature, algorithm, key):
            raise InvalidTokenError("its signature is wrong")
        claims = _object_of(payload)
        if claims is None:
            raise InvalidTokenError("its claims are malformed")
        principal, valid_until = self._principal_of(claims)
        self._add(token, Entry(valid_until, principal, key.thumbprint()))
        return principal

    def _check_header(self, header: Mapping[str, Any]) -> tuple[str, str | None]:
        """The algorithm and the id of the key. Members that name or hold keys (`jku`, `jwk`, `x5u`) are ignored."""
        algorithm, key_id, kind = header.get("alg"), header.get("kid"), header.get("typ", "JWT")
        if not isinstance(algorithm, str) or algorithm not in self._algorithms:
            raise InvalidTokenError("its algorithm is not allowed")
        if "crit" in header or "b64" in header:
            raise InvalidTokenError("it needs an extension that is not supported")
        if key_id is not None and not isinstance(key_id, str):
            raise InvalidTokenError("its key id is not a text")
        if not isinstance(kind, str) or _normal_type(kind) not in self._types:
            raise InvalidTokenError("its type is not that of an access token")
        return algorithm, key_id

    def _is_signed(self, signed: bytes, signature: bytes, algorithm: str, key: PublicKey) -> bool:
        model = self._algorithms[algorithm]
        try:
            model.check_key(key)
            return model.verify(signed, signature, key) is True
        except Exception:  # noqa: BLE001 - whatever the library raises, the signature is not valid
            return False

    def _principal_of(self, claims: Mapping[str, Any]) -> tuple[Principal, float]:
        """The principal, and the time until which the token is valid."""
        if claims.get("iss") != self._issuer:
            raise InvalidTokenError("it is from another issuer")
        if self._audiences.isdisjoint(_texts(claims, "aud", split=False)):
            raise InvalidTokenError("it is for another audience")
        now = time.time()
        expires_at = _time(claims, "exp")
        if expires_at is None:
            raise InvalidTokenError("it has no expiry")
        valid_until = expires_at + self._leeway
        if valid_until <= now:
            raise InvalidTokenError("it has expired")
        for name in ("nbf", "iat"):
            begins_at = _time(claims, name)
            if begins_at is not None and begins_at > now + self._leeway:
                raise InvalidTokenError("it is not valid yet")
        subject = claims.get("sub")
        if not isinstance(subject, str) or not 0 < len(subject) <= MAX_NAME_CHARACTERS or not subject.isprintable():
            raise InvalidTokenError("its subject is missing or malformed")
        principal = Principal(
            subject=subject,
            issuer=self._issuer,
            scopes=_texts(claims, self._scope_claim),
            roles=self._roles_of(claims),
            claims=_frozen(claims),
            scheme="bearer",
            expires_at=expires_at,
        )
        return principal, valid_until

    def _roles_of(self, claims: Mapping[str, Any]) -> frozenset[str]:
        """The roles. A claim whose name has dots, such as a URL, is found as well."""
        whole = ".".join(self._roles_path)
        if whole in claims:
            return _texts(claims, whole)
        holder: Any = claims
        for name in self._roles_path[:-1]:
            holder = holder.get(name) if isinstance(holder, Mapping) else None
        return _texts(holder, self._roles_path[-1]) if isinstance(holder, Mapping) else frozenset()

    def _add(self, token: str, entry: Entry) -> None:
        # The keys may have changed while this token waited for a fetch.
        if self._max_cached and entry.thumbprint in self._keys.thumbprints:
            if len(self._cache) >= self._max_cached:
                self._cache.popitem(last=False)
            self._cache[token] = entry

    def _drop_entries_of_old_keys(self) -> None:
        valid = self._keys.thumbprints
        for token in [token for token, entry in self._cache.items() if entry.thumbprint not in valid]:
            del self._cache[token]


def _split(token: str) -> tuple[bytes, str, bytes, dict[str, Any]]:
    """The signed part, the encoded claims, the signature and the header of a JWS in the compact serialization."""
    if len(token) > MAX_TOKEN_CHARACTERS:
        raise InvalidTokenError(f"it is longer than {MAX_TOKEN_CHARACTERS} characters")
    match = COMPACT.fullmatch(token)
    if match is None:
        is_encrypted = token.count(".") == PARTS_OF_JWE - 1
        raise InvalidTokenError("it is encrypted" if is_encrypted else "it is not a signed JWT")
    header, payload, signature = match.groups()
    decoded = _object_of(header)
    raw = _decode(signature)
    if decoded is None or raw is None:
        raise InvalidTokenError("it is not a signed JWT")
    return token[: match.end(2)].encode(), payload, raw, decoded


def _object_of(segment: str) -> dict[str, Any] | None:
    raw = _decode(segment)
    try:
        return None if raw is None else parse_object(raw)
    except ValueError:
        return None


def _decode(segment: str) -> bytes | None:
    """The bytes of base64url without padding (RFC 7515, section 2). `segment` has only its characters.

    Other texts for the same bytes, which differ in unused bits, are rejected: one token is one entry in the cache.
    """
    try:
        raw = urlsafe_b64decode(segment + "=" * (-len(segment) % 4))
    except ValueError:
        return None
    return raw if urlsafe_b64encode(raw).decode().rstrip("=") == segment else None


def _normal_type(kind: str) -> str:
    return kind.lower().removeprefix("application/")


def _time(claims: Mapping[str, Any], name: str) -> float | None:
    """A NumericDate (RFC 7519, section 2); None if the claim is missing."""
    if name not in claims:
        return None
    value = claims[name]
    if isinstance(value, bool) or not isinstance(value, int | float) or not -1e12 < value < 1e12 or math.isnan(value):
        raise InvalidTokenError(f"its claim {name} is not a time")
    return float(value)


def _texts(claims: Mapping[str, Any], name: str, *, split: bool = True) -> frozenset[str]:
    """The texts of a claim: a list, or one text, which may be split at spaces. Empty if the claim is missing."""
    value = claims.get(name, [])
    if isinstance(value, str):
        return frozenset(value.split(" ") if split else [value]) - {""}
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise InvalidTokenError(f"its claim {name} is neither a text nor a list of texts")
    return frozenset(value)


def _frozen(value: Any) -> Any:
    if isinstance(value, dict):
        return MappingProxyType({name: _frozen(member) for name, member in value.items()})
    return tuple(map(_frozen, value)) if isinstance(value, list) else value
