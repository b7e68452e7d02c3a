"""An issuer of access tokens for development and tests. Its key is made when it is created, and is never stored."""

import time
from collections.abc import Iterable, Mapping
from typing import Any
from uuid import uuid4

from joserfc import jwt
from joserfc.jwk import ECKey

ALGORITHM = "ES256"
HOUR_SECONDS = 3600


class Issuer:
    """Signs access tokens of RFC 9068."""

    def __init__(self, url: str, audience: str) -> None:
        self.url: str = url
        self.audience: str = audience
        self._key = ECKey.generate_key("P-256", {"use": "sig", "alg": ALGORITHM}, auto_kid=True)

    @property
    def keys(self) -> dict[str, Any]:
        """The public key, as a JWK set (RFC 7517)."""
        return {"keys": [self._key.as_dict(private=False)]}

    def headers(self, subject: str = "ada", *, scopes: Iterable[str] = (), roles: Iterable[str] = ()) -> dict[str, str]:
        """The headers of a request with a token."""
        return {"authorization": f"Bearer {self.token(subject, scopes=scopes, roles=roles)}"}

    def token(
        self,
        subject: str = "ada",
        *,
        scopes: Iterable[str] = (),
        roles: Iterable[str] = (),
        seconds: float = HOUR_SECONDS,
        header: Mapping[str, Any] | None = None,
        **claims: Any,
    ) -> str:
        """A token that expires in `seconds`. `header` and `claims` add or replace members, such as `aud`."""
        now = int(time.time())
        own = {
            "iss": self.url,
            "aud": self.audience,
            "sub": subject,
            "client_id": subject,
            "iat": now,
            "exp": int(now + seconds),
            "jti": uuid4().hex,
            "scope": " ".join(scopes),
            "roles": list(roles),
        }
        head = {"alg": ALGORITHM, "typ": "at+jwt", "kid": self._key.kid}
        return jwt.encode(head | dict(header or {}), own | claims, self._key)
