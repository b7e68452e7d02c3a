"""The settings of events, a base class of those of a service."""

import ssl
from pathlib import Path
from typing import Any, ClassVar, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, Field, SecretStr, field_validator, model_validator
from pydantic_settings import SettingsConfigDict

from ..configuration.live import Live

DEFAULT_PORT = 4222
MAX_SECONDS = 86_400
SCHEMES = ("nats://", "tls://")
HINT = "encode / # ? @ in the password, or use APP_NATS_PASSWORD"


class NatsSettings(BaseModel):
    """The settings of a NATS server, with the variables `APP_NATS_*`.

    class Settings(ChassisSettings, NatsSettings): ...
    """

    # Of the type that `ChassisSettings` has, so that a class can inherit both.
    model_config: ClassVar[SettingsConfigDict] = SettingsConfigDict(  # pyright: ignore[reportIncompatibleVariableOverride]
        allow_inf_nan=False, hide_input_in_errors=True
    )

    nats_url: SecretStr = Field(
        description="Where NATS is: `nats://host:4222`, or `tls://…`. Separate several servers with commas."
    )
    nats_user: Live[str | None] = Field(None, description="User name at the NATS server, instead of one in the URL.")
    nats_password: Live[SecretStr | None] = Field(None, description="Password of the user at the NATS server.")
    nats_password_file: Live[Path | None] = Field(
        None,
        description="File with the password. It is read for each new connection, so a rotation needs no restart.",
    )
    nats_token: Live[SecretStr | None] = Field(None, description="Token for the NATS server, instead of a user.")
    nats_credentials_file: Live[Path | None] = Field(
        None, description="File with the JWT and the seed of a user (`.creds`), instead of a password or a token."
    )
    nats_tls_ca_file: Path | None = Field(
        None, description="Certificates of the authorities that are trusted. Unset: those of the system."
    )
    nats_tls_certificate_file: Path | None = Field(
        None, description="Certificate of the client, if the NATS server wants one."
    )
    nats_tls_key_file: Path | None = Field(None, description="Private key of the client's certificate for NATS.")
    nats_connect_seconds: float = Field(
        30.0,
        gt=0,
        le=MAX_SECONDS,
        description="Seconds in which the first connection to NATS must succeed. Beyond it the start fails.",
    )
    nats_publish_seconds: float = Field(
        5.0,
        gt=0,
        le=MAX_SECONDS,
        description="Longest time in seconds until an event is acknowledged by its stream. Beyond it 503.",
    )
    nats_check_seconds: float = Field(
        1.0, gt=0, le=MAX_SECONDS, description="Timeout of the readiness check of NATS in seconds."
    )

    @field_validator("nats_url")
    @classmethod
    def _check_nats_url(cls, url: SecretStr) -> SecretStr:
        servers = _servers(url)
        if not servers or not all(server.startswith(SCHEMES) for server in servers):
            raise ValueError("must begin with nats:// or tls://, such as nats://host:4222")
        for server in servers:
            _check_address(server)
        return url

    @model_validator(mode="after")
    def _check_nats_together(self) -> Self:
        if (self.nats_tls_key_file is None) != (self.nats_tls_certificate_file is None):
            raise ValueError("set nats_tls_certificate_file and nats_tls_key_file together")
        has_password = self.nats_password is not None or self.nats_password_file is not None
        if has_password != (self.nats_user is not None):
            raise ValueError("set nats_user together with nats_password or nats_password_file")
        given = {
            "nats_user": has_password,
            "nats_token": self.nats_token is not None,
            "nats_credentials_file": self.nats_credentials_file is not None,
        }
        names = [name for name, is_given in given.items() if is_given]
        if len(names) > 1:
            raise ValueError(f"{' and '.join(names)} are set; keep one of them")
        return self

    @property
    def nats_servers(self) -> list[str]:
        """The URLs of the servers. They may contain a password."""
        return _servers(self.nats_url)

    @property
    def nats_address(self) -> tuple[str, int]:
        """Host and port of the first server, for names in telemetry and messages."""
        parts = urlsplit(self.nats_servers[0])
        return parts.hostname or "localhost", parts.port or DEFAULT_PORT

    def make_nats_options(self) -> dict[str, Any]:
        """The options of nats-py for authentication and TLS. Raises `OSError` if a file cannot be read."""
        options: dict[str, Any] = {}
        if self.nats_user is not None:
            options |= {"user": self.nats_user, "password": self._read_nats_password}
        if self.nats_token is not None:
            options["token"] = self.nats_token.get_secret_value()
        if self.nats_credentials_file is not None:
            options["user_credentials"] = str(self.nats_credentials_file)
        is_secure = any(urlsplit(server).scheme == "tls" for server in self.nats_servers)
        if is_secure or self.nats_tls_ca_file is not None or self.nats_tls_certificate_file is not None:
            context = ssl.create_default_context(cafile=self.nats_tls_ca_file)
            if self.nats_tls_certificate_file is not None:
                context.load_cert_chain(self.nats_tls_certificate_file, self.nats_tls_key_file)
            options["tls"] = context
        return options

    def _read_nats_password(self) -> str:
        if self.nats_password_file is not None:
            return self.nats_password_file.read_text(encoding="utf-8").rstrip("\r\n")
        return "" if self.nats_password is None else self.nats_password.get_secret_value()


def _servers(url: SecretStr) -> list[str]:
    return [server.strip() for server in url.get_secret_value().split(",") if server.strip()]


def _check_address(server: str) -> None:
    """Raises `ValueError`, whose text has no part of the URL: what is taken for the port may be a password."""
    wrong_port = ValueError(f"the port is not a number from 1 to 65535; {HINT}")
    try:
        parts = urlsplit(server)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise wrong_port from None
    if port == 0:
        raise wrong_port
    if not host:
        raise ValueError(f"has no host; write nats://host:4222, and {HINT}")
    if parts.path.strip("/") or parts.query or parts.fragment:
        raise ValueError(f"has more than a host and a port; {HINT}")
