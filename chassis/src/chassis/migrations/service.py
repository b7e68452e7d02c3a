"""The migrations of a service: where they are, its tables, its settings, and Alembic's configuration."""

import re
import sys
from argparse import Namespace
from collections import defaultdict
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from alembic.config import Config
from alembic.script import ScriptDirectory
from pydantic import create_model
from sqlalchemy import MetaData

from ..postgres.settings import DatabaseSettings
from ..settings import ChassisSettings, load_settings
from .errors import MigrationError

NUMBER = re.compile(r"(\d+)_")


class MigrationSettings(ChassisSettings, DatabaseSettings):
    """The settings that migrations need."""


class Service:
    """A package with the folder `migrations`, and modules that are called `tables`."""

    def __init__(self, package: str) -> None:
        """Raises `MigrationError` if there is no such package, or if it has no migrations."""
        try:
            spec = find_spec(package) if re.fullmatch(r"\w+(\.\w+)*", package) else None
        except ModuleNotFoundError:  # of the package before the dot
            spec = None
        if spec is None or spec.origin is None:
            raise MigrationError(f"there is no package {package!r}; install it, or check the name")
        self.package: str = package
        self.root: Path = Path(spec.origin).parent
        self.folder: Path = self.root / "migrations"
        self.versions: Path = self.folder / "versions"
        if not (self.folder / "env.py").is_file():
            raise MigrationError(f"{self.folder}/env.py does not exist; see chassis/docs/migrations.md")

    @property
    def command(self) -> str:
        """The command line of its migrations."""
        return f"python -m chassis.migrations {self.package}"

    def config(self, *, is_quiet: bool = False, **attributes: Any) -> Config:
        """Alembic's configuration. `attributes` are for the function that `env.py` calls."""
        config = Config(cmd_opts=Namespace(quiet=is_quiet))
        config.set_main_option("script_location", str(self.folder).replace("%", "%%"))
        config.set_main_option("path_separator", "os")
        config.set_main_option("file_template", "%%(rev)s_%%(slug)s")
        config.attributes.update(attributes)
        return config

    def script(self) -> ScriptDirectory:
        """The migrations. Raises `MigrationError` if they are not one line of revisions."""
        by_number = defaultdict[str, list[str]](list)
        for path in sorted(self.versions.glob("*.py")):
            if match := NUMBER.match(path.name):
                by_number[match[1]].append(path.name)
        for number, names in by_number.items():
            if len(names) > 1:
                following = self.next_number()
                raise MigrationError(
                    f"{' and '.join(names)} are both revision {number}; rename the later one to {following}_….py, and "
                    f"set revision = {following!r} and down_revision = {number!r} in it"
                )
        script = ScriptDirectory.from_config(self.config())
        heads = script.get_heads()
        if len(heads) > 1:
            names = [Path(script.get_revision(head).path).name for head in heads]
            raise MigrationError(f"{' and '.join(names)} are both the last migration; merge them: {self.command} merge")
        return script

    def next_number(self) -> str:
        """The number of the next migration, such as `0003`."""
        numbers = [int(match[1]) for path in self.versions.glob("*.py") if (match := NUMBER.match(path.name))]
        return f"{max(numbers, default=0) + 1:04d}"

    def metadata(self) -> MetaData:
        """The tables of the code: those of `tables.Base`, after all modules that are called `tables` are imported."""
        for path in sorted(self.root.rglob("tables.py")):
            parts = path.relative_to(self.root).with_suffix("").parts
            import_module(".".join((self.package, *parts)))
        module = f"{self.package}.tables"
        if module not in sys.modules:
            raise MigrationError(f"{self.root}/tables.py does not exist; define the class Base in it")
        metadata = getattr(getattr(sys.modules[module], "Base", None), "metadata", None)
        if not isinstance(metadata, MetaData):
            raise MigrationError(f"{module} has no class Base; define it: class Base(DeclarativeBase)")
        return metadata

    def settings(self) -> MigrationSettings:
        """The settings of the database, with the defaults of the service's class. Other settings may be missing.

        Exits with status 2 and a line for each invalid value.
        """
        module = f"{self.package}.settings"
        own = getattr(import_module(module), "Settings", None)
        if not (isinstance(own, type) and issubclass(own, ChassisSettings) and issubclass(own, DatabaseSettings)):
            raise MigrationError(
                f"{module} has no class Settings(ChassisSettings, DatabaseSettings); the URL is read from it"
            )
        fields: dict[str, Any] = {
            name: (own.model_fields[name].annotation, own.model_fields[name]) for name in DatabaseSettings.model_fields
        }
        return load_settings(create_model("Settings", __base__=MigrationSettings, **fields), warns=False)
