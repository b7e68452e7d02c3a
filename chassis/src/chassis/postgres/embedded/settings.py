"""The settings of a database: whether they are given, and those of the embedded server."""

from pathlib import Path

from ...settings import ChassisSettings, load_settings


class _UrlSettings(ChassisSettings):
    """The one setting that says whether there is a database."""

    database_url: str | None = None


def is_url_given() -> bool:
    """Whether `APP_DATABASE_URL` is set: in the environment, in `.env` or as a secret file."""
    return load_settings(_UrlSettings, warns=False).database_url is not None


def variables_of(url: str, password_file: Path) -> dict[str, str]:
    """The variables of the embedded server.

    They set each setting that says where the database is and how to connect to it. So those of another database, in
    `.env` or in secret files, are not used. An empty variable would not hide them.
    """
    return {
        "APP_DATABASE_URL": url,
        "APP_DATABASE_MIGRATION_URL": url,
        "APP_DATABASE_PASSWORD": password_file.read_text(encoding="utf-8"),
        "APP_DATABASE_PASSWORD_FILE": str(password_file),
        "APP_DATABASE_POOLER": "false",
        "APP_DATABASE_TLS": "disable",
    }
