"""Your settings, beside those of the chassis. Each is an environment variable `APP_<NAME>`."""

from chassis import ChassisSettings
{% if cookiecutter.example == "orders" -%}
from pydantic import Field
{% endif %}

class Settings(ChassisSettings):
    """The settings of this service."""
{% if cookiecutter.example == "orders" %}
    max_orders: int = Field(1_000, ge=1, description="Orders that the store holds before it is full.")
{% endif %}