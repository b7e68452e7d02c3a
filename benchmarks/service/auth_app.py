"""The benchmark's service with `chassis.auth`: each request needs a bearer token with one scope."""

import json
import os

from chassis import App, ChassisSettings, Requirement, run
from chassis.auth import AuthSettings, add_auth

from .app import OneItem


class Settings(ChassisSettings, AuthSettings):
    """The settings of this service."""


def create_app(settings: Settings) -> App:
    """Put the service together. The keys come from the benchmark, so that nothing is fetched."""
    app = App(settings, name="bench-service")
    auth = add_auth(app, settings)
    auth.keys.use(json.loads(os.environ["TOKEN_KEYS"]))
    app.add_route("/items/{item_id}", OneItem(), requires=Requirement(scopes=["items:read"]))
    return app


if __name__ == "__main__":
    run(f"{__package__}.auth_app:create_app")
