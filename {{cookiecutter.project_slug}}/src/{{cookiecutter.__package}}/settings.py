"""Your settings, in addition to those of the chassis. The environment variable `APP_<NAME>` sets each of them."""

from chassis import ChassisSettings
{% if cookiecutter.example == "orders" -%}
from pydantic import Field
{% endif %}

class Settings(ChassisSettings):
    """The settings of this service."""
{% if cookiecutter.example == "orders" %}
    max_orders: int = Field(1_000, ge=1, description="Orders that the store holds before it is full.")
{% endif %}