"""The settings of a database, to nest in those of a service."""

import ssl
from pathlib import Path
from typing import ClassVar, Literal, NamedTuple, Self
from urllib.parse import parse_qs, unquote, urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator

DEFAULT_PORT = 5432
SCHEMES = ("postgresql", "postgres")


class Address(NamedTuple):
    """The first server of a URL, and its database, for names in telemetry and messages."""

    host: str
    port: int
    database: str


class DatabaseSettings(BaseModel):
    """The settings of a PostgreSQL database.

    class Settings(ChassisSettings):
        database: DatabaseSettings
    """

    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True, allow_inf_nan=False, hide_input_in_errors=True)

    url: SecretStr = Field(
        description=(
            "Where the database is: `postgresql://user@host:5432/name`. With several hosts, separated by commas, add "
            "`?target_session_attrs=primary`."
        )
    )
    password: SecretStr | None = Field(None, description="Password of the user, instead of one in the URL.")
    password_file: Path | None = Field(
        None,
        description="File with the password. It is read for each new connection, so a rotation needs no restart.",
    )
    tls: Literal["disable", "prefer", "require", "verify-ca", "verify-full"] | None = Field(
        None,
        description="TLS, as `sslmode` of libpq. Unset: that of the URL, or `prefer`. Use `verify-full` if you can.",
    )
    tls_ca_file: Path | None = Field(
        None,
        description="Certificates of the authorities that `verify-*` trust. Unset: those of the system.",
    )
    tls_certificate_file: Path | None = Field(None, description="Certificate of the client, if the server wants one.")
    tls_key_file: Path | None = Field(None, description="Private key of the client's certificate.")
    pool_min: int = Field(1, ge=0, description="Connections that stay open while there is nothing to do.")
    pool_max: int = Field(
        10, ge=1, description="Maximum number of connections of one process. All pods together must fit the server."
    )
    pool_wait_seconds: float = Field(
        2.0, gt=0, description="Longest time in seconds to wait for a connection, a new one included. Beyond it 503."
    )
    statement_seconds: float = Field(
        10.0,
        gt=0,
        description="Longest time in seconds for one statement, within the request's deadline. Beyond it 503.",
    )
    connect_seconds: float = Field(
        30.0, gt=0, description="Seconds in which the first connection must succeed. Beyond it the start fails."
    )
    check_seconds: float = Field(1.0, gt=0, description="Timeout of the readiness check in seconds.")
    slow_query_seconds: float = Field(0.5, gt=0, description="Queries that take longer, in seconds, are logged.")
    pooler: bool = Field(
        False,
        description=(
            "Whether a pooler such as PgBouncer is in front, in transaction mode. Statements are not cached, and the "
            "session gets no settings."
        ),
    )

    @field_validator("url")
    @classmethod
    def _check_url(cls, url: SecretStr) -> SecretStr:
        parts = urlsplit(url.get_secret_value())
        if parts.scheme not in SCHEMES:
            raise ValueError("must begin with postgresql://, such as postgresql://user@host:5432/name")
        return url

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        if self.pool_min > self.pool_max:
            raise ValueError(f"pool_min is {self.pool_min}, more than pool_max, {self.pool_max}; lower it")
        if (self.tls_key_file is None) != (self.tls_certificate_file is None):
            raise ValueError("set tls_certificate_file and tls_key_file together")
        files = self.tls_ca_file or self.tls_certificate_file
        if files is not None and self.tls not in ("require", "verify-ca", "verify-full"):
            raise ValueError(f"tls is {self.tls or 'not set'}, so {files} is not used; set tls to verify-full")
        return self

    @property
    def address(self) -> Address:
        """The first server, and the name of the database."""
        parts = urlsplit(self.url.get_secret_value())
        host, _, port = parts.netloc.rpartition("@")[2].split(",")[0].rpartition(":")
        if not host or port.endswith("]"):  # no port
            host, port = f"{host}:{port}" if host else port, ""
        query = parse_qs(parts.query)
        host = unquote(host).strip("[]") or query.get("host", ["localhost"])[0]
        port = port or query.get("port", [""])[0]
        return Address(host, int(port) if port.isdigit() else DEFAULT_PORT, unquote(parts.path.lstrip("/")))

    def read_password(self) -> str | None:
        """The password as it is now; None for that of the URL. Raises `OSError` if its file cannot be read."""
        if self.password_file is not None:
            return self.password_file.read_text(encoding="utf-8").rstrip("\r\n")
        return None if self.password is None else self.password.get_secret_value()

    def make_tls(self) -> ssl.SSLContext | str | None:
        """The value of asyncpg's `ssl`. Files are read again at each call. Raises `OSError` if one cannot be read."""
        if self.tls not in ("require", "verify-ca", "verify-full"):
            return self.tls
        context = ssl.create_default_context(cafile=self.tls_ca_file)
        context.check_hostname = self.tls == "verify-full"
        if self.tls == "require":
            context.verify_mode = ssl.CERT_NONE
        if self.tls_certificate_file is not None:
            context.load_cert_chain(self.tls_certificate_file, self.tls_key_file)
        return context
