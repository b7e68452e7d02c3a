"""The settings of authentication, a base class of those of a service."""

from pathlib import Path
from typing import ClassVar, Literal, Self, get_args
from urllib.parse import urlsplit

from pydantic import BaseModel, Field, field_validator, model_validator
from pydantic_settings import SettingsConfigDict

from .api_keys import read_api_keys

LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
MAX_SECONDS = 86_400
Algorithm = Literal["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA", "Ed25519"]
ALGORITHMS: tuple[str, ...] = get_args(Algorithm)


class AuthSettings(BaseModel):
    """The settings of the tokens and API keys that a service accepts, with the variables `APP_AUTH_*`.

    class Settings(ChassisSettings, AuthSettings): ...
    """

    # Of the type that `ChassisSettings` has, so that a class can inherit both.
    model_config: ClassVar[SettingsConfigDict] = SettingsConfigDict(  # pyright: ignore[reportIncompatibleVariableOverride]
        allow_inf_nan=False, hide_input_in_errors=True
    )

    auth_issuer: str = Field(
        description="Issuer of the tokens, an `https` URL as in their claim `iss`: `https://login.example/realms/shop`."
    )
    auth_audience: tuple[str, ...] = Field(
        description="Audience: the name of this API at the issuer. Several are separated by commas; a token needs one."
    )
    auth_algorithms: tuple[Algorithm, ...] = Field(
        ("RS256", "PS256", "ES256", "EdDSA"),
        description="Algorithms of signatures that are accepted, separated by commas. Only those with public keys.",
    )
    auth_token_types: tuple[str, ...] = Field(
        ("at+jwt",),
        description=(
            "Types (`typ`) of tokens that are accepted: `at+jwt` by RFC 9068. Add `JWT` for issuers that do not follow "
            "it, such as Keycloak and Entra ID."
        ),
    )
    auth_leeway_seconds: float = Field(
        30.0, ge=0, le=300, description="Difference in seconds that the clocks of issuer and service may have."
    )
    auth_jwks_url: str | None = Field(
        None, description="URL of the public keys. Unset: the issuer's metadata (`/.well-known/…`) names it."
    )
    auth_allow_http: bool = Field(
        False, description="Whether URLs of the issuer may be `http` on other hosts than this one. For test clusters."
    )
    auth_scope_claim: str = Field(
        "scope", min_length=1, description="Claim with the scopes, a text or a list. Entra ID has `scp`."
    )
    auth_roles_claim: str = Field(
        "roles", min_length=1, description="Claim with the roles, such as `realm_access.roles` for Keycloak."
    )
    auth_keys_seconds: float = Field(
        300.0, ge=1, le=MAX_SECONDS, description="Seconds after which the public keys are fetched again."
    )
    auth_keys_cooldown_seconds: float = Field(
        10.0,
        ge=1,
        le=MAX_SECONDS,
        description="Seconds in which unknown key ids cause at most one fetch. Other such tokens get 401 meanwhile.",
    )
    auth_token_cache: int = Field(
        10_000, ge=0, le=1_000_000, description="Maximum number of verified tokens that are cached until they expire."
    )
    auth_api_keys_file: Path | None = Field(
        None, description="File with the hashes of API keys. It is read again when it changes. Unset: no API keys."
    )
    auth_docs_client_id: str | None = Field(
        None, description="Public client at the issuer for the login in `/docs`. Unset: `/docs` has no login."
    )

    @field_validator("auth_audience", "auth_algorithms", "auth_token_types")
    @classmethod
    def _check_not_empty(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        if not values or not all(values):
            raise ValueError("must have one or more values, and none of them empty")
        return values

    @field_validator("auth_api_keys_file")
    @classmethod
    def _check_api_keys(cls, path: Path | None) -> Path | None:
        """Read the file once, so that a malformed line stops the start with one line, as other wrong settings do."""
        if path is not None:
            read_api_keys(path)
        return path

    @model_validator(mode="after")
    def _check_urls(self) -> Self:
        for name, url in (("auth_issuer", self.auth_issuer), ("auth_jwks_url", self.auth_jwks_url)):
            if url is not None and not is_allowed_url(url, allow_http=self.auth_allow_http):
                raise ValueError(
                    f"{name} must be an https URL without user, query and fragment, such as https://login.example; "
                    "http is allowed for localhost, and with auth_allow_http"
                )
        return self


def is_allowed_url(url: str, *, allow_http: bool, has_query: bool = False) -> bool:
    """Whether keys and metadata may come from a URL: `https`, or `http` where that is allowed."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port  # raises for a port that is not a number
    except ValueError:
        return False
    if not host or parts.username is not None or parts.fragment or (parts.query and not has_query):
        return False
    if not url.isascii() or not url.isprintable() or " " in url:
        return False
    return parts.scheme == "https" or (parts.scheme == "http" and (allow_http or host in LOOPBACK))
