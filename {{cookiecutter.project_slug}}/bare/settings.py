"""Your settings, beside those of the chassis; each is an environment variable `APP_<NAME>`."""

from .chassis import ChassisSettings


class Settings(ChassisSettings):
    """What this service can be told."""

    # Such as: max_invoices: int = Field(100, ge=1, description="For the README's table, and for whoever sets it.")
