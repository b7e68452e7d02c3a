"""`GivenSettings`: settings that are read from the environment, `.env` and secret files, or from values."""

from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any, ClassVar, Self

from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from .schema import Schema
from .sources import NOTHING_GIVEN, Given, Variable, VariablesSource, note_given, read
from .values import decode

PREFIX = "APP_"

_given: ContextVar[Given | None] = ContextVar("given", default=None)


class GivenSettings(BaseSettings):
    """The base of `ChassisSettings`: it has no setting, but knows where to read those of its subclasses."""

    model_config: ClassVar[SettingsConfigDict] = SettingsConfigDict(
        env_prefix=PREFIX,
        env_file=".env",
        env_nested_delimiter="__",
        nested_model_default_partial_update=True,
        extra="ignore",
        frozen=True,
        allow_inf_nan=False,  # no time is infinite for an event loop
        hide_input_in_errors=True,
        defer_build=True,  # of the service's own class when it is used, and of this one never
    )

    @classmethod
    def from_values(cls, **values: Any) -> Self:
        """Settings from these values and the defaults. The environment, `.env` and secret files are not read.

        For tests and scripts. Raises pydantic's `ValidationError` for an invalid value.
        """
        fields = cls.model_fields
        decoded = {
            name: decode(fields[name], value) if name in fields and isinstance(value, str) else value
            for name, value in values.items()
        }
        return cls.from_given(NOTHING_GIVEN, decoded)

    @classmethod
    def from_variables(cls, variables: Mapping[str, str]) -> Self:
        """Settings from these variables and the defaults. The environment, `.env` and secret files are not read.

        Use the names of environment variables, such as `APP_DATABASE__PORT`. An empty value counts as not set. For
        tests and scripts. Raises pydantic's `ValidationError` for an invalid value.
        """
        source = {name.lower(): Variable(name, text, "") for name, text in variables.items() if text}
        return cls.from_given(Given((source,), ()))

    @classmethod
    def from_given(cls, given: Given, values: Mapping[str, Any] | None = None) -> Self:
        """Settings from variables that were read before. `values` take precedence.

        Raises pydantic's `ValidationError` for an invalid value.
        """
        token = _given.set(given)
        try:
            settings = cls(**{**(values or {}), "_secrets_dir": given.secrets_dir})
        finally:
            _given.reset(token)
        note_given(settings, given)
        return settings

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """pydantic-settings' hook: the sources of values. The first source that has a value wins."""
        given = _given.get()
        if given is None:
            given = read(settings_cls, Schema(settings_cls))
        return init_settings, *(VariablesSource(settings_cls, source) for source in given.sources if source)
