"""`AuthSettings`: the settings of authentication."""

from pathlib import Path

from pydantic import BaseModel, Field


class AuthSettings(BaseModel):
    """A mixin: `class Settings(ChassisSettings, AuthSettings)`."""

    auth_issuer: str = Field(description="The URL of the OpenID provider.")
    auth_audience: list[str] = Field(description="Tokens are for one of these.")
    auth_docs_client_id: str | None = Field(None, description="The public client for Authorize in `/docs`.")
    auth_api_keys_file: Path | None = Field(None, description="The file with hashed API keys.")
