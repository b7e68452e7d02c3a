"""A service with the settings of many parts, and none of the parts: `python -m tests.support.restart_program`."""

from pydantic import Field

from chassis import App, ChassisSettings, run
from chassis.auth import AuthSettings
from chassis.client import ClientSettings
from chassis.grpc import GrpcSettings
from chassis.nats import NatsSettings
from chassis.postgres import DatabaseSettings


class Settings(ChassisSettings, DatabaseSettings, NatsSettings, GrpcSettings, AuthSettings):
    """The settings of a service with all parts."""

    prices: ClientSettings = Field(ClientSettings(base_url="http://prices"), description="The prices.")


def create_app(settings: Settings) -> App:
    """The application."""
    return App(settings, name="test-service")


if __name__ == "__main__":
    run("tests.support.restart_program:create_app")
