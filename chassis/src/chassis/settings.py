"""Settings from the environment (`APP_*`), a `.env` file in development, and mounted secret files."""

import os
import re
import sys
from contextvars import ContextVar
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NoReturn, Self, TypeVar, get_args, get_origin

from pydantic import BaseModel, Field, Secret, SecretBytes, SecretStr, ValidationError, field_validator
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from .threads import DEFAULT_THREADS

PREFIX = "APP_"
SECRETS_DIR = "APP_SECRETS_DIR"
DEFAULT_SECRETS_DIR = "/run/secrets"

_values_only: ContextVar[bool] = ContextVar("values_only", default=False)


class ChassisSettings(BaseSettings):
    """The settings that every service has. Add yours in a subclass.

    A setting comes from the environment, else `.env` in the working directory, else a file of its name
    (`app_<setting>`) in the directory that `APP_SECRETS_DIR` names, else its default.
    """

    model_config: ClassVar[SettingsConfigDict] = SettingsConfigDict(
        env_prefix=PREFIX, env_file=".env", extra="ignore", frozen=True
    )

    host: str = Field("0.0.0.0", description="Address to listen on.")  # noqa: S104 - a container listens on all
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on; 0 takes any that is free.")
    admin_port: int | None = Field(
        None, ge=0, le=65535, description="Port for health, readiness, metrics and info; unset, they are on `APP_PORT`."
    )
    trusted_proxies: str = Field(
        "", description="Proxies whose `X-Forwarded-For` and `-Proto` are trusted: addresses, comma separated, or `*`."
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"] = Field(
        "INFO", description="The lowest level that is logged."
    )
    log_format: Literal["auto", "json", "console"] = Field(
        "auto", description="`json`, `console`, or `auto`: console on a terminal, JSON elsewhere."
    )
    log_redact: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="Keys, comma separated, whose values are never logged. Passwords, tokens and cookies never are."
    )
    log_buffer_bytes: int = Field(
        8_388_608, ge=65_536, description="Buffer for log lines while nobody reads them; further lines are dropped."
    )
    commit: str = Field("unknown", description="The commit that was built, shown by `/info` and `build_info`.")
    max_connections: int = Field(
        10_000, ge=1, description="Most open connections; a further one gets 503 and is closed."
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
        token = _values_only.set(True)
        try:
            return cls(**values)
        finally:
            _values_only.reset(token)

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
        if _values_only.get():
            return (init_settings,)
        return init_settings, env_settings, dotenv_settings, file_secret_settings

    @field_validator("log_level", mode="before")
    @classmethod
    def _upper(cls, value: Any) -> Any:
        return value.upper() if isinstance(value, str) else value

    @field_validator("log_redact", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return tuple(key.strip() for key in value.split(",") if key.strip()) if isinstance(value, str) else value


Settings = TypeVar("Settings", bound=ChassisSettings)


def load_settings(settings: type[Settings]) -> Settings:
    """Read the settings, or exit with status 2 and a line on standard error for each wrong value.

    The line names the variable, the value (unless it is a secret) and what is allowed. An unknown variable with the
    prefix gets a warning and is ignored, since other tools may share the prefix.
    """
    for unknown, close in unknown_variables(settings):
        hint = f"; did you mean {close}?" if close else ""
        sys.stderr.write(f"warning: {unknown} is not a setting of this service{hint}\n")
    directory = os.environ.get(SECRETS_DIR, DEFAULT_SECRETS_DIR)
    if SECRETS_DIR in os.environ and not Path(directory).is_dir():
        exit_with_errors(f"{SECRETS_DIR}={directory!r}: not a directory")
    try:
        return settings(_secrets_dir=directory if Path(directory).is_dir() else None)  # type: ignore[call-arg]
    except ValidationError as error:
        exit_with_errors(*explain(settings, error))
    except SettingsError as error:
        exit_with_errors(explain_syntax(settings, error))


def explain(settings: type[ChassisSettings], error: ValidationError) -> list[str]:
    """One line for each wrong setting."""
    lines = []
    for detail in error.errors(include_url=False, include_context=False):
        name = str(detail["loc"][0]) if detail["loc"] else ""
        variable = f"{PREFIX}{name.upper()}"
        if detail["type"] == "missing":
            lines.append(f"{variable} is not set: {_allowed(settings, name)}")
            continue
        # As it was given, where it is known: a validator may have changed it already.
        given = "=[secret]" if _is_secret(settings, name) else f"={os.environ.get(variable, detail['input'])!r}"
        lines.append(f"{variable}{given}: {detail['msg']}; {_allowed(settings, name)}")
    return lines


def explain_syntax(settings: type[ChassisSettings], error: SettingsError) -> str:
    """The line for a value that should be JSON and isn't; pydantic-settings tells only the field's name."""
    named = re.search(r'field "(\w+)"', str(error))
    name = named[1] if named else ""
    variable = f"{PREFIX}{name.upper()}"
    given = "=[secret]" if _is_secret(settings, name) else f"={os.environ.get(variable, '')!r}"
    return f"{variable}{given}: not JSON; {_allowed(settings, name)}"


def unknown_variables(settings: type[ChassisSettings]) -> list[tuple[str, str | None]]:
    """The `APP_*` variables that are no settings, each with the setting whose name is close."""
    known = {f"{PREFIX}{name.upper()}" for name in settings.model_fields} | {SECRETS_DIR}
    unknown = [name for name in os.environ if name.upper().startswith(PREFIX) and name.upper() not in known]
    return [(name, next(iter(get_close_matches(name.upper(), known, 1)), None)) for name in sorted(unknown)]


def _allowed(settings: type[ChassisSettings], name: str) -> str:
    field = settings.model_fields.get(name)
    if field is None or not field.description:
        return "see the settings in the README"
    return field.description.rstrip(".").replace("`", "")


def _is_secret(settings: type[ChassisSettings], name: str) -> bool:
    field = settings.model_fields.get(name)
    if field is None:
        return True  # better to hide one too many
    return _holds_secret(field.annotation)


def _holds_secret(annotation: Any) -> bool:
    """Whether a value of this type is a secret or may have one inside: `list[SecretStr] | None`, or a model."""
    origin = get_origin(annotation) or annotation
    if isinstance(origin, type) and issubclass(origin, (Secret, SecretStr, SecretBytes, BaseModel)):
        return True
    return any(_holds_secret(argument) for argument in get_args(annotation))


def exit_with_errors(*lines: str) -> NoReturn:
    """Exit with status 2 and a line on standard error for each mistake in the configuration."""
    for line in lines:
        sys.stderr.write(f"error: {line}\n")
    sys.exit(2)
