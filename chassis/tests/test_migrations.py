"""Migrations with a real server: created, applied, reverted, locked, compared, and their errors."""

import asyncio
import json
import re
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from sqlalchemy import MetaData
from sqlalchemy.dialects import postgresql
from sqlalchemy.schema import CreateIndex, CreateTable
from structlog.testing import capture_logs

from chassis.migrations import commands, connection, idempotency_table
from chassis.migrations.__main__ import main
from chassis.migrations.connection import LOCK, direct
from chassis.migrations.errors import MigrationError, explained
from chassis.migrations.service import MigrationSettings, Service
from chassis.migrations.testing import check_agreement, check_round_trips
from chassis.postgres import DatabaseSettings
from chassis.postgres.embedded import programs
from chassis.postgres.idempotency import TABLE

from .support.ledger import Ledger
from .support.postgres import PostgresServer

ROOT = Path(__file__).parents[2]
URL = "postgresql://orders@db/orders"


class Case:
    """A service, and a database for it."""

    def __init__(self, ledger: Ledger, url: str) -> None:
        self.ledger = ledger
        self.url = url
        self.settings = MigrationSettings.from_values(database_url=url, database_connect_seconds=1)

    @property
    def service(self) -> Service:
        return Service(self.ledger.name)

    def upgrade(self, revision: str = "head", wait_seconds: float = 5) -> list[Any]:
        """Apply migrations. Returns the log lines."""
        with capture_logs() as lines:
            asyncio.run(commands.upgrade(self.service, self.settings, revision, wait_seconds=wait_seconds))
        return lines

    def value(self, query: str) -> Any:
        """The first value of a query."""

        async def run() -> Any:
            connection = await asyncpg.connect(self.url)
            try:
                return await connection.fetchval(query)
            finally:
                await connection.close()

        return asyncio.run(run())

    @property
    def revision(self) -> Any:
        return self.value("SELECT version_num FROM alembic_version")


@pytest.fixture
def case(postgres_process: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Case]:
    """A service whose package has a name of its own, and an empty database."""
    name = f"ledger_{secrets.token_hex(4)}"
    ledger = Ledger(tmp_path, name)
    monkeypatch.syspath_prepend(tmp_path / "src")
    asyncio.run(postgres_process.run(f"CREATE DATABASE {name}"))
    monkeypatch.setenv("APP_DATABASE_URL", url := f"{postgres_process.url.removesuffix('/postgres')}/{name}")
    yield Case(ledger, url)
    asyncio.run(postgres_process.run(f"DROP DATABASE {name} WITH (FORCE)"))


# Tables of the chassis


async def columns(connection: asyncpg.Connection) -> list[tuple[Any, ...]]:
    rows = await connection.fetch(
        "SELECT column_name, data_type, is_nullable FROM information_schema.columns "
        "WHERE table_name = 'idempotency_keys' ORDER BY ordinal_position"
    )
    indexes = await connection.fetch(
        "SELECT pg_get_indexdef(indexrelid) FROM pg_index WHERE indrelid = 'idempotency_keys'::regclass"
    )
    definitions = sorted(re.sub(r" INDEX \S+", "", row[0]) for row in indexes)
    return [*(tuple(row) for row in rows), *((text,) for text in definitions)]


async def test_table_of_the_migrations_is_that_of_the_idempotency_store(postgres: PostgresServer) -> None:
    connection = await asyncpg.connect(postgres.url)
    found = []
    try:
        for create in (TABLE, created_by(idempotency_table(MetaData()).metadata)):
            await connection.execute(create)
            found.append(await columns(connection))
            await connection.execute("DROP TABLE idempotency_keys")
    finally:
        await connection.close()
    assert len(found[0]) == 9
    assert found[0] == found[1]


def created_by(metadata: MetaData) -> str:
    """The statements that create the tables."""
    dialect = postgresql.dialect()  # type: ignore[no-untyped-call]
    tables = [str(CreateTable(table).compile(dialect=dialect)) for table in metadata.sorted_tables]
    indexes = [
        str(CreateIndex(index).compile(dialect=dialect)) for table in metadata.sorted_tables for index in table.indexes
    ]
    return ";".join((*tables, *indexes))


# New migrations


def test_new_migration_has_the_difference_and_satisfies_the_linter(case: Case) -> None:
    case.upgrade()
    case.ledger.add_accounts()
    path = commands.new(case.service, "Add accounts of everybody")
    assert path is not None
    text = path.read_text()
    assert path.name == "0002_add_accounts_of_everybody.py"
    assert text.startswith('"""Add accounts of everybody."""\n\nimport sqlalchemy as sa\nfrom alembic import op\n')
    assert 'name=op.f("ck_accounts_positive")' in text
    assert "###" not in text
    for arguments in (["check"], ["format", "--check", "--line-length=88"]):
        command = [sys.executable, "-m", "ruff", *arguments, f"--config={ROOT / 'pyproject.toml'}", str(path)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout
    case.upgrade()
    commands.check(case.service)
    assert commands.new(case.service, "nothing") is None
    assert not list(case.ledger.versions.glob("0003*"))


def test_type_and_default_of_a_column_are_compared(case: Case) -> None:
    case.ledger.add_accounts()
    table = "CREATE TABLE accounts (id serial CONSTRAINT pk_accounts PRIMARY KEY, owner text NOT NULL, balance int)"
    case.ledger.add_migration(2, f'op.execute("{table}")')
    case.upgrade()
    with pytest.raises(MigrationError) as raised:
        commands.check(case.service)
    assert str(raised.value) == (
        "the tables of the code differ from the migrations: modify_type accounts owner, "
        "modify_nullable accounts balance, modify_default accounts balance, add_index accounts ix_accounts_owner; "
        f"run: python -m chassis.migrations {case.ledger.name} new <name>"
    )


def test_empty_migration_is_for_changes_of_data(case: Case) -> None:
    path = commands.new(case.service, "fill owners", is_empty=True)
    assert path is not None
    assert "import" not in path.read_text()
    assert [line["revision"] for line in case.upgrade()] == ["0001", "0002"]


def test_new_migration_needs_a_database_with_all_migrations(case: Case) -> None:
    with pytest.raises(MigrationError, match=r"not at the last migration; first run: python -m \S+ \S+ upgrade$"):
        commands.new(case.service, "too early")


@pytest.mark.parametrize("name", ["", "…", "__", 'add """\nprint(1)', "a\\nb", "../a", "$(id)"])
def test_new_migration_needs_a_name(case: Case, name: str) -> None:
    with pytest.raises(MigrationError, match="describe the change in a few words"):
        commands.new(case.service, name)


# Upgrade


def test_migrations_are_applied_in_order_each_in_a_transaction(case: Case) -> None:
    case.ledger.add_migration(2, 'op.execute("CREATE TABLE a (id int)")')
    path = case.ledger.add_migration(3, 'op.execute("CREATE TABLE b (id int)")\n    op.execute("CREATE TABLE a ()")')
    with pytest.raises(Exception, match="already exists") as raised:
        case.upgrade()
    assert explained(raised.value, path.parent) == (
        '0003_change_3.py, line 12: DuplicateTableError: relation "a" already exists'
    )
    assert case.revision == "0002"
    assert case.value("SELECT to_regclass('b')") is None
    case.ledger.add_migration(3, 'op.execute("CREATE TABLE b (id int)")')
    assert [line["revision"] for line in case.upgrade()] == ["0003"]


def test_repeating_an_upgrade_is_harmless(case: Case) -> None:
    assert [line["event"] for line in case.upgrade()] == ["migration applied"]
    assert case.upgrade() == [{"event": "the database is up to date", "revision": "0001", "log_level": "info"}]


def test_index_is_created_concurrently_while_another_process_waits(case: Case) -> None:
    case.ledger.add_migration(2, 'op.execute("CREATE TABLE a (id int)")')
    case.ledger.add_migration(
        3,
        "with op.get_context().autocommit_block():\n"
        '        op.execute("SELECT pg_sleep(0.3)")\n'
        '        op.execute("CREATE INDEX CONCURRENTLY ix_a_id ON a (id)")',
    )

    async def both() -> None:
        changes = [commands.upgrade(case.service, case.settings, wait_seconds=5) for _ in range(2)]
        await asyncio.wait_for(asyncio.gather(*changes), 5)

    with capture_logs() as lines:
        asyncio.run(both())
    assert case.value("SELECT indisvalid FROM pg_index WHERE indexrelid = 'ix_a_id'::regclass") is True
    events = [line["event"] for line in lines]
    assert events.count("migration applied") == 3
    assert events.count("another process migrates this database; waiting for its end") == 1
    assert events[-1] == "the database is up to date"


def test_wait_for_another_process_has_an_end(case: Case) -> None:
    async def wait() -> None:
        other = await asyncpg.connect(case.url)
        try:
            await other.execute(f"SELECT pg_advisory_lock({LOCK})")
            with pytest.raises(MigrationError, match=r"another process has migrated this database for 0\.3 seconds"):
                await commands.upgrade(case.service, case.settings, wait_seconds=0.3)
        finally:
            await other.close()

    asyncio.run(wait())


def test_migration_that_waits_for_a_lock_lets_queries_pass_and_is_tried_again(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "LOCK_TIMEOUT_SECONDS", 0.2)
    monkeypatch.setattr(commands, "RETRY_SECONDS", 0.1)
    case.ledger.add_migration(2, 'op.execute("CREATE TABLE a (id int)")')
    case.upgrade()
    case.ledger.add_migration(3, 'op.execute("ALTER TABLE a ADD COLUMN note text")')

    async def migrate() -> float:
        reader, other = [await asyncpg.connect(case.url) for _ in range(2)]
        slowest = 0.0
        async with reader.transaction():
            await reader.execute("SELECT * FROM a")
            upgrade = asyncio.create_task(commands.upgrade(case.service, case.settings, wait_seconds=5))
            end = time.monotonic() + 1.0
            while time.monotonic() < end:
                began = time.monotonic()
                await other.execute("SELECT * FROM a")
                slowest = max(slowest, time.monotonic() - began)
                await asyncio.sleep(0.01)
        await upgrade
        for opened in (reader, other):
            await opened.close()
        return slowest

    with capture_logs() as lines:
        assert asyncio.run(migrate()) < 0.8
    assert lines[0]["event"] == "a migration needs a lock that a transaction has; trying again"
    assert (lines[-1]["event"], case.revision) == ("migration applied", "0003")


def test_lock_that_is_never_free_is_an_error(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "LOCK_TIMEOUT_SECONDS", 0.1)
    case.ledger.add_migration(2, 'op.execute("DROP TABLE idempotency_keys")')
    case.upgrade("0001")

    async def migrate() -> None:
        reader = await asyncpg.connect(case.url)
        try:
            async with reader.transaction():
                await reader.execute("SELECT * FROM idempotency_keys")
                await commands.upgrade(case.service, case.settings, wait_seconds=0)
        finally:
            await reader.close()

    with pytest.raises(Exception, match="lock timeout") as raised:
        asyncio.run(migrate())
    assert explained(raised.value, case.ledger.versions) == (
        "0002_change_2.py, line 11: LockNotAvailableError: canceling statement due to lock timeout"
    )


# A database that is ahead


def test_database_that_is_ahead_of_the_code_is_left_alone(case: Case) -> None:
    path = case.ledger.add_migration(2, 'op.execute("CREATE TABLE a (id int)")')
    case.upgrade()
    path.unlink()
    (line,) = case.upgrade()
    assert (line["event"], line["log_level"]) == ("the database is ahead of this code, so nothing was done", "warning")
    assert (line["revision"], line["last_known"]) == ("0002", "0001")
    assert case.revision == "0002"
    with pytest.raises(MigrationError, match=r"the database is at revision 0002, and \S+versions does not have it"):
        asyncio.run(commands.downgrade(case.service, case.settings, "base"))


# Files that are not one line of revisions


def test_two_migrations_with_the_same_number_are_rejected(case: Case) -> None:
    path = case.ledger.add_migration(2, "pass")
    path.with_name("0002_other.py").write_text(path.read_text())
    with pytest.raises(MigrationError) as raised:
        case.service.script()
    assert str(raised.value) == (
        "0002_change_2.py and 0002_other.py are both revision 0002; rename the later one to 0003_….py, "
        "and set revision = '0003' and down_revision = '0002' in it"
    )


def test_two_last_migrations_are_merged(case: Case) -> None:
    case.ledger.add_migration(2, "pass")
    path = case.ledger.add_migration(3, "pass")
    path.write_text(path.read_text().replace('down_revision = "0002"', 'down_revision = "0001"'))
    with pytest.raises(MigrationError) as raised:
        case.upgrade()
    names = str(raised.value).partition(" are both")[0].split(" and ")
    assert sorted(names) == ["0002_change_2.py", "0003_change_3.py"]
    assert str(raised.value).endswith(f"merge them: python -m chassis.migrations {case.ledger.name} merge")
    merged = commands.merge(case.service)
    assert merged is not None
    assert merged.name == "0004_merge.py"
    assert len(case.upgrade()) == 4


# Where the database is


def test_migrations_do_not_go_through_a_pooler() -> None:
    with pytest.raises(MigrationError, match="set APP_DATABASE_MIGRATION_URL to the server behind the pooler"):
        direct(DatabaseSettings.model_validate({"database_url": URL, "database_pooler": True}))


@pytest.mark.parametrize(
    ("url", "password"), [("postgresql://owner:x@db:6432/orders", None), ("postgresql://owner@db:6432/orders", "y")]
)
def test_migrations_have_a_url_of_their_own(url: str, password: str | None) -> None:
    given = {"database_url": URL, "database_migration_url": url, "database_password": "y", "database_pooler": True}
    settings = direct(DatabaseSettings.model_validate(given))
    assert settings.database_url.get_secret_value() == url
    assert settings.read_database_password() == password
    assert settings.database_pooler is False


# Checks for the tests of a service


def test_migrations_that_can_be_reverted_pass(case: Case) -> None:
    case.ledger.add_migration(2, 'op.execute("CREATE TABLE a (id int)")', 'op.execute("DROP TABLE a")')
    check_round_trips(case.ledger.name, case.url)
    assert case.revision == "0002"


def test_rest_that_a_downgrade_leaves_is_shown(case: Case) -> None:
    case.ledger.add_migration(2, 'op.execute("CREATE TABLE a (id int NOT NULL)")')
    with pytest.raises(AssertionError) as raised:
        check_round_trips(case.ledger.name, case.url)
    assert str(raised.value).splitlines() == [
        "after downgrade() of revision 0002, the schema differs:",
        "+ column public.a.id integer not null",
        "+ constraint a_id_not_null on public.a: NOT NULL id",
        "+ relation public.a (r)",
    ]


def test_table_without_a_migration_is_shown(case: Case) -> None:
    check_agreement(case.ledger.name, case.url)
    case.ledger.add_accounts()
    with pytest.raises(AssertionError, match="add_table accounts"):
        check_agreement(case.ledger.name, case.url)


# The command line


def lines_of(done: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_command_line_logs_as_the_service_does(case: Case) -> None:
    done = case.ledger.run("upgrade", APP_DATABASE_URL=case.url)
    (line,) = lines_of(done)
    assert (done.returncode, done.stderr) == (0, "")
    assert {key: line[key] for key in ("level", "event", "revision")} == {
        "level": "info",
        "event": "migration applied",
        "revision": "0001",
    }
    done = case.ledger.run("downgrade", "-1", APP_DATABASE_URL=case.url)
    assert [line["event"] for line in lines_of(done)] == ["migration reverted"]


def test_server_that_does_not_respond_is_an_error_in_one_line(case: Case) -> None:
    url = "postgresql://orders:secret@127.0.0.1:1/orders"
    done = case.ledger.run("upgrade", APP_DATABASE_URL=url, APP_DATABASE_CONNECT_SECONDS="0.1")
    (line,) = lines_of(done)
    assert (done.returncode, done.stderr) == (1, "")
    assert (line["level"], line["event"]) == ("error", "migration failed")
    assert line["reason"].startswith("postgresql://127.0.0.1:1/orders accepted no connection in 0.1 seconds: ")


def test_sigterm_ends_a_migration_and_rolls_it_back(case: Case) -> None:
    case.ledger.add_migration(2, 'op.execute("CREATE TABLE a (id int)")\n    op.execute("SELECT pg_sleep(60)")')
    command = [sys.executable, "-m", "chassis.migrations", case.ledger.name, "upgrade"]
    environment = case.ledger.environment(APP_DATABASE_URL=case.url)
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        while (
            case.value(
                "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(60)' AND pid <> pg_backend_pid()"
            )
            == 0
        ):
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        assert process.wait(5) == 128 + signal.SIGTERM
        assert process.stdout is not None
        last = json.loads(process.stdout.read().splitlines()[-1])
    assert last["event"] == "interrupted; the migration in progress was rolled back"
    assert (case.revision, case.value("SELECT to_regclass('a')")) == ("0001", None)
    case.ledger.add_migration(2, 'op.execute("CREATE TABLE a (id int)")')
    case.upgrade(wait_seconds=1)


@pytest.mark.parametrize("seconds", ["nan", "-1", "inf", "86401", "long"])
def test_wait_is_a_number_of_seconds(seconds: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["ledger", "upgrade", f"--wait-seconds={seconds}"])
    assert f"--wait-seconds: {seconds} is not a number of seconds from 0 to 86400" in capsys.readouterr().err


def test_syntax_error_of_a_migration_is_one_line(case: Case) -> None:
    case.ledger.add_migration(2, "op.execute(")
    done = case.ledger.run("upgrade", APP_DATABASE_URL=case.url)
    (line,) = lines_of(done)
    assert (done.returncode, done.stderr) == (1, "")
    assert "SyntaxError: '(' was never closed (0002_" in line["reason"]


def test_migration_that_exits_is_not_taken_for_an_interrupted_one(case: Case) -> None:
    case.ledger.add_migration(2, 'raise SystemExit("the table is not ready")')
    done = case.ledger.run("upgrade", APP_DATABASE_URL=case.url)
    assert (done.returncode, done.stderr) == (1, "the table is not ready\n")
    assert "interrupted" not in done.stdout
    assert case.revision == "0001"


def test_sql_is_printed_without_a_database(case: Case) -> None:
    case.ledger.add_migration(2, 'op.execute("CREATE TABLE a (id int)")')
    done = case.ledger.run("sql")
    assert (done.returncode, done.stderr) == (0, "")
    command = [str(programs() / "psql"), "--quiet", "--set=ON_ERROR_STOP=1", case.url]
    subprocess.run(command, input=done.stdout, text=True, check=True)
    assert case.upgrade()[0]["event"] == "the database is up to date"


def test_errors_of_other_commands_are_one_line(case: Case) -> None:
    done = case.ledger.run("current")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "error: APP_DATABASE_URL is not set, and the database of `make run` does not run; "
        "set APP_DATABASE_URL, or start the service, which applies the migrations\n"
    )


# Packages that are not as they should be


def test_unknown_package_is_an_error() -> None:
    with pytest.raises(MigrationError, match="there is no package 'no_such_package'; install it, or check the name"):
        Service("no_such_package")


def test_unknown_package_before_a_dot_is_an_error() -> None:
    for name in ("no_such_package.orders", ".orders"):
        with pytest.raises(MigrationError, match=f"there is no package '{name}'"):
            Service(name)


def test_package_without_migrations_is_an_error() -> None:
    with pytest.raises(MigrationError, match=r"migrations/env\.py does not exist; see chassis/docs/migrations\.md"):
        Service("chassis")


@pytest.mark.parametrize(
    ("text", "error"),
    [('"""None."""', "has no class Base; define it"), ("Base = 3", "has no class Base"), (None, "does not exist")],
)
def test_tables_are_those_of_a_base_class(case: Case, text: str | None, error: str) -> None:
    if text is None:
        (case.ledger.package / "tables.py").unlink()
    else:
        case.ledger.write("tables.py", text)
    with pytest.raises(MigrationError, match=error):
        case.service.metadata()


def test_settings_without_a_database_are_an_error(case: Case) -> None:
    case.ledger.write("settings.py", "from chassis import ChassisSettings as Settings\n")
    with pytest.raises(MigrationError, match=r"has no class Settings\(ChassisSettings, DatabaseSettings\)"):
        case.service.settings()


def test_default_of_the_class_of_the_service_is_used(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("APP_DATABASE_URL")
    text = (case.ledger.package / "settings.py").read_text()
    default = f'    database_url: SecretStr = SecretStr("{URL}")\n'
    case.ledger.write("settings.py", text.replace("\n\nclass", "\nfrom pydantic import SecretStr\n\nclass") + default)
    assert case.service.settings().database_url.get_secret_value() == URL
