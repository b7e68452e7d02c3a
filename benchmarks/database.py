"""A PostgreSQL server with one table, for the candidates that read from a database."""

import asyncio
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import asyncpg

from chassis.postgres.embedded import TEMPORARY, EmbeddedServer

from .processes import ALL_CORES, OTHER_CORES

TABLE = """
CREATE TABLE items (id int PRIMARY KEY, name text NOT NULL);
INSERT INTO items SELECT number, 'item ' || number FROM generate_series(1, 10000) AS number;
ANALYZE items;
"""


@contextmanager
def database() -> Iterator[str]:
    """The URL of a server with the table `items`. It never runs on the core of the candidates."""
    folder = Path(tempfile.mkdtemp(prefix="bench-postgres-"))  # open to the user of the server
    try:
        os.sched_setaffinity(0, OTHER_CORES)  # its processes inherit it
        with EmbeddedServer(folder, *TEMPORARY) as server:
            os.sched_setaffinity(0, ALL_CORES)
            asyncio.run(_fill(server.url))
            yield server.url
    finally:
        os.sched_setaffinity(0, ALL_CORES)
        shutil.rmtree(folder)


async def _fill(url: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(TABLE)
    finally:
        await connection.close()
