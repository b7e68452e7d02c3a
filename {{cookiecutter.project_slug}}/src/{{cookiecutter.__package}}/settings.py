"""Your settings, in addition to those of the chassis. The environment variable `APP_<NAME>` sets each of them."""

from chassis import ChassisSettings
{% if cookiecutter.events == "nats" -%}
from chassis.nats import NatsSettings
{% endif -%}
{% if cookiecutter.database != "none" -%}
from chassis.postgres import DatabaseSettings
{% elif cookiecutter.example == "orders" -%}
from pydantic import Field
{% endif %}
{% if cookiecutter.database != "none" and cookiecutter.events == "nats" %}
class Settings(ChassisSettings, DatabaseSettings, NatsSettings):
{%- elif cookiecutter.database != "none" %}
class Settings(ChassisSettings, DatabaseSettings):
{%- elif cookiecutter.events == "nats" %}
class Settings(ChassisSettings, NatsSettings):
{%- else %}
class Settings(ChassisSettings):
{%- endif %}
    """The settings of this service."""
{% if cookiecutter.example == "orders" and cookiecutter.database == "none" %}
    max_orders: int = Field(1_000, ge=1, description="Orders that the store holds before it is full.")
{% endif %}