"""A database for the tests of a service: `addopts = ["-p", "chassis.postgres.pytest_plugin"]` in `pyproject.toml`.

If a test uses the fixture `settings`, the plugin creates a database before the first test: on an embedded server, or on
that of `TEST_APP_DATABASE_URL`. It applies the migrations, and sets `TEST_APP_DATABASE_URL` to the new database. The
tables are empty at the begin of each test. Rows that the migrations have written stay.
"""

import asyncio
import json
import os
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest

from ..configuration.given_settings import PREFIX
from .embedded import EmbeddedServerError, temporary_server

VARIABLE = "TEST_APP_DATABASE_URL"
# A test that has one of these fixtures, itself or through another fixture, needs the database.
FIXTURES = {"settings", "empty_database"}
LOCK_SECONDS = 2
TABLES = """
SELECT format('%I.%I', nspname, relname)
FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
WHERE relkind IN ('r', 'p') AND nspname <> 'information_schema' AND nspname NOT LIKE 'pg\\_%'
ORDER BY 1
"""

Result = TypeVar("Result")


class TestDatabase:
    """The database of a run of tests."""

    __test__ = False

    def __init__(self, server_url: str) -> None:
        self.server_url: str = server_url
        self.url: str = ""
        self._loop = asyncio.new_event_loop()
        self._connection: asyncpg.Connection | None = None
        self._rows_query = ""

    def _run(self, work: Coroutine[Any, Any, Result]) -> Result:
        return self._loop.run_until_complete(work)

    def open(self, package: str) -> None:
        """Create it, and apply the migrations of `package`."""
        self.url = self.create_database("test")
        migrate(package, self.url)
        self._run(self._prepare())

    async def _prepare(self) -> None:
        session = {"lock_timeout": f"{LOCK_SECONDS}s", "application_name": "pytest"}
        self._connection = connection = await asyncpg.connect(self.url, server_settings=session)
        tables = [row[0] for row in await connection.fetch(TABLES)]
        # Rows that the migrations have written belong to the schema, such as a list of currencies.
        kept = set(await connection.fetchval(_rows_query(tables)))
        self._rows_query = _rows_query([table for table in tables if table not in kept])

    def empty(self) -> None:
        """Remove the rows of all tables, and reset their sequences."""
        self._run(self._empty())

    async def _empty(self) -> None:
        connection = self._connection
        if connection is None:
            raise RuntimeError("the database of the tests is not open")
        tables = await connection.fetchval(self._rows_query)
        if not tables:
            return
        try:
            await connection.execute(f"TRUNCATE {', '.join(tables)} RESTART IDENTITY CASCADE")
        except asyncpg.LockNotAvailableError:
            raise RuntimeError(
                f"a transaction of an earlier test is still open, so {', '.join(tables)} cannot be emptied; "
                "end it in that test"
            ) from None

    def create_database(self, purpose: str) -> str:
        """Create an empty database with a name that no other run uses, and return its URL."""
        parts = urlsplit(self.server_url)
        name = f"{parts.path.strip('/') or 'postgres'}_{purpose}_{secrets.token_hex(4)}"
        self._run(self._execute(f'CREATE DATABASE "{name}" TEMPLATE template0'))
        return urlunsplit((parts.scheme, parts.netloc, f"/{name}", parts.query, ""))

    def drop_database(self, url: str) -> None:
        """Remove a database, and disconnect its clients."""
        name = urlsplit(url).path.strip("/")
        self._run(self._execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)'))

    async def _execute(self, statement: str) -> None:
        connection = await asyncpg.connect(self.server_url)
        try:
            await connection.execute(statement)
        finally:
            await connection.close()

    def close(self) -> None:
        """Remove the database."""
        if self._connection is not None:
            self._run(self._connection.close())
        if self.url:
            self.drop_database(self.url)
        self._loop.close()


def _rows_query(tables: list[str]) -> str:
    """The query for those tables that have rows."""
    parts = [
        f"CASE WHEN EXISTS (SELECT FROM {table}) THEN '{table.replace(chr(39), chr(39) * 2)}' END" for table in tables
    ]
    return f"SELECT array_remove(ARRAY[{', '.join(parts)}]::text[], NULL)"


def migrate(package: str, url: str) -> None:
    """Apply the migrations to a database. Settings of the person who runs the tests are not used."""
    environment = {name: text for name, text in os.environ.items() if not name.upper().startswith(PREFIX)}
    with tempfile.TemporaryDirectory() as folder:
        environment |= {"APP_DATABASE_URL": url, "APP_SECRETS_DIR": folder, "APP_LOG_FORMAT": "json"}
        path = os.pathsep.join(filter(None, map(os.path.abspath, sys.path)))
        done = subprocess.run(  # noqa: S603 - fixed
            [sys.executable, "-m", "chassis.migrations", package, "upgrade"],
            cwd=folder,  # where no .env is
            env=environment | {"PYTHONPATH": path},
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode:
        raise pytest.UsageError(f"the migrations of {package} failed: {_reason(done.stdout, done.stderr)}")


def _reason(output: str, errors: str) -> str:
    """The last line of a migration's log, or of its errors."""
    lines = (errors or output).strip().splitlines() or ["no message"]
    with suppress(ValueError, KeyError):
        return str(json.loads(lines[-1])["reason"])
    return lines[-1]


def find_package(root: Path) -> str:
    """The package of the service: the one in `src` that has migrations."""
    found = [path.parents[1].name for path in sorted(root.glob("src/*/migrations/env.py"))]
    if len(found) != 1:
        raise pytest.UsageError(
            f"{len(found)} packages in {root / 'src'} have a file migrations/env.py; "
            "the tests with a database need exactly one"
        )
    return found[0]


@contextmanager
def _database(config: pytest.Config) -> Iterator[TestDatabase]:
    """A database, whose URL the fixture `variables` finds in the environment."""
    given = os.environ.get(VARIABLE)
    if given is None:
        with temporary_server() as server:
            os.environ[VARIABLE] = server.url
            try:
                with _database(config) as database:
                    yield database
            finally:
                del os.environ[VARIABLE]
        return
    database = TestDatabase(given)
    try:
        database.open(find_package(config.rootpath))
        os.environ[VARIABLE] = database.url
        config.stash[DATABASE] = database
        yield database
    finally:
        os.environ[VARIABLE] = given
        database.close()


DATABASE = pytest.StashKey[TestDatabase]()


@pytest.hookimpl(wrapper=True)
def pytest_runtestloop(session: pytest.Session) -> Iterator[None]:
    """Create the database before the first fixture, if a test needs it."""
    if session.config.option.collectonly or not any(_needs_database(item) for item in session.items):
        return (yield)
    try:
        with _database(session.config):
            return (yield)
    except EmbeddedServerError as error:
        raise pytest.UsageError(str(error)) from None


def _needs_database(item: pytest.Item) -> bool:
    return not FIXTURES.isdisjoint(getattr(item, "fixturenames", ()))


@pytest.fixture(autouse=True)
def _empty_tables(request: pytest.FixtureRequest) -> None:
    """Each test begins with empty tables."""
    if "settings" in request.fixturenames:
        request.config.stash[DATABASE].empty()


@pytest.fixture
def empty_database(request: pytest.FixtureRequest) -> Iterator[str]:
    """The URL of a database without tables, for tests of migrations. It is removed after the test."""
    database = request.config.stash[DATABASE]
    url = database.create_database("empty")
    yield url
    database.drop_database(url)
