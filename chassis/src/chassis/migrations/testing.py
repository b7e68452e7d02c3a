"""Checks of a service's migrations, for its tests. Each needs the URL of an empty database."""

import asyncio

from sqlalchemy import Connection

from ..postgres.settings import DatabaseSettings
from . import commands
from .connection import connected
from .errors import MigrationError
from .service import MigrationSettings, Service

# One line for each part of the schema, without numbers of the catalogue. `alembic_version` belongs to Alembic.
SCHEMA = """
WITH names AS (
    SELECT pg_class.oid, format('%s.%s', nspname, relname) AS name, relkind
    FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
    WHERE nspname <> 'information_schema' AND nspname NOT LIKE 'pg\\_%' AND relname NOT LIKE 'alembic\\_version%'
), spaces AS (
    SELECT oid, nspname FROM pg_namespace WHERE nspname <> 'information_schema' AND nspname NOT LIKE 'pg\\_%'
)
SELECT format('relation %s (%s)', name, relkind) FROM names
UNION ALL SELECT format('column %s.%s %s%s%s%s', name, attname, format_type(atttypid, atttypmod),
    CASE WHEN attnotnull THEN ' not null' END, ' default ' || pg_get_expr(adbin, adrelid),
    nullif(' ' || attidentity::text || attgenerated::text, ' '))
    FROM names JOIN pg_attribute ON attrelid = names.oid AND attnum > 0 AND NOT attisdropped
    LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum WHERE relkind IN ('r', 'p', 'v', 'm')
UNION ALL SELECT format('constraint %s on %s: %s', conname, name, pg_get_constraintdef(pg_constraint.oid))
    FROM pg_constraint JOIN names ON names.oid = conrelid
UNION ALL SELECT format('index %s: %s', name, pg_get_indexdef(oid)) FROM names WHERE relkind IN ('i', 'I')
UNION ALL SELECT format('view %s: %s', name, pg_get_viewdef(oid)) FROM names WHERE relkind IN ('v', 'm')
UNION ALL SELECT format('trigger on %s: %s', name, pg_get_triggerdef(pg_trigger.oid))
    FROM pg_trigger JOIN names ON names.oid = tgrelid WHERE NOT tgisinternal
UNION ALL SELECT format('type %s.%s: %s', nspname, typname, string_agg(enumlabel, ', ' ORDER BY enumsortorder))
    FROM pg_type JOIN spaces ON spaces.oid = typnamespace JOIN pg_enum ON enumtypid = pg_type.oid
    GROUP BY nspname, typname
UNION ALL SELECT format('function %s.%s: %s', nspname, proname, pg_get_functiondef(pg_proc.oid))
    FROM pg_proc JOIN spaces ON spaces.oid = pronamespace WHERE prokind IN ('f', 'p')
    AND NOT EXISTS (SELECT FROM pg_depend WHERE objid = pg_proc.oid AND deptype = 'e')
UNION ALL SELECT format('schema %s', nspname) FROM spaces
UNION ALL SELECT format('extension %s', extname) FROM pg_extension
"""


def check_round_trips(package: str, url: str) -> None:
    """Apply and revert each migration. Raises `AssertionError` if a `downgrade` leaves something else than was there.

    `url` is that of an empty database. All migrations are applied to it at the end.
    """
    asyncio.run(_check_round_trips(Service(package), _settings(url)))


async def _check_round_trips(service: Service, settings: DatabaseSettings) -> None:
    script = service.script()
    revisions = [revision.revision for revision in reversed(list(script.walk_revisions()))]
    previous, before = "base", await _schema(settings)
    for revision in revisions:
        await commands.upgrade(service, settings, revision)
        upgraded = await _schema(settings)
        await commands.downgrade(service, settings, previous)
        _assert_equal(f"after downgrade() of revision {revision}", before, await _schema(settings))
        await commands.upgrade(service, settings, revision)
        _assert_equal(f"after a second upgrade() of revision {revision}", upgraded, await _schema(settings))
        previous, before = revision, upgraded


def _assert_equal(when: str, expected: frozenset[str], found: frozenset[str]) -> None:
    different = [f"+ {line}" for line in sorted(found - expected)] + [f"- {line}" for line in sorted(expected - found)]
    if different:
        raise AssertionError("\n".join((f"{when}, the schema differs:", *different)))


def check_agreement(package: str, url: str) -> None:
    """Apply all migrations. Raises `AssertionError` if the tables of the code differ from those of the database."""
    asyncio.run(_check_agreement(Service(package), _settings(url)))


async def _check_agreement(service: Service, settings: DatabaseSettings) -> None:
    service.script()
    await commands.upgrade(service, settings)
    try:
        await commands.compare(service, settings)
    except MigrationError as error:
        raise AssertionError(str(error)) from None


async def _schema(settings: DatabaseSettings) -> frozenset[str]:
    def read(connection: Connection) -> frozenset[str]:
        return frozenset(connection.exec_driver_sql(SCHEMA).scalars())

    async with connected(settings, "pytest") as connection:
        return await connection.run_sync(read)


def _settings(url: str) -> DatabaseSettings:
    return MigrationSettings.from_values(database_url=url)
