"""The command line: `python -m chassis.migrations <package> upgrade`."""

import argparse
import asyncio
import logging
import os
import signal
import sys
from collections.abc import Coroutine
from math import nan
from pathlib import Path
from typing import Any

import structlog
from alembic import command
from alembic.util import CommandError
from sqlalchemy.exc import SQLAlchemyError

from ..postgres import DatabaseError
from ..postgres.embedded import EmbeddedServerError, is_url_given, running_variables
from ..telemetry.logs import Logs
from . import commands
from .errors import MigrationError, explained
from .service import MigrationSettings, Service

INTERRUPTED = 128 + signal.SIGTERM
MAX_WAIT_SECONDS = 86_400.0


def main(arguments: list[str] | None = None) -> int:
    """Run a command. Returns the exit status: 0, 1 after an error, 2 for a wrong argument or setting."""
    options = _parser().parse_args(arguments)
    try:
        service = Service(options.package)
    except MigrationError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    try:
        return _run(service, options)
    except Exception as error:
        folder = service.versions
        if not isinstance(error, KNOWN) and not _is_from(error, folder):
            raise
        reason = explained(error, folder)
        if options.command in ("upgrade", "downgrade"):
            structlog.get_logger().error("migration failed", reason=reason)
        else:
            sys.stderr.write(f"error: {reason}\n")
        return 1


KNOWN = (MigrationError, DatabaseError, EmbeddedServerError, CommandError, SQLAlchemyError, SyntaxError, OSError)


def _is_from(error: Exception, folder: Path) -> bool:
    """Whether a file in `folder` raised the error."""
    traceback = error.__traceback__
    while traceback is not None:
        if Path(traceback.tb_frame.f_code.co_filename).parent == folder:
            return True
        traceback = traceback.tb_next
    return False


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m chassis.migrations", description=__doc__)
    parser.add_argument("package", help="the package of the service, such as order_service")
    commands_ = parser.add_subparsers(dest="command", required=True, metavar="command")
    up = commands_.add_parser("upgrade", help="apply migrations; repeating it is harmless")
    up.add_argument("revision", nargs="?", default="head", help="the last one to apply, by default the last of all")
    down = commands_.add_parser("downgrade", help="revert migrations")
    down.add_argument("revision", help="the last one to keep; base for none, -1 to revert one")
    for parser_ in (up, down):
        parser_.add_argument(
            "--wait-seconds",
            type=_seconds,
            default=commands.WAIT_SECONDS,
            help="how long to wait for another migration and for locks of tables (default: %(default)g)",
        )
    create = commands_.add_parser("new", help="create a migration from the differences between tables and database")
    create.add_argument("name", help="such as 'add customer'")
    create.add_argument("--empty", action="store_true", help="without statements, such as for a change of data")
    commands_.add_parser("merge", help="create a migration that follows two that are both the last one")
    sql = commands_.add_parser("sql", help="print the SQL of migrations, without a database")
    sql.add_argument("range", nargs="?", default="head", help="such as 0003:0005; by default all")
    commands_.add_parser("check", help="fail if the tables of the code and the migrations differ")
    commands_.add_parser("current", help="print the revision of the database")
    commands_.add_parser("history", help="print the migrations, the last one first")
    return parser


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = nan
    if not 0 <= seconds <= MAX_WAIT_SECONDS:
        raise argparse.ArgumentTypeError(f"{text} is not a number of seconds from 0 to {MAX_WAIT_SECONDS:g}")
    return seconds


def _run(service: Service, options: argparse.Namespace) -> int:
    match options.command:
        case "upgrade" | "downgrade":
            settings = _settings(service)
            _install_logs(settings)
            change = commands.upgrade if options.command == "upgrade" else commands.downgrade
            return _until_signal(change(service, settings, options.revision, wait_seconds=options.wait_seconds))
        case "new" | "merge":
            if options.command == "new":
                path = commands.new(service, options.name, is_empty=options.empty)
            else:
                path = commands.merge(service)
            if path is None:
                sys.stdout.write("the tables of the code and the migrations agree, so no migration was created\n")
            else:
                sys.stdout.write(f"{_short(path)} was created; review it, then run: make migrate\n")
        case "sql":
            service.script()
            command.upgrade(service.config(), options.range, sql=True)
        case "check":
            commands.check(service)
            sys.stdout.write("the tables of the code and the migrations agree\n")
        case "current":
            asyncio.run(commands.run_connected(service, _settings(service), command.current))
        case "history":
            command.history(service.config())
    return 0


def _settings(service: Service) -> MigrationSettings:
    """The settings of the database: the given one, else that of `make run`."""
    if not is_url_given():
        variables = running_variables()
        if variables is None:
            raise MigrationError(
                "APP_DATABASE_URL is not set, and the database of `make run` does not run; "
                "set APP_DATABASE_URL, or start the service, which applies the migrations"
            )
        os.environ |= variables
    return service.settings()


def _install_logs(settings: MigrationSettings) -> None:
    Logs(level=settings.log_level, format=settings.log_format, redact=settings.log_redact).install()
    logging.getLogger("alembic").setLevel(logging.WARNING)  # its lines repeat ours


def _until_signal(change: Coroutine[Any, Any, None]) -> int:
    """Run it until SIGTERM, which cancels the statement in progress and rolls its transaction back."""

    async def run() -> int:
        task = asyncio.ensure_future(change)
        is_terminated = False

        def terminate() -> None:
            nonlocal is_terminated
            is_terminated = True
            task.cancel()

        if sys.platform != "win32":
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, terminate)
        try:
            await task
        except asyncio.CancelledError:
            if not is_terminated:  # asyncio.run ends for another reason, such as SystemExit of a migration
                raise
            structlog.get_logger().warning("interrupted; the migration in progress was rolled back")
            return INTERRUPTED
        return 0

    try:
        return asyncio.run(run())
    except KeyboardInterrupt:
        structlog.get_logger().warning("interrupted; the migration in progress was rolled back")
        return 128 + signal.SIGINT


def _short(path: Path) -> Path:
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


if __name__ == "__main__":
    sys.exit(main())
