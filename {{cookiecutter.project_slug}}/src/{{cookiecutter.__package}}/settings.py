"""Your settings, beside those of the chassis; each is an environment variable `APP_<NAME>`."""

from pydantic import Field

from .chassis import ChassisSettings


class Settings(ChassisSettings):
    """What this service can be told."""

    max_orders: int = Field(10_000, ge=1, description="Orders that the store holds before it is full.")
