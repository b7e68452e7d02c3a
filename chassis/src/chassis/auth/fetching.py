"""`KeyFetcher`: asks the issuer for its metadata and its public keys, and trusts neither size nor time nor address."""

import asyncio
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import httpx

from ..client import http_client
from .settings import AuthSettings, is_allowed_url
from .strict_json import parse_object

FETCH_SECONDS = 5.0
MAX_DOCUMENT_BYTES = 262_144
HEADERS = {"accept": "application/json, application/jwk-set+json", "accept-encoding": "identity"}


class FetchError(Exception):
    """The issuer did not give its metadata or its keys. The text is the reason, for logs."""


class KeyFetcher:
    """Fetches the keys of an issuer. The metadata is fetched first, and again after a failure."""

    def __init__(self, settings: AuthSettings) -> None:
        self.issuer: str = settings.auth_issuer
        self.metadata: Mapping[str, Any] = {}
        self._fixed_url = settings.auth_jwks_url
        self._allow_http = settings.auth_allow_http
        self._url = self._fixed_url
        self._client: httpx.AsyncClient | None = None

    async def close(self) -> None:
        """Close the connections."""
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    async def fetch(self) -> dict[str, Any]:
        """The JWK set of the issuer. Raises `FetchError`, also after `FETCH_SECONDS`."""
        try:
            async with asyncio.timeout(FETCH_SECONDS):
                if self._url is None:
                    self._url = await self._discover()
                return await self._get(self._url)
        except TimeoutError:
            reason = f"no complete response within {FETCH_SECONDS:g} seconds"
        except FetchError as error:
            reason = str(error)
        except httpx.HTTPError as error:
            reason = f"{type(error).__qualname__}: {error}"
        self._url = self._fixed_url  # the address of the keys may be another one now
        raise FetchError(reason)

    async def _discover(self) -> str:
        """The URL of the keys, from the metadata of OpenID Connect Discovery 1.0, or else of RFC 8414."""
        parts = urlsplit(self.issuer)
        path = parts.path.rstrip("/")
        paths = (f"{path}/.well-known/openid-configuration", f"/.well-known/oauth-authorization-server{path}")
        first, second = (urlunsplit((parts.scheme, parts.netloc, place, "", "")) for place in paths)
        try:
            metadata = await self._get(first)
        except _NotFoundError:
            metadata = await self._get(second)
        if metadata.get("issuer") != self.issuer:
            raise FetchError("the metadata is that of another issuer; APP_AUTH_ISSUER must equal its member `issuer`")
        url = metadata.get("jwks_uri")
        if not isinstance(url, str) or not is_allowed_url(url, allow_http=self._allow_http, has_query=True):
            raise FetchError("the member jwks_uri of the metadata is not an https URL")
        self.metadata = metadata
        return url

    async def _get(self, url: str) -> dict[str, Any]:
        """A JSON object. Redirects and compressed responses are rejected: both could evade the limits."""
        if self._client is None:
            self._client = http_client(timeout=FETCH_SECONDS, follow_redirects=False)
        async with self._client.stream("GET", url, headers=HEADERS) as response:
            if response.status_code == httpx.codes.NOT_FOUND:
                raise _NotFoundError(f"{url} responded with 404")
            if response.status_code != httpx.codes.OK:
                raise FetchError(
                    f"{url} responded with {response.status_code}; 200 is expected, redirects are not followed"
                )
            if response.headers.get("content-encoding", "identity") != "identity":
                raise FetchError(f"{url} responded with a compressed body, which was not accepted")
            body = b""
            async for chunk in response.aiter_raw():
                body += chunk
                if len(body) > MAX_DOCUMENT_BYTES:
                    raise FetchError(f"the response of {url} is longer than {MAX_DOCUMENT_BYTES} bytes")
        try:
            return parse_object(body)
        except ValueError:
            reason = f"the response of {url} is not a JSON object"
        raise FetchError(reason)


class _NotFoundError(FetchError):
    """The issuer has no such document."""
