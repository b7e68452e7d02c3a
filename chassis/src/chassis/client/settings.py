"""`ClientSettings`: the address of another service, and how it is called."""

from ipaddress import ip_network
from typing import ClassVar
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator

from ..configuration.live import Live
from .origin import DEFAULT_PORTS
from .resolver import parse_address


class ClientSettings(BaseModel):
    """How one other service is called. A field of the service's settings, so that variables can change each value.

    class Settings(ChassisSettings):
        catalogue: ClientSettings = ClientSettings(base_url="http://catalogue")

    Its total timeout is then `APP_CATALOGUE__TIMEOUT_SECONDS`. The defaults are safe for calls inside of a cluster.
    """

    model_config: ClassVar[ConfigDict] = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, hide_input_in_errors=True
    )

    base_url: str = Field(description="Base URL: `http` or `https`, a host, and optionally a port and a path.")
    replicas: tuple[str, ...] = Field(
        default=(),
        description=(
            "Addresses (`host:port`) of the replicas, separated by commas. Unset: all addresses of the host's name."
        ),
    )
    near: tuple[str, ...] = Field(
        default=(), description="Networks of this zone, separated by commas. Their replicas are preferred."
    )
    resolve_seconds: float = Field(
        default=5.0, gt=0, le=3600, description="Seconds between two lookups of the host's name."
    )
    timeout_seconds: Live[float] = Field(
        default=2.0,
        gt=0,
        le=3600,
        description="Seconds that a call may take, with its retries and its body. Beyond it 504.",
    )
    attempt_timeout_seconds: Live[float | None] = Field(
        default=None, gt=0, le=3600, description="Seconds of one attempt. Unset: half of `timeout_seconds`."
    )
    connect_timeout_seconds: float = Field(
        default=0.25, gt=0, le=60, description="Seconds to open a connection. Beyond it, another replica is tried."
    )
    max_attempts: Live[int] = Field(
        default=3, ge=1, le=10, description="Attempts of a call, the first one and hedges included."
    )
    retry_ratio: Live[float] = Field(
        default=0.1, ge=0, le=1, description="Retries and hedges as a share of the calls. A few are always allowed."
    )
    backoff_seconds: Live[float] = Field(
        default=0.025, gt=0, le=10, description="Upper bound of the random delay before the first retry. It doubles."
    )
    hedge: Live[bool] = Field(
        default=True, description="Whether a read that is slower than 95 % of the calls is sent again."
    )
    max_in_progress: Live[int] = Field(
        default=100, ge=1, le=100_000, description="Calls in progress. Further calls wait."
    )
    max_waiting: Live[int] = Field(default=100, ge=0, le=100_000, description="Calls that wait. Beyond it 503.")
    wait_seconds: Live[float] = Field(
        default=0.1, ge=0, le=60, description="Seconds that a call may wait to begin. Beyond it 503."
    )
    breaker_ratio: Live[float] = Field(
        default=0.5, gt=0, le=1, description="Share of failed attempts that opens the circuit breaker. `1`: never."
    )
    breaker_seconds: Live[float] = Field(
        default=5.0, gt=0, le=600, description="Seconds that the circuit breaker stays open before it tries again."
    )
    max_response_bytes: Live[int] = Field(
        default=10_485_760, ge=1, description="Maximum bytes of a response's body. Streamed responses have no limit."
    )
    idle_seconds: float = Field(
        default=30.0, gt=0, le=3600, description="Seconds that a connection without a request stays open."
    )
    http2: bool = Field(default=False, description="Whether HTTP/2 is used over TLS. It needs `httpx[http2]`.")
    ca_file: str | None = Field(
        default=None, description="PEM file of the certificates to trust. Unset: those of the system."
    )
    trust_env: bool = Field(default=False, description="Whether `HTTP_PROXY`, `HTTPS_PROXY` and `NO_PROXY` are used.")
    faults: bool = Field(default=False, description="Whether faults can be injected into calls, for tests and staging.")

    @field_validator("base_url")
    @classmethod
    def _check_base_url(cls, value: str) -> str:
        url = urlsplit(value)
        try:
            is_valid = url.scheme in ("http", "https") and bool(url.hostname) and url.port != 0
        except ValueError:  # the port is no number, or too large
            is_valid = False
        if not is_valid or url.query or url.fragment:
            raise ValueError("must be a URL such as http://catalogue:8000, with http or https and without a query")
        if url.username is not None:
            raise ValueError("must not have a user or a password; send them in a header")
        return value

    @field_validator("replicas")
    @classmethod
    def _check_replicas(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        for value in values:
            parse_address(value, DEFAULT_PORTS["http"])  # raises ValueError, with a text that names the value
        return values

    @field_validator("near")
    @classmethod
    def _check_near(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        for value in values:
            ip_network(value)  # raises ValueError, with a text that names the value
        return values
