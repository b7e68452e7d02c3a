"""The database that the tests of a service get from the plugin."""

import subprocess
from pathlib import Path

import pytest

from .support.forked import run_forked
from .support.ledger import SKELETON, Ledger
from .support.postgres import PostgresServer

CONFIGURATION = """
[tool.pytest.ini_options]
addopts = ["-p", "anyio.pytest_plugin", "-p", "chassis.postgres.pytest_plugin", "-p", "no:cacheprovider"]
anyio_mode = "auto"
filterwarnings = ["error"]
"""
CONFTEST = """
import pytest
from chassis.testing import environment
from ledger.settings import Settings


@pytest.fixture(scope="session")
def anyio_backend():
    return "asyncio", {"use_uvloop": True}


@pytest.fixture(scope="session", autouse=True)
def variables():
    with environment({"other": "x"}) as variables:
        yield variables


@pytest.fixture
def settings(variables):
    return Settings.from_variables(variables)
"""
TESTS = """
import asyncpg
import pytest


@pytest.fixture
async def connection(settings):
    connection = await asyncpg.connect(settings.database_url.get_secret_value())
    yield connection
    await connection.close()


@pytest.mark.parametrize("number", range(3))
async def test_tables_are_empty(connection, number):
    assert await connection.fetchval("SELECT count(*) FROM orders") == 0
    assert await connection.fetchval("INSERT INTO orders (currency) VALUES ('EUR') RETURNING id") == 1
    await connection.execute("INSERT INTO lines (order_id) VALUES (1)")


async def test_rows_of_migrations_stay(connection):
    assert await connection.fetchval("SELECT count(*) FROM currencies") == 1


async def test_database_is_not_that_of_the_variable(connection):
    assert (await connection.fetchval("SELECT current_database()")).startswith("postgres_test_")


def test_open_transactions_are_named(request, settings):
    import asyncio

    async def leave_open():
        other = await asyncpg.connect(settings.database_url.get_secret_value())
        await other.execute("BEGIN; INSERT INTO orders DEFAULT VALUES; COMMIT; BEGIN; SELECT * FROM orders")
        from chassis.postgres.pytest_plugin import DATABASE

        with pytest.raises(RuntimeError, match="a transaction of an earlier test is still open, so public.orders can"):
            await asyncio.to_thread(request.config.stash[DATABASE].empty)
        await other.close()

    asyncio.run(leave_open())
"""
UNIT = """
import os


def test_no_database_is_needed():
    assert os.environ["TEST_APP_DATABASE_URL"] == "postgresql://nobody@127.0.0.1:1/none"
"""


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    """A service with tests, two tables, and a table with rows of its migration."""
    ledger = Ledger(tmp_path)
    tables = (
        "CREATE TABLE currencies (code text PRIMARY KEY)",
        "INSERT INTO currencies VALUES ('EUR')",
        "CREATE TABLE orders (id serial PRIMARY KEY, currency text REFERENCES currencies)",
        "CREATE TABLE lines (order_id int REFERENCES orders)",
    )
    drops = "".join(f'op.execute("DROP TABLE {name}")\n    ' for name in ("lines", "orders", "currencies"))
    ledger.add_migration(2, "\n    ".join(f'op.execute("{statement}")' for statement in tables), drops)
    (tmp_path / "pyproject.toml").write_text(CONFIGURATION)
    tests = tmp_path / "tests"
    tests.mkdir()
    (tests / "conftest.py").write_text(CONFTEST)
    (tests / "test_orders.py").write_text(TESTS)
    (tests / "test_unit.py").write_text(UNIT)
    migrations = (SKELETON.parents[1] / "tests/test_migrations.py").read_text()
    (tests / "test_migrations.py").write_text(migrations.replace("{{ cookiecutter.__package }}", "ledger"))
    return ledger


def run(ledger: Ledger, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return run_forked(
        "pytest",
        *arguments,
        folder=ledger.folder,
        environment=ledger.environment(PYTEST_DISABLE_PLUGIN_AUTOLOAD="1", **variables),
    )


async def test_tests_of_a_service_get_a_database_of_their_own(ledger: Ledger, postgres: PostgresServer) -> None:
    done = run(ledger, "tests/test_orders.py", "tests/test_migrations.py", TEST_APP_DATABASE_URL=postgres.url)
    print(done.stdout, done.stderr)
    outcome = done.stdout.splitlines()[-1]
    # The service of this test has no models, so its tables differ from the migrations.
    assert ("7 passed" in outcome, "1 failed" in outcome) == (True, True)
    assert "FAILED tests/test_migrations.py::test_migrations_create_the_tables_of_the_code" in done.stdout
    assert await postgres.run("SELECT count(*) FROM pg_database WHERE datname LIKE '%\\_test\\_%'") == 0


def test_server_is_started_only_for_tests_that_need_it(ledger: Ledger) -> None:
    done = run(ledger, "tests/test_unit.py", TEST_APP_DATABASE_URL="postgresql://nobody@127.0.0.1:1/none")
    assert done.returncode == 0, done.stdout


def test_migration_that_fails_is_an_error_in_one_line(ledger: Ledger, postgres_process: PostgresServer) -> None:
    ledger.add_migration(3, 'op.execute("broken")')
    done = run(ledger, "tests/test_orders.py", TEST_APP_DATABASE_URL=postgres_process.url)
    assert done.returncode == 4
    assert "ERROR: the migrations of ledger failed: 0003_change_3.py, line 11: PostgresSyntaxError" in done.stderr
