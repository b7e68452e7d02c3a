"""The settings of a database, a base class of those of a service."""

import ssl
from pathlib import Path
from typing import ClassVar, Literal, NamedTuple, Self
from urllib.parse import parse_qs, unquote, urlsplit

from pydantic import BaseModel, Field, SecretStr, field_validator, model_validator
from pydantic_settings import SettingsConfigDict

from ..configuration.live import Live
from .url import check_url

DEFAULT_PORT = 5432
MAX_SECONDS = 86_400  # the value in milliseconds must fit the server's settings
MAX_CONNECTIONS = 10_000  # of one process


class Address(NamedTuple):
    """The first server of a URL, and its database, for names in telemetry and messages."""

    host: str
    port: int
    database: str


class DatabaseSettings(BaseModel):
    """The settings of a PostgreSQL database, with the variables `APP_DATABASE_*`.

    class Settings(ChassisSettings, DatabaseSettings): ...

    For a second database, nest it: the URL of `replica: DatabaseSettings` is `APP_REPLICA__DATABASE_URL`. Pass
    `settings.replica` to `add_database`, with `name` and `provides`.
    """

    # Of the type that `ChassisSettings` has, so that a class can inherit both.
    model_config: ClassVar[SettingsConfigDict] = SettingsConfigDict(  # pyright: ignore[reportIncompatibleVariableOverride]
        allow_inf_nan=False, hide_input_in_errors=True
    )

    database_url: Live[SecretStr] = Field(
        description=(
            "Where the database is: `postgresql://user@host:5432/name`. With several hosts, separated by commas, add "
            "`?target_session_attrs=primary`."
        )
    )
    database_password: Live[SecretStr | None] = Field(
        None, description="Password of the user, instead of one in the URL."
    )
    database_password_file: Live[Path | None] = Field(
        None,
        description="File with the password. It is read for each new connection, so a rotation needs no restart.",
    )
    database_tls: Live[Literal["disable", "prefer", "require", "verify-ca", "verify-full"] | None] = Field(
        None,
        description="TLS, as `sslmode` of libpq. Unset: that of the URL, or `prefer`. Use `verify-full` if you can.",
    )
    database_tls_ca_file: Live[Path | None] = Field(
        None,
        description="Certificates of the authorities that `verify-*` trust. Unset: those of the system.",
    )
    database_tls_certificate_file: Live[Path | None] = Field(
        None, description="Certificate of the client, if the server wants one."
    )
    database_tls_key_file: Live[Path | None] = Field(None, description="Private key of the client's certificate.")
    database_migration_url: Live[SecretStr | None] = Field(
        None,
        description=(
            "Where migrations connect to, if it is not `APP_DATABASE_URL`: the server behind a pooler, or another user "
            "who may change tables."
        ),
    )
    database_pool_min: int = Field(
        1, ge=0, le=MAX_CONNECTIONS, description="Connections that stay open while there is nothing to do."
    )
    database_pool_max: int = Field(
        10,
        ge=1,
        le=MAX_CONNECTIONS,
        description="Maximum number of connections of one process. All pods together must fit the server.",
    )
    database_pool_wait_seconds: float = Field(
        2.0,
        gt=0,
        le=MAX_SECONDS,
        description="Longest time in seconds to wait for a connection, a new one included. Beyond it 503.",
    )
    database_statement_seconds: float = Field(
        10.0,
        gt=0,
        le=MAX_SECONDS,
        description="Longest time in seconds for one statement, within the request's deadline. Beyond it 503.",
    )
    database_connect_seconds: float = Field(
        30.0,
        gt=0,
        le=MAX_SECONDS,
        description="Seconds in which the first connection must succeed. Beyond it the start fails.",
    )
    database_check_seconds: float = Field(
        1.0, gt=0, le=MAX_SECONDS, description="Timeout of the readiness check in seconds."
    )
    database_slow_query_seconds: float = Field(
        0.5, gt=0, le=MAX_SECONDS, description="Queries that take longer, in seconds, are logged."
    )
    database_pooler: bool = Field(
        False,
        description=(
            "Whether a pooler such as PgBouncer is in front, in transaction mode. Statements are not cached, and the "
            "session gets no settings."
        ),
    )

    @field_validator("database_url", "database_migration_url")
    @classmethod
    def _check_url(cls, url: SecretStr | None) -> SecretStr | None:
        if url is None:
            return None
        check_url(url.get_secret_value())
        return SecretStr(url.get_secret_value().replace("postgresql+asyncpg:", "postgresql:", 1))

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        smallest, largest = self.database_pool_min, self.database_pool_max
        if smallest > largest:
            raise ValueError(f"database_pool_min is {smallest}, more than database_pool_max, {largest}; lower it")
        if (self.database_tls_key_file is None) != (self.database_tls_certificate_file is None):
            raise ValueError("set database_tls_certificate_file and database_tls_key_file together")
        files = self.database_tls_ca_file or self.database_tls_certificate_file
        if files is not None and self.database_tls in (None, "prefer"):
            raise ValueError(
                f"database_tls is {self.database_tls or 'not set'}, so {files} is not used; set it to verify-full"
            )
        return self

    @property
    def database_address(self) -> Address:
        """The first server, and the name of the database."""
        parts = urlsplit(self.database_url.get_secret_value())
        host, _, port = parts.netloc.rpartition("@")[2].split(",")[0].rpartition(":")
        if not host or port.endswith("]"):  # no port
            host, port = f"{host}:{port}" if host else port, ""
        query = parse_qs(parts.query)
        host = unquote(host).strip("[]") or query.get("host", ["localhost"])[0]
        port = port or query.get("port", [""])[0]
        return Address(host, int(port) if port.isdigit() else DEFAULT_PORT, unquote(parts.path.lstrip("/")))

    def read_database_password(self) -> str | None:
        """The password as it is now; None for that of the URL. Raises `OSError` if its file cannot be read."""
        if self.database_password_file is not None:
            return self.database_password_file.read_text(encoding="utf-8").rstrip("\r\n")
        return None if self.database_password is None else self.database_password.get_secret_value()

    def make_database_tls(self) -> ssl.SSLContext | str | None:
        """The value of asyncpg's `ssl`. Files are read again at each call. Raises `OSError` if one cannot be read."""
        if self.database_tls not in ("require", "verify-ca", "verify-full"):
            return self.database_tls
        context = ssl.create_default_context(cafile=self.database_tls_ca_file)
        context.check_hostname = self.database_tls == "verify-full"
        if self.database_tls == "require":
            context.verify_mode = ssl.CERT_NONE
        if self.database_tls_certificate_file is not None:
            context.load_cert_chain(self.database_tls_certificate_file, self.database_tls_key_file)
        return context
