"""A small service with tables and migrations, made from files of the skeleton."""

import os
import shutil
import subprocess
from pathlib import Path

from .forked import run_forked

(SKELETON,) = Path(__file__).parents[3].glob("*cookiecutter.project_slug*/src/*cookiecutter.__package*")

SETTINGS = '''"""Settings."""

from chassis import ChassisSettings
from chassis.postgres import DatabaseSettings


class Settings(ChassisSettings, DatabaseSettings):
    """The settings of this service."""

    other: str
'''
ACCOUNTS = '''"""Accounts."""

from sqlalchemy import CheckConstraint
from sqlalchemy.orm import Mapped, mapped_column

from ..tables import Base


class Account(Base):
    """An account."""

    __tablename__ = "accounts"
    __table_args__ = (CheckConstraint("balance >= 0", name="positive"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    owner: Mapped[str] = mapped_column(index=True)
    balance: Mapped[int] = mapped_column(server_default="0")
'''


MIGRATION = '''"""Change {number}."""

from alembic import op

revision = "{number}"
down_revision = "{before}"


def upgrade() -> None:
    """Apply this migration."""
    {upgrade}


def downgrade() -> None:
    """Revert this migration."""
    {downgrade}
'''


class Ledger:
    """The folder of the service."""

    def __init__(self, folder: Path, name: str = "ledger") -> None:
        """`name` is that of the package. One that is imported by the tests themselves needs a name of its own."""
        self.folder = folder
        self.name = name
        self.package = folder / "src" / name
        self.package.mkdir(parents=True)
        shutil.copytree(SKELETON / "migrations", self.package / "migrations")
        for path in (self.package / "migrations/versions").glob("*.py"):
            if path.name != "0001_idempotency_keys.py":
                path.unlink()
        shutil.copy(SKELETON / "tables.py", self.package)
        self.write("__init__.py", '"""A service."""\n')
        self.write("settings.py", SETTINGS)

    @property
    def versions(self) -> Path:
        """The folder of the migrations."""
        return self.package / "migrations/versions"

    def write(self, name: str, text: str) -> Path:
        """Write a file of the package."""
        path = self.package / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    def add_migration(self, number: int, upgrade: str, downgrade: str = "pass") -> Path:
        """Add a migration whose functions have these bodies."""
        before = f"{number - 1:04d}"
        text = MIGRATION.format(number=f"{number:04d}", before=before, upgrade=upgrade, downgrade=downgrade)
        return self.write(f"migrations/versions/{number:04d}_change_{number}.py", text)

    def add_accounts(self) -> None:
        """Add a table that no migration has."""
        self.write("accounts/__init__.py", '"""Accounts."""\n')
        self.write("accounts/tables.py", ACCOUNTS)

    def environment(self, **variables: str) -> dict[str, str]:
        """The environment of its processes."""
        return {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(self.folder / "src"),
            "APP_LOG_FORMAT": "json",
            **variables,
        }

    def run(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run `python -m chassis.migrations` for it."""
        return run_forked(
            "chassis.migrations",
            *(self.name, *arguments),
            folder=self.folder,
            environment=self.environment(**variables),
        )
