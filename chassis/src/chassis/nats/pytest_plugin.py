"""A NATS server for the tests of a service: `addopts = ["-p", "chassis.nats.pytest_plugin"]` in `pyproject.toml`.

If a test uses the fixture `settings`, the plugin starts a server before the first test, and sets `TEST_APP_NATS_URL` to
it. Each test begins without streams. If `TEST_APP_NATS_URL` is set already, the tests use that server, and its streams
are kept.
"""

import asyncio
import os
from collections.abc import Iterator

import nats
import pytest

from .embedded import EmbeddedServer, EmbeddedServerError, temporary_server

VARIABLE = "TEST_APP_NATS_URL"
SERVER = pytest.StashKey[EmbeddedServer]()


async def delete_streams(url: str) -> None:
    """Delete all streams of a server."""
    client = await nats.connect(url)
    try:
        for stream in await client.jsm().streams_info():
            await client.jsm().delete_stream(str(stream.config.name))
    finally:
        await client.close()


@pytest.hookimpl(wrapper=True)
def pytest_runtestloop(session: pytest.Session) -> Iterator[None]:
    """Start the server before the first fixture, if a test needs it."""
    is_needed = any("settings" in getattr(item, "fixturenames", ()) for item in session.items)
    if session.config.option.collectonly or not is_needed or VARIABLE in os.environ:
        return (yield)
    try:
        with temporary_server() as server:
            session.config.stash[SERVER] = server
            os.environ[VARIABLE] = server.url
            try:
                return (yield)
            finally:
                del os.environ[VARIABLE]
    except EmbeddedServerError as error:
        raise pytest.UsageError(str(error)) from None


@pytest.fixture(autouse=True)
def _no_streams(request: pytest.FixtureRequest) -> None:
    """Each test begins without streams."""
    server = request.config.stash.get(SERVER, None)
    if server is not None and "settings" in request.fixturenames:
        # In a loop of its own, whatever loop the test uses.
        with asyncio.Runner() as runner:
            runner.run(delete_streams(server.url))
