"""The errors of migrations, each in one line."""

import traceback
from pathlib import Path

from alembic.util import CommandError
from sqlalchemy.exc import DBAPIError

from ..postgres import DatabaseError
from ..postgres.embedded import EmbeddedServerError

LOCK_TIMEOUT = "55P03"
DEADLOCK = "40P01"


class MigrationError(Exception):
    """A command of the migrations failed. Its text is one line for the person who called it."""


class AheadError(Exception):
    """The database has revisions that this code does not have."""

    def __init__(self, revisions: tuple[str, ...]) -> None:
        super().__init__(", ".join(revisions))
        self.revisions = revisions


def is_waiting(error: Exception) -> bool:
    """Whether another transaction has a lock that the migration needs, so that it may succeed later."""
    return isinstance(error, DBAPIError) and getattr(error.orig, "sqlstate", None) in (LOCK_TIMEOUT, DEADLOCK)


def explained(error: Exception, folder: Path) -> str:
    """The error in one line, with the file and line of the migration in `folder` that raised it."""
    if isinstance(error, (MigrationError, DatabaseError, EmbeddedServerError)):
        return str(error)
    if isinstance(error, CommandError) and error.__cause__ is None:
        return one_line(error)
    cause: BaseException = error
    if isinstance(error, DBAPIError) and error.orig is not None:
        # The error of asyncpg; that of SQLAlchemy repeats the statement and its values.
        cause = error.orig.__cause__ or error.orig
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename).parent == folder]
    place = f"{Path(frames[-1].filename).name}, line {frames[-1].lineno}: " if frames else ""
    return f"{place}{type(cause).__name__}: {one_line(cause)}"


def one_line(error: BaseException) -> str:
    """The first line of an error's text."""
    return (str(error).splitlines() or [""])[0]
