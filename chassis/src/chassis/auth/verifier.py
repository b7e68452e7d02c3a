"""`TokenVerifier`: tokens to principals."""

import time

from joserfc import jwt
from joserfc.errors import JoseError

from .errors import InvalidTokenError, KeysUnavailableError
from .keys import KeySet
from .principal import Principal
from .settings import AuthSettings


class TokenVerifier:
    """Verifies tokens, and caches them."""

    def __init__(self, settings: AuthSettings, keys: KeySet) -> None:
        self._settings = settings
        self._keys = keys
        self._cache: dict[str, Principal] = {}

    def cached(self, token: str) -> Principal | None:
        """The principal of a token that was verified before."""
        principal = self._cache.get(token)
        if principal is None or (principal.expires_at or 0) < time.time():
            return None
        return principal

    async def verify(self, token: str) -> Principal:
        """The principal of a token."""
        if self._keys.keys is None:
            raise KeysUnavailableError
        try:
            claims = jwt.decode(token, self._keys.keys, ["ES256", "RS256"]).claims
        except (JoseError, ValueError) as error:
            raise InvalidTokenError(str(error)) from None
        if claims["exp"] < time.time():
            raise InvalidTokenError("the token has expired")
        principal = Principal(
            claims["sub"],
            claims["iss"],
            frozenset(claims.get("scope", "").split()),
            frozenset(claims.get("roles", [])),
            claims,
            "bearer",
            claims["exp"],
        )
        self._cache[token] = principal
        return principal
