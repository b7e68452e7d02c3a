"""`PortSettings`: the settings of ports, of the processes that share them, and of their connections."""

import re
from typing import Annotated, Literal

from pydantic import Field, SecretStr, ValidationInfo, field_validator

from .configuration.given_settings import GivenSettings
from .configuration.live import Live, LiveIfSet
from .http.addresses import parse_network

MAX_WORKERS = 128
TOKEN = re.compile(r"[A-Za-z0-9._~+/=-]{16,}")


class PortSettings(GivenSettings):
    """The settings of ports, workers and connections: a part of `ChassisSettings`."""

    host: str = Field(
        "::",
        min_length=1,
        description="Addresses to listen on, separated by commas. `::` means all IPv6 and IPv4 addresses.",
    )
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on. `0` picks a free port.")
    unix_socket: str | None = Field(
        None, description="Path of a Unix socket to listen on, instead of `APP_HOST` and `APP_PORT`."
    )
    admin_port: int | None = Field(
        None,
        ge=0,
        le=65535,
        description=(
            "Port for operators, health, readiness, metrics and info. Unset: `APP_PORT` serves the last four."
        ),
    )
    admin_token: LiveIfSet[SecretStr | None] = Field(
        None,
        description=(
            "Token that operators send to the admin port, as `Authorization: Bearer <token>`. Unset: operators must "
            "connect from inside of the pod. Health, readiness, metrics and info need none."
        ),
    )
    workers: Annotated[int, Field(ge=1, le=MAX_WORKERS)] | Literal["auto"] = Field(
        1,
        description=(
            f"Number of worker processes that share the port, from 1 to {MAX_WORKERS}. "
            "`auto` is the CPU limit in whole cores. Several need `APP_ADMIN_PORT`."
        ),
    )
    worker_max_memory_bytes: int | None = Field(
        None,
        ge=1,
        description="Resident memory above which a worker is replaced gracefully. Only with several workers.",
    )
    worker_start_seconds: float = Field(
        120.0,
        gt=0,
        description=(
            "Longest start of a worker, once the service has been ready. Beyond it the worker is killed and started "
            "again. Only with several workers."
        ),
    )
    trusted_proxies: tuple[str, ...] = Field(
        (),
        description=(
            "Addresses or networks of proxies whose `X-Forwarded-For`, `-Proto` and `-Prefix` are trusted, "
            "separated by commas. `*` trusts all."
        ),
    )
    max_connections: Live[int] = Field(
        10_000, ge=1, description="Maximum number of open connections. Further connections get 503 and are closed."
    )
    max_connection_age_seconds: Live[float] = Field(
        120.0,
        gt=0,
        description="Seconds (±10 %) after which a response closes its connection, so that new replicas get traffic.",
    )
    max_requests_per_connection: Live[int] = Field(
        10_000, ge=1, description="Maximum number of requests per connection. The last response closes it."
    )
    max_target_bytes: Live[int] = Field(
        8_192, ge=1, description="Maximum bytes of the request target (path and query). Longer ones get 414."
    )
    max_head_bytes: Live[int] = Field(
        32_768, ge=1, description="Maximum bytes of the request line and headers together. Larger ones get 431."
    )
    head_seconds: Live[float] = Field(
        10.0,
        gt=0,
        description="Seconds for the headers of a request to arrive. Beyond it 408.",
    )
    body_seconds: Live[float] = Field(
        10.0,
        gt=0,
        description=(
            "Seconds over which the transfer rate of a body or response is measured. "
            "Slow clients get 408 or are disconnected."
        ),
    )
    min_bytes_per_second: Live[int] = Field(
        500, ge=0, description="Minimum rate at which clients must send a body and read a response."
    )
    keep_alive_seconds: Live[int] = Field(
        75,
        ge=1,
        description=(
            "Seconds after which an idle connection is closed. "
            "Keep it longer than the idle timeout of the load balancer."
        ),
    )

    @field_validator("trusted_proxies")
    @classmethod
    def _networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(proxy if proxy == "*" else str(parse_network(proxy)) for proxy in value)

    @field_validator("admin_port")
    @classmethod
    def _other_than_the_public_one(cls, value: int | None, info: ValidationInfo) -> int | None:
        if value and value == info.data.get("port") and info.data.get("unix_socket") is None:
            raise ValueError("APP_PORT is the same port; use another one, because operators' endpoints are not public")
        return value

    @field_validator("workers")
    @classmethod
    def _with_an_admin_port(cls, value: int | str, info: ValidationInfo) -> int | str:
        if value != 1 and info.data.get("admin_port", 0) is None:
            raise ValueError("set APP_ADMIN_PORT too, because only the admin port can report on all workers")
        return value

    @field_validator("admin_token")
    @classmethod
    def _long_token(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and TOKEN.fullmatch(value.get_secret_value()) is None:
            raise ValueError(
                "use at least 16 letters, digits or - . _ ~ + / =, without spaces, such as from: openssl rand -hex 32"
            )
        return value
