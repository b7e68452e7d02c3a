"""Fixtures of every test: one event loop as in production, and an environment without settings."""

import gc
import os
import sys
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from .support.nats import NatsServer
    from .support.postgres import PostgresServer

NOBODY = 65_534
# A test process has threads of gRPC and starts other processes. gRPC's handlers of `fork` can crash those before they
# execute their program.
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "false"


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Thousands of tests stay in memory until the end. The garbage collector need not look at them again and again."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.fixture(scope="session")
def anyio_backend() -> tuple[str, dict[str, bool]]:
    """Async tests and fixtures run on the loop that the server uses."""
    return "asyncio", {"use_uvloop": sys.platform != "win32"}


@pytest.fixture(scope="session", autouse=True)
def _no_settings() -> Iterator[None]:
    """The environment of the person who runs the tests may have settings; the tests must not see them."""
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name.upper().startswith(("APP_", "OTEL_")):
                patch.delenv(name)
        yield


@pytest.fixture
def ordinary_user() -> Iterator[Callable[..., None]]:
    """Gives folders to a user without rights, and makes the test run as that user where it runs as root.

    Root may read and write everything, whatever the permissions are.
    """
    is_root = sys.platform != "win32" and os.geteuid() == 0

    def become(*folders: Path) -> None:
        if is_root:
            for folder in folders:
                os.chown(folder, NOBODY, -1)
            os.seteuid(NOBODY)

    yield become
    if is_root:
        os.seteuid(0)


@pytest.fixture(scope="session")
def postgres_process() -> Iterator["PostgresServer"]:
    """A PostgreSQL server for all tests of this process."""
    from .support.postgres import postgres_server  # needs asyncpg, which is optional

    with postgres_server() as server:
        yield server


@pytest.fixture
async def postgres(postgres_process: "PostgresServer") -> "PostgresServer":
    """The server, with new tables."""
    await postgres_process.prepare()
    return postgres_process


@pytest.fixture(scope="session")
def nats_process() -> Iterator["NatsServer"]:
    """A NATS server for all tests of this process."""
    from .support.nats import nats_server  # needs nats-py, which is optional

    with nats_server() as server:
        yield server


@pytest.fixture
async def nats(nats_process: "NatsServer") -> "NatsServer":
    """The server, without streams."""
    await nats_process.prepare()
    return nats_process
