"""Tokens for the tests of a service: `addopts = ["-p", "chassis.auth.pytest_plugin"]` in `pyproject.toml`.

The app of each test accepts the tokens of the fixture `issuer`, and asks no provider. The clients of `connect(app)` and
`serve(app)` send a token with all scopes and roles that its routes need. Delete or replace the header `authorization`
of a client or of a request to be somebody else.
"""

import os
from collections.abc import Iterator

import pytest

from ..app import App
from .issuer import Issuer
from .testing import issuer_for

# Nobody listens at this port: a service that a test runs as a process looks for keys there in vain.
VARIABLES = {"TEST_APP_AUTH_ISSUER": "http://127.0.0.1:1", "TEST_APP_AUTH_AUDIENCE": "tests"}


@pytest.hookimpl(wrapper=True)
def pytest_runtestloop() -> Iterator[None]:
    """Set the variables of the issuer before the first fixture, unless they are set already."""
    added = {name: value for name, value in VARIABLES.items() if name not in os.environ}
    os.environ |= added
    try:
        return (yield)
    finally:
        for name in added:
            del os.environ[name]


@pytest.fixture
def issuer(app: App) -> Issuer:
    """An issuer of tokens that the app accepts: `issuer.headers("ada", scopes=["orders:read"])`."""
    return issuer_for(app)


@pytest.fixture(autouse=True)
def _signed_in(request: pytest.FixtureRequest) -> None:
    """Replace the provider before the app starts."""
    if "app" in request.fixturenames:
        request.getfixturevalue("issuer")
