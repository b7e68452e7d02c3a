"""Settings from the environment (`APP_*`), a `.env` file in development, and mounted secret files."""

import sys
from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any, ClassVar, Literal, NoReturn, Self, TypeVar

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, SettingsError

from .configuration.errors import explain
from .configuration.schema import Schema
from .configuration.sources import ConfigurationError, Given, Variable, VariablesSource, read
from .configuration.values import decode
from .http.addresses import parse_network
from .threads import DEFAULT_THREADS

PREFIX = "APP_"
DEFAULT_SECRETS_DIR = "/run/secrets"

_given: ContextVar[Given | None] = ContextVar("given", default=None)


class ChassisSettings(BaseSettings):
    """The settings that every service has. Add yours in a subclass.

    A setting comes from the environment, else `.env` in the working directory, else a file of its name
    (`app_<setting>`) in the directory that `APP_SECRETS_DIR` names, else its default. Upper and lower case are the
    same in names. An empty value counts as not given, everywhere, for text as well.

    A list of plain values is separated by commas, or is JSON. A member of a model is a setting of its own: the `port`
    of `database: Database` is `APP_DATABASE__PORT`.
    """

    model_config: ClassVar[SettingsConfigDict] = SettingsConfigDict(
        env_prefix=PREFIX,
        env_file=".env",
        env_nested_delimiter="__",
        nested_model_default_partial_update=True,
        extra="ignore",
        frozen=True,
        allow_inf_nan=False,  # no time is infinite for an event loop
        hide_input_in_errors=True,
    )

    host: str = Field(
        "::",
        min_length=1,
        description="Addresses to listen on, comma separated; `::` is every address, of IPv6 and of IPv4.",
    )
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on; 0 takes any that is free.")
    admin_port: int | None = Field(
        None, ge=0, le=65535, description="Port for health, readiness, metrics and info; unset, they are on `APP_PORT`."
    )
    unix_socket: str | None = Field(
        None, description="Path of a Unix socket to listen on, in place of `APP_HOST` and `APP_PORT`."
    )
    trusted_proxies: tuple[str, ...] = Field(
        (),
        description="Proxies whose `X-Forwarded-For`, `-Proto` and `-Prefix` are trusted: addresses, networks, or `*`.",
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"] = Field(
        "INFO", description="The lowest level that is logged."
    )
    log_format: Literal["auto", "json", "console"] = Field(
        "auto", description="`json`, `console`, or `auto`: console on a terminal, JSON elsewhere."
    )
    log_redact: tuple[str, ...] = Field(
        (), description="Keys, comma separated, whose values are never logged. Passwords, tokens and cookies never are."
    )
    log_buffer_bytes: int = Field(
        8_388_608, ge=65_536, description="Buffer for log lines while nobody reads them; further lines are dropped."
    )
    trace_admin: bool = Field(
        False, description="Whether requests for health, readiness, metrics and info make spans in sampled traces."
    )
    commit: str = Field("unknown", description="The commit that was built, shown by `/info` and `build_info`.")
    max_connections: int = Field(
        10_000, ge=1, description="Most open connections; a further one gets 503 and is closed."
    )
    max_connection_age_seconds: float = Field(
        120.0,
        gt=0,
        description="Age, give or take 10 %, at which the next response closes a connection: new replicas get a share.",
    )
    max_requests_per_connection: int = Field(
        10_000, ge=1, description="Most requests on one connection; the response to the last one closes it."
    )
    max_target_bytes: int = Field(8_192, ge=1, description="Longest request target; a longer one gets 414.")
    max_head_bytes: int = Field(
        32_768, ge=1, description="Largest request line and header section together; larger ones get 431."
    )
    head_seconds: float = Field(
        10.0,
        gt=0,
        description="Longest time for the headers of a request to arrive; beyond it 408.",
    )
    body_seconds: float = Field(
        10.0,
        gt=0,
        description="Interval over which the rate of a body or response is measured; too slow is 408 or a disconnect.",
    )
    min_bytes_per_second: int = Field(
        500, ge=0, description="Lowest rate at which a body must arrive, or a response be read."
    )
    max_body_bytes: int = Field(1_048_576, ge=0, description="Largest request body; a larger one gets 413.")
    max_requests: int | None = Field(
        None,
        ge=1,
        description="Most requests in flight; beyond it 503. Unset, only an overloaded processor sheds requests.",
    )
    threads: int = Field(
        DEFAULT_THREADS,
        ge=1,
        description="Most threads for `def` handlers; when all are taken, requests wait up to a second, then get 503.",
    )
    queue_seconds: float = Field(
        0.02, gt=0, description="Longest time a request may queue for CPU under overload; beyond it 503."
    )
    deadline_seconds: float = Field(
        30.0,
        gt=0,
        description="Longest time until a response starts; beyond it the handler is cancelled and 504 sent.",
    )
    keep_alive_seconds: int = Field(
        75,
        ge=1,
        description="Time after which an idle connection is closed; longer than that of the load balancer in front.",
    )
    readiness_cache_seconds: float = Field(1.0, ge=0, description="Time for which the result of a check is cached.")
    drain_seconds: float = Field(
        5.0,
        ge=0,
        description="Time after SIGTERM in which requests are still served, until load balancers have noticed.",
    )
    shutdown_seconds: float = Field(
        20.0, ge=0, description="Time after that for requests and background tasks in flight to finish."
    )

    @classmethod
    def from_values(cls, **values: Any) -> Self:
        """These values and the defaults: nothing is read from the environment, `.env` or secret files.

        For tests and scripts. Raises pydantic's `ValidationError` for a wrong value.
        """
        fields = cls.model_fields
        decoded = {
            name: decode(fields[name], value) if name in fields and isinstance(value, str) else value
            for name, value in values.items()
        }
        return cls._from_given(Given((), ()), decoded)

    @classmethod
    def from_variables(cls, variables: Mapping[str, str]) -> Self:
        """These variables and the defaults: nothing is read from the environment, `.env` or secret files.

        Names are those of the environment, such as `APP_DATABASE__PORT`. An empty value counts as not given. For tests
        and scripts. Raises pydantic's `ValidationError` for a wrong value.
        """
        source = {name.lower(): Variable(name, text, "") for name, text in variables.items() if text}
        return cls._from_given(Given((source,), ()), {})

    @classmethod
    def _from_given(cls, given: Given, values: dict[str, Any]) -> Self:
        token = _given.set(given)
        try:
            return cls(**values)
        finally:
            _given.reset(token)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """pydantic-settings' hook: where values come from, the first one wins."""
        given = _given.get()
        if given is None:
            given = read(settings_cls, Schema(settings_cls), DEFAULT_SECRETS_DIR)
        return init_settings, *(VariablesSource(settings_cls, source) for source in given.sources)

    @field_validator("trusted_proxies")
    @classmethod
    def _networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(proxy if proxy == "*" else str(parse_network(proxy)) for proxy in value)

    @field_validator("log_level", mode="before")
    @classmethod
    def _upper(cls, value: Any) -> Any:
        return value.upper() if isinstance(value, str) else value


Settings = TypeVar("Settings", bound=ChassisSettings)


def load_settings(settings: type[Settings]) -> Settings:
    """Read the settings, or exit with status 2 and a line on standard error for each wrong value.

    The line names the variable, the value (unless it is a secret) and what is allowed. An unknown variable with the
    prefix gets a warning and is ignored, since other tools may share the prefix.
    """
    schema = Schema(settings)
    try:
        given = read(settings, schema, DEFAULT_SECRETS_DIR)
    except ConfigurationError as error:
        exit_with_errors(*error.lines)
    for line in given.warnings:
        sys.stderr.write(f"warning: {line}\n")
    token = _given.set(given)
    try:
        return settings(_secrets_dir=given.secrets_dir)  # type: ignore[call-arg]
    except ValidationError as error:
        exit_with_errors(*explain(error, schema, given))
    except SettingsError as error:
        exit_with_errors(str(error))
    finally:
        _given.reset(token)


def settings_table(settings: type[ChassisSettings]) -> list[str]:
    """The rows of a table in Markdown that documents the settings, nested ones included: variable, default, meaning."""
    return Schema(settings).table()


def exit_with_errors(*lines: str) -> NoReturn:
    """Exit with status 2 and a line on standard error for each mistake in the configuration."""
    for line in lines:
        sys.stderr.write(f"error: {line}\n")
    sys.exit(2)
