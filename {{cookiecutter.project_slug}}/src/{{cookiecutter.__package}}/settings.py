"""Your settings, in addition to those of the chassis. The environment variable `APP_<NAME>` sets each of them."""

from chassis import ChassisSettings
{% if cookiecutter.auth == "jwt" -%}
from chassis.auth import AuthSettings
{% endif -%}
{% if cookiecutter.events == "nats" -%}
from chassis.nats import NatsSettings
{% endif -%}
{% if cookiecutter.database != "none" -%}
from chassis.postgres import DatabaseSettings
{% elif cookiecutter.example == "orders" -%}
from pydantic import Field
{% endif %}
{% set bases = ["ChassisSettings"] + (["AuthSettings"] if cookiecutter.auth == "jwt" else []) + (["DatabaseSettings"] if cookiecutter.database != "none" else []) + (["NatsSettings"] if cookiecutter.events == "nats" else []) %}
class Settings({{ bases | join(", ") }}):
    """The settings of this service."""
{% if cookiecutter.example == "orders" and cookiecutter.database == "none" %}
    max_orders: int = Field(1_000, ge=1, description="Orders that the store holds before it is full.")
{% endif %}