"""The guide "Migrations" is followed, in a generated service, with a real server."""

import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from bakery import TEMPLATE, render
from checks import check

GUIDE = (TEMPLATE / "chassis/docs/migrations.md").read_text()
PYTHON = Path(sys.executable)  # has the libraries; the environment of generated services does not


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A service with the table of the guide, and a migration for it."""
    project = render(tmp_path_factory.mktemp("guide"), {"database": "postgres"})
    (block,) = re.findall(r"```python\n +# customers/tables\.py\n(.*?)```", GUIDE, re.DOTALL)
    folder = project / "src/order_service/customers"
    folder.mkdir()
    (folder / "__init__.py").write_text('"""Customers."""\n')
    (folder / "tables.py").write_text(textwrap.dedent(block.rstrip(" ")))
    (message,) = re.findall(r"\$ make migration name='(.*)'\n +(.*)\n", GUIDE)
    assert migrations(project, "new", message[0]) == f"{message[1]}\n"
    return project


def migrations(project: Path, *arguments: str) -> str:
    """The output of a command."""
    command = [str(PYTHON), "-m", "chassis.migrations", "order_service", *arguments]
    done = subprocess.run(
        command,
        cwd=project,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": "src"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_tools_accept_the_code_and_its_migration(project: Path) -> None:
    check(project, PYTHON, ("ruff", "check", "src"), ("ruff", "format", "--check", "src"), ("mypy", "src"))


def test_tests_apply_and_revert_the_migration(project: Path) -> None:
    check(project, PYTHON, ("pytest", "-q", "-p", "no:cacheprovider", "tests/test_migrations.py"))


def test_sql_of_the_migration_is_printed(project: Path) -> None:
    sql = migrations(project, "sql", "0002:0003")
    assert sql.startswith("BEGIN;\n\n-- Running upgrade 0002 -> 0003\n\nCREATE TABLE customers (")
    assert "CONSTRAINT uq_customers_email UNIQUE (email)" in sql
    assert "created TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL" in sql


def test_index_of_the_guide_is_created_without_blocking_writes(project: Path) -> None:
    assert "0004_index" in migrations(project, "new", "--empty", "index")
    (path,) = (project / "src/order_service/migrations/versions").glob("0004_*")
    (block,) = re.findall(r"```python\n(def upgrade.*?)```", GUIDE, re.DOTALL)
    before, _, after = path.read_text().partition("def upgrade()")
    downgrade = (
        after[after.index("\n\n\ndef downgrade") :].rstrip() + '\n    op.drop_index("ix_orders_customer", "orders")\n'
    )
    path.write_text(before.replace("\n\nrev", "\n\nfrom alembic import op\n\nrev", 1) + block.rstrip() + downgrade)
    check(project, PYTHON, ("ruff", "check", "src"), ("ruff", "format", "--check", "src"))
    check(
        project,
        PYTHON,
        ("pytest", "-q", "-p", "no:cacheprovider", "tests/test_migrations.py", "-k", "reverted"),
    )
