"""Settings from the environment (`APP_*`), a `.env` file in development, and mounted secret files."""

import os
import re
import sys
from typing import Any, Literal, NoReturn, TypeVar

from pydantic import Field, ValidationError, ValidationInfo, field_validator
from pydantic_settings import SettingsError

from .configuration.acceptance import rejection_reason
from .configuration.errors import explain
from .configuration.live import Live, LiveIfSet
from .configuration.schema import Schema
from .configuration.sources import ConfigurationError, read
from .port_settings import PortSettings
from .threads import DEFAULT_THREADS

ORIGIN = re.compile(
    r"(?P<scheme>[a-z][a-z0-9+.-]*)://(?:[a-z0-9._-]+|\[[0-9a-f:.]+\])(?::(?P<port>[0-9]{1,5}))?", re.ASCII
)
DEFAULT_PORTS = {"http": "80", "https": "443"}
FIELD_NAME = re.compile(r"[A-Za-z0-9-]+")


class ChassisSettings(PortSettings):
    """The settings that every service has. Add yours in a subclass.

    The sources of a setting, the first one that has it wins:

    1. the environment: `APP_<SETTING>`;
    2. `.env` in the working directory;
    3. a file `app_<setting>` in the directory `APP_SECRETS_DIR`;
    4. the default.

    Names are case-insensitive. An empty value counts as not set, for text as well.

    A list of plain values is separated by commas, or is JSON. The members of a nested model are settings too: the
    `port` of `database: Database` is `APP_DATABASE__PORT`.
    """

    development: bool = Field(
        False,
        description=(
            "Whether the service runs on a developer's machine. Then it has an admin port with the console, by default "
            "`APP_PORT` + 1000. The console shows the spans of every request."
        ),
    )
    log_level: Live[Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"]] = Field(
        "INFO", description="Lowest level that is logged, such as `DEBUG` or `WARNING`."
    )
    log_format: Literal["auto", "json", "console"] = Field(
        "auto", description="Format of log lines: `json`, `console`, or `auto` (console on a terminal, else JSON)."
    )
    log_redact: tuple[str, ...] = Field(
        (),
        description="More keys to redact in logs, separated by commas. Passwords, tokens and cookies always are.",
    )
    log_buffer_bytes: int = Field(
        8_388_608,
        ge=65_536,
        description="Bytes of log lines to buffer while standard output is blocked. Further lines are dropped.",
    )
    trace_admin: bool = Field(
        False, description="Whether requests for health, readiness, metrics and info get spans in sampled traces."
    )
    commit: str = Field("unknown", description="Commit of the build, shown by `/info` and the metric `build_info`.")
    max_body_bytes: Live[int] = Field(
        1_048_576, ge=0, description="Maximum bytes of a request body. Larger bodies get 413."
    )
    max_requests: Live[int | None] = Field(
        None,
        ge=1,
        description=(
            "Maximum number of requests in flight. Excess requests get 503. "
            "Unset: requests are shed only when the CPU is overloaded."
        ),
    )
    threads: Live[int] = Field(
        DEFAULT_THREADS,
        ge=1,
        description=(
            "Maximum number of threads for `def` handlers. "
            "When all are busy, requests wait up to one second, then get 503."
        ),
    )
    queue_seconds: Live[float] = Field(
        0.02, gt=0, description="Longest time in seconds a request may queue for CPU under overload. Beyond it 503."
    )
    deadline_seconds: Live[float] = Field(
        30.0,
        gt=0,
        description="Seconds until a response must start. Beyond it the handler is cancelled and the client gets 504.",
    )
    rate_limit_requests: LiveIfSet[int | None] = Field(
        None,
        ge=1,
        description=(
            "Requests that each caller may send in `APP_RATE_LIMIT_SECONDS`. Further requests get 429. Unset: no limit."
        ),
    )
    rate_limit_seconds: Live[float] = Field(
        60.0, gt=0, description="Seconds for which `APP_RATE_LIMIT_REQUESTS` counts."
    )
    rate_limit_burst: Live[int | None] = Field(
        None,
        ge=1,
        description="Requests that a caller may send at once. Unset: `APP_RATE_LIMIT_REQUESTS`.",
    )
    cors_origins: tuple[str, ...] = Field(
        (),
        description=(
            "Origins whose scripts may use the service, such as `https://shop.example`, separated by commas. "
            "`*` means all."
        ),
    )
    cors_credentials: bool = Field(
        False, description="Whether these scripts may send cookies. Not possible with the origin `*`."
    )
    cors_methods: tuple[str, ...] = Field(
        ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"),
        description="HTTP methods that these scripts may use, separated by commas.",
    )
    cors_headers: tuple[str, ...] = Field(
        (
            "authorization",
            "content-type",
            "idempotency-key",
            "if-match",
            "if-none-match",
            "last-event-id",
            "traceparent",
            "tracestate",
            "x-api-key",
            "x-request-id",
        ),
        description="Request headers that these scripts may send, separated by commas.",
    )
    cors_exposed_headers: tuple[str, ...] = Field(
        (
            "content-disposition",
            "etag",
            "idempotency-replayed",
            "link",
            "location",
            "ratelimit",
            "ratelimit-policy",
            "retry-after",
            "www-authenticate",
            "x-request-id",
        ),
        description="Response headers that these scripts may read, separated by commas.",
    )
    cors_max_age_seconds: int = Field(
        600, ge=0, description="Seconds for which browsers cache the response to a CORS preflight."
    )
    readiness_cache_seconds: float = Field(
        1.0, ge=0, description="Seconds for which the result of a readiness check is cached."
    )
    drain_seconds: float = Field(
        5.0,
        ge=0,
        description=(
            "Seconds after SIGTERM in which requests are still served, "
            "while load balancers stop routing to this instance."
        ),
    )
    shutdown_seconds: float = Field(
        20.0, ge=0, description="Seconds after the drain for requests and background tasks in flight to finish."
    )

    fault_injection_namespace: str | None = Field(
        None,
        description=(
            "Kubernetes namespace in which `APP_FAULT_INJECTION` is accepted. Outside of Kubernetes: `local`."
        ),
    )
    fault_injection: bool = Field(
        False,
        description=(
            "Whether faults can be injected at `/faults` of the admin port, for tests and staging. "
            "It needs `APP_FAULT_INJECTION_NAMESPACE` and `APP_ADMIN_PORT`."
        ),
    )

    @field_validator("rate_limit_burst")
    @classmethod
    def _burst_of_a_limit(cls, value: int | None, info: ValidationInfo) -> int | None:
        if value is not None and info.data.get("rate_limit_requests", 1) is None:
            raise ValueError("set APP_RATE_LIMIT_REQUESTS too")
        return value

    @field_validator("fault_injection")
    @classmethod
    def _accepted_and_not_public(cls, value: bool, info: ValidationInfo) -> bool:
        if value and info.data.get("fault_injection_namespace", "") is None:
            raise ValueError("set APP_FAULT_INJECTION_NAMESPACE too, to the namespace in which it is accepted")
        if value and info.data.get("admin_port", 0) is None:
            raise ValueError("set APP_ADMIN_PORT too, because faults must not be switched on the public port")
        return value

    @field_validator("cors_origins")
    @classmethod
    def _origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if "*" in value and len(value) > 1:
            raise ValueError("* is all origins; remove it, or the others")
        return tuple(origin if origin == "*" else parse_origin(origin) for origin in value)

    @field_validator("cors_credentials")
    @classmethod
    def _not_for_all_origins(cls, value: bool, info: ValidationInfo) -> bool:
        if value and "*" in info.data.get("cors_origins", ()):
            raise ValueError("not possible with APP_CORS_ORIGINS=*, because every page could act as its visitor")
        return value

    @field_validator("cors_methods")
    @classmethod
    def _methods(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(_name(method, "a method").upper() for method in value)

    @field_validator("cors_headers", "cors_exposed_headers")
    @classmethod
    def _fields(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(_name(header, "a header").lower() for header in value)

    @field_validator("log_level", mode="before")
    @classmethod
    def _upper(cls, value: Any) -> Any:
        return value.upper() if isinstance(value, str) else value


def parse_origin(text: str) -> str:
    """An origin as browsers send it: `scheme://host` or `scheme://host:port`. Raises `ValueError` for anything else."""
    origin = text.strip().lower()
    match = ORIGIN.fullmatch(origin)
    if match is None:
        raise ValueError(f"{text!r} is not scheme://host or scheme://host:port, without a path")
    if match["port"] is not None and DEFAULT_PORTS.get(match["scheme"]) == match["port"]:
        raise ValueError(f"{text!r} has the default port, which browsers leave out; remove :{match['port']}")
    return origin


def _name(text: str, meaning: str) -> str:
    if FIELD_NAME.fullmatch(text) is None:
        raise ValueError(f"{text!r} is not {meaning}; list each name, because * is not allowed")
    return text


Settings = TypeVar("Settings", bound=ChassisSettings)


def load_settings(settings: type[Settings], *, warns: bool = True) -> Settings:
    """Read the settings, or exit with status 2 and a line on standard error for each invalid value.

    The line names the variable, its value (unless it is a secret) and the allowed values. An unknown variable with the
    prefix `APP_` is ignored with a warning, because other tools may use the prefix too. `warns=False` is for programs
    that need only some of the settings of a service.
    """
    schema = Schema(settings)
    try:
        given = read(settings, schema)
    except ConfigurationError as error:
        exit_with_errors(*error.lines)
    for line in given.warnings if warns else ():
        sys.stderr.write(f"warning: {line}\n")
    try:
        loaded = settings.from_given(given)
    except ValidationError as error:
        exit_with_errors(*explain(error, schema, given))
    except SettingsError as error:
        exit_with_errors(str(error))
    if loaded.fault_injection and (reason := rejection_reason(loaded.fault_injection_namespace or "", os.environ)):
        exit_with_errors(reason)
    return loaded


def settings_table(settings: type[ChassisSettings]) -> list[str]:
    """A Markdown table of the settings, nested ones included: variable, default, description. Returns its rows."""
    return [row for _, row in Schema(settings).rows()]


def exit_with_errors(*lines: str) -> NoReturn:
    """Exit with status 2. Each of `lines` is an error in the configuration, and is written to standard error."""
    for line in lines:
        sys.stderr.write(f"error: {line}\n")
    sys.exit(2)
