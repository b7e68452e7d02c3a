"""What every test has: one event loop as in production, and an environment without settings."""

import os
import sys
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session")
def anyio_backend() -> tuple[str, dict[str, bool]]:
    """Async tests and fixtures run on the loop that the server uses."""
    return "asyncio", {"use_uvloop": sys.platform != "win32"}


@pytest.fixture(scope="session", autouse=True)
def _no_settings() -> Iterator[None]:
    """Whoever runs the tests may have settings; the tests must not."""
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name.upper().startswith(("APP_", "OTEL_")):
                patch.delenv(name)
        yield
