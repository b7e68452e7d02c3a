"""`TokenVerifier`: tokens to principals."""

import time

from joserfc import jws, jwt
from joserfc.errors import JoseError

from .errors import InvalidTokenError, KeysUnavailableError
from .keys import KeySet
from .principal import Principal
from .settings import AuthSettings

ALGORITHMS = ["RS256", "PS256", "ES256"]
MAX_CACHED = 10_000


class TokenVerifier:
    """Verifies access tokens of RFC 9068, and caches them until they expire."""

    def __init__(self, settings: AuthSettings, keys: KeySet) -> None:
        self._keys = keys
        self._claims = jwt.JWTClaimsRegistry(
            leeway=30,
            iss={"essential": True, "value": settings.auth_issuer},
            aud={"essential": True, "values": settings.auth_audience},
            exp={"essential": True},
            sub={"essential": True},
        )
        self._registry = jws.JWSRegistry(algorithms=ALGORITHMS)
        self._cache: dict[str, Principal] = {}

    def cached(self, token: str) -> Principal | None:
        """The principal of a token that was verified before and has not expired."""
        principal = self._cache.get(token)
        return principal if principal is not None and (principal.expires_at or 0.0) > time.time() else None

    async def verify(self, token: str) -> Principal:
        """The principal of a token. Raises `InvalidTokenError` or `KeysUnavailableError`."""
        if self._keys.keys is None:
            raise KeysUnavailableError
        try:
            decoded = jwt.decode(token, self._keys.keys, ALGORITHMS, self._registry)
            claims = decoded.claims
            self._claims.validate(claims)
        except (JoseError, ValueError) as error:
            raise InvalidTokenError(getattr(error, "error", "it cannot be decoded")) from None
        if str(decoded.header.get("typ", "")).lower().removeprefix("application/") != "at+jwt":
            raise InvalidTokenError("its type is not at+jwt")
        scopes, roles = claims.get("scope", ""), claims.get("roles", [])
        principal = Principal(
            str(claims["sub"]),
            str(claims["iss"]),
            frozenset(scopes.split() if isinstance(scopes, str) else map(str, scopes)),
            frozenset(map(str, roles)),
            claims,
            "bearer",
            float(claims["exp"]),
        )
        if len(self._cache) >= MAX_CACHED:
            self._cache.clear()
        self._cache[token] = principal
        return principal
