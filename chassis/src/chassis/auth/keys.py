"""`KeySet`: the keys of the issuer."""

from typing import Any, Self

import httpx
from joserfc.jwk import KeySet as JoseKeySet

from .settings import AuthSettings


class KeySet:
    """The keys of an OpenID provider, found by discovery."""

    def __init__(self, settings: AuthSettings) -> None:
        self._issuer = settings.auth_issuer
        self.metadata: dict[str, Any] = {}
        self.keys: JoseKeySet | None = None

    def use(self, keys: dict[str, Any]) -> None:
        """Use these keys, a JWK set, and fetch none; for tests."""
        self.keys = JoseKeySet.import_key_set(keys)  # type: ignore[arg-type]

    async def __aenter__(self) -> Self:
        if self.keys is not None:
            return self
        async with httpx.AsyncClient() as client:
            response = await client.get(f"{self._issuer}/.well-known/openid-configuration")
            self.metadata = response.json()
            self.keys = JoseKeySet.import_key_set((await client.get(self.metadata["jwks_uri"])).json())
        return self

    async def __aexit__(self, *_: object) -> None: ...

    async def check(self) -> None:
        """Raise an error if there are no keys."""
        if self.keys is None:
            raise RuntimeError("no keys")
